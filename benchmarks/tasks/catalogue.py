"""The catalogue of workloads: data, model and the recipe tuned for it, CPU-sized.

`python -m benchmarks.tune [FOLDER]` prints the grids below again.
"""

import dataclasses
from pathlib import Path

from benchmarks.tasks import folder as folders
from benchmarks.tasks.bytecode import byte_code
from benchmarks.tasks.convnet import ConvNet
from benchmarks.tasks.dataset import Dataset, hold_out
from benchmarks.tasks.gpt import GPT
from benchmarks.tasks.molecules import molecules
from benchmarks.tasks.perceptrons import MLP, CharMLP
from benchmarks.tasks.recipe import (
    ADAMW,
    CONSTANT,
    COSINE,
    EXPONENTIAL,
    MUON,
    Recipe,
    Workload,
    split_name,
)
from benchmarks.tasks.resnet import ResNet, batch_norm, group_norm
from benchmarks.tasks.text import source_text

# Validation accuracy in percent, 5 folds of the training set, 3 seeds:
#   rate      0.00625  0.0125  0.025  0.05
#   constant    97.17   97.63  98.05  96.94
#   cosine      97.33   97.68  98.10  97.40
# A cosine gains nothing at the best rate, so the simpler recipe stands.
DIGITS = Recipe(base_batch=8, learning_rate=0.025, schedule=CONSTANT, epochs=80)
# Fashion-MNIST, 8,000 images, the first of 5 folds, 3 seeds:
#   rate      0.0015625  0.003125  0.00625  0.0125  0.025   0.05
#   constant       82.5      82.9     82.7    80.2   73.7   32.9
#   cosine         82.9      84.0     84.9    84.6   82.5   50.8
IMAGES = Recipe(base_batch=8, learning_rate=0.00625, schedule=COSINE, epochs=8)


def digits(dataset: Dataset) -> Workload:
    """A 64-64-64-10 perceptron on the digits."""
    sizes = (dataset.x_train.shape[1], 64, 64, dataset.num_classes)
    return Workload(dataset, lambda rngs: MLP(sizes, rngs=rngs), DIGITS)


def images(dataset: Dataset) -> Workload:
    """A small convolutional network on images."""
    shape = dataset.x_train.shape[1:]
    return Workload(
        dataset,
        lambda rngs: ConvNet(shape, dataset.num_classes, rngs=rngs),
        IMAGES,
        eval_every=128,
    )


FASHION = Recipe(
    base_batch=8, learning_rate=0.0125, schedule=EXPONENTIAL, epochs=2.4576
)
TEXT = Recipe(base_batch=32, learning_rate=0.05, schedule=EXPONENTIAL, epochs=1.2288)
# In every table of `benchmarks.suite`.
BATCH_SCALES = (8, 16, 32, 64, 128)


# The length of the paper's runs: 76,800 steps. The rate stays that of the short recipe.
FASHION_LONG = dataclasses.replace(FASHION, epochs=12.288)


def resnet(
    folder: str | Path,
    *,
    validation: bool = False,
    norm: str = "batch",
    recipe: Recipe = FASHION,
    eval_every: int = 768,
) -> Workload:
    """A small residual network on a folder of images.

    Args:
      folder: as `folder.load` takes it.
      validation: measure on the validation set, to tune a recipe.
      norm: `"batch"` (over each microbatch) or `"group"`.
      recipe: tuned at the base batch.
      eval_every: base batches between two evaluations.
    """
    dataset = hold_out(folders.load(folder), validation=validation)
    shape, norms = dataset.x_train.shape[1:], {"batch": batch_norm, "group": group_norm}
    return Workload(
        dataset,
        lambda rngs: ResNet(shape, dataset.num_classes, norm=norms[norm], rngs=rngs),
        recipe,
        batch_scales=BATCH_SCALES,
        eval_every=eval_every,
        name=f"{dataset.name}, ResNet, {norm.capitalize()}Norm",
        split=split_name(validation),
    )


def text(*, validation: bool = False) -> Workload:
    """A perceptron that predicts the next character of Python source.

    Args:
      validation: measure on the validation files, to tune a recipe.
    """
    context = 10
    dataset = source_text(context, validation=validation)
    return Workload(
        dataset,
        lambda rngs: CharMLP(dataset.num_classes, context, rngs=rngs),
        TEXT,
        batch_scales=BATCH_SCALES,
        eval_every=768,
        name=f"{dataset.name}, perceptron",
        split=split_name(validation),
    )


# 15,360 steps. Validation accuracy in percent, 1 seed, of the rate, which alone was
# tuned:
#   rate  0.001  0.002  0.004  0.008
#          60.2   60.4   61.0   59.8
CHARACTERS = Recipe(
    base_batch=8,
    learning_rate=0.004,
    schedule=EXPONENTIAL,
    epochs=0.3072,
    weight_decay=0.1,
    optimizer=ADAMW,
)


# The same with Muon. Validation accuracy in percent, 1 seed, by
# `python -m benchmarks.train gpt_muon base 1 --validation --rate RATE`:
#   rate  0.001  0.002  0.004  0.008
#         60.63  61.15  61.08  60.71
MUON_CHARACTERS = dataclasses.replace(
    CHARACTERS, learning_rate=0.002, momentum=0.95, optimizer=MUON
)
# Twice the rate is level with it at S = 1, and not at large S.
MUON_CHARACTERS_TWICE = dataclasses.replace(MUON_CHARACTERS, learning_rate=0.004)


def gpt(*, validation: bool = False, recipe: Recipe = CHARACTERS) -> Workload:
    """A small GPT on Python source: every character of 32 has the next as its label.

    Args:
      validation: measure on the validation files, to tune a recipe.
      recipe: tuned at the base batch.
    """
    context = 32
    dataset = source_text(context, sequences=True, validation=validation, num_test=2000)
    return Workload(
        dataset,
        lambda rngs: GPT(dataset.num_classes, context, rngs=rngs),
        recipe,
        batch_scales=BATCH_SCALES,
        eval_every=768,
        name=f"{dataset.name}, GPT",
        split=split_name(validation),
    )


# Likewise, by `python -m benchmarks.train molecules base 1 --validation --rate RATE`:
#   rate  0.001  0.002  0.004  0.008
#         69.19  69.58  69.36  69.03
MOLECULES = dataclasses.replace(CHARACTERS, learning_rate=0.002)


def molecule_gpt(folder: str | Path, *, validation: bool = False) -> Workload:
    """The same GPT on the strings of molecules.

    Args:
      folder: with the files of MOSES, or the wheel that holds them.
      validation: measure on molecules held out of the training set.
    """
    context = 32
    dataset = molecules(folder, context, validation=validation)
    return Workload(
        dataset,
        lambda rngs: GPT(dataset.num_classes, context, rngs=rngs),
        MOLECULES,
        batch_scales=BATCH_SCALES,
        eval_every=768,
        name=f"{dataset.name}, GPT",
        split=split_name(validation),
    )


# 15,360 steps. Validation accuracy in percent, 1 seed, of the rate, which alone was
# tuned, by `python -m benchmarks.train bytecode base 1 --validation --rate RATE`:
#   rate  0.0125  0.025  0.05   0.1   0.2
#           56.0   57.9  57.3  57.7  56.2
BYTECODE = Recipe(
    base_batch=32, learning_rate=0.025, schedule=EXPONENTIAL, epochs=1.2288
)


def bytecode(*, validation: bool = False) -> Workload:
    """A perceptron that predicts the next operation of Python's byte code.

    Args:
      validation: measure on the validation files, to tune a recipe.
    """
    context = 8
    dataset = byte_code(context, validation=validation)
    return Workload(
        dataset,
        lambda rngs: CharMLP(dataset.num_classes, context, rngs=rngs),
        BYTECODE,
        batch_scales=BATCH_SCALES,
        eval_every=768,
        name=f"{dataset.name}, perceptron",
        split=split_name(validation),
    )
