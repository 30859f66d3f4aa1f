"""Benchmarks' models: their sizes, and that they are those of the records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.tasks.convnet import ConvNet, patches
from benchmarks.tasks.gpt import GPT
from benchmarks.tasks.resnet import ResNet, group_norm, resnet18, resnet50

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(("size", "stride"), [(3, 2), (4, 4), (5, 3)])
def test_patches_times_a_matrix_is_a_convolution(size, stride):
    x = RNG.normal(size=(2, 13, 10, 3)).astype(np.float32)
    kernel = RNG.normal(size=(size, size, 3, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    windows = jax.jit(patches, static_argnums=(1, 2))(x, size, stride)
    result = windows @ kernel.reshape(-1, 4)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((32, 32, 3), 100)])
def test_the_conv_net_gives_logits(shape, classes):
    def logits():
        return ConvNet(shape, classes, rngs=nnx.Rngs(0))(jnp.zeros((2, *shape)))

    assert nnx.eval_shape(logits).shape == (2, classes)


def shapes(make):
    """Every parameter's shape, by its path."""
    state = nnx.state(nnx.eval_shape(make), nnx.Param)
    flat = nnx.to_flat_state(state)
    return {".".join(map(str, path)): leaf.shape for path, leaf in flat}


def size(make):
    return sum(int(np.prod(shape)) for shape in shapes(make).values())


def test_the_resnet_of_the_records_has_the_same_parameters():
    found = shapes(lambda: ResNet((28, 28, 1), 10, rngs=nnx.Rngs(0)))
    expected = {"stem.kernel": (3, 3, 1, 8)}
    expected |= {f"stem_norm.{name}": (8,) for name in ("bias", "scale")}
    for number, (before, after) in enumerate([(8, 8), (8, 16), (16, 32)]):
        block = f"blocks.{number}"
        expected[f"{block}.conv1.kernel"] = (3, 3, before, after)
        expected[f"{block}.conv2.kernel"] = (3, 3, after, after)
        expected[f"{block}.shortcut.kernel"] = (1, 1, before, after)
        for norm in ("norm1", "norm2"):
            expected |= {
                f"{block}.{norm}.{name}": (after,) for name in ("bias", "scale")
            }
    assert found == expected | {"out.kernel": (32, 10), "out.bias": (10,)}


def test_a_seed_gives_the_resnet_of_the_records():
    # As recorded at 60f55a0: whoever changes the order of the layers changes the runs.
    @jax.jit
    def first():
        model = ResNet((28, 28, 1), 10, rngs=nnx.Rngs(0))
        return model.stem.kernel[0, 0, 0, 0], model.out.kernel[0, 0]

    np.testing.assert_allclose(first(), [0.504487, -0.0283471], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "classes", "millions"), [(resnet18, 10, 11.17), (resnet50, 100, 23.71)]
)
def test_the_full_size_resnets_have_the_papers_sizes(make, classes, millions):
    count = size(lambda: make((32, 32, 3), classes, rngs=nnx.Rngs(0)))
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("make", [resnet18, resnet50])
def test_the_full_size_resnets_give_logits(make):
    def logits():
        model = make((32, 32, 3), 10, norm=group_norm, rngs=nnx.Rngs(0))
        return model(jnp.zeros((2, 32, 32, 3)))

    assert nnx.eval_shape(logits).shape == (2, 10)


def test_the_gpt_does_not_see_what_comes_later():
    @jax.jit
    def logits(x):
        return GPT(20, 8, rngs=nnx.Rngs(0), features=8, heads=2)(x)

    x = jnp.asarray(RNG.integers(0, 20, (2, 8)))
    one, other = logits(x), logits(x.at[:, 5].add(1))
    assert one.shape == (2, 8, 20)
    np.testing.assert_array_equal(one[:, :5], other[:, :5])
    assert (one[:, 5:] != other[:, 5:]).any(-1).all()
