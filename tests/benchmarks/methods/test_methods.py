"""Methods: that each takes its recipe, and what each makes of a gradient."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from benchmarks.methods.makers import at_scale, composed
from benchmarks.methods.rates import AMPLIFIED, LENA
from benchmarks.methods.registry import (
    METHODS,
    OF_ADAMW,
    OF_ADAMW_ABLATION,
    OF_MUON,
    OF_MUON_ABLATION,
)
from benchmarks.tasks.catalogue import CHARACTERS, DIGITS, MUON_CHARACTERS
from benchmarks.tasks.dataset import Dataset
from benchmarks.tasks.gpt import GPT
from benchmarks.tasks.recipe import CONSTANT, EXPONENTIAL, Workload
from benchmarks.training import loop
from benchmarks.training.plan import Config
from tests import helpers

RNG = np.random.default_rng(0)


def tiny_gpt():
    x = RNG.integers(0, 20, (64, 9), np.int32)
    dataset = Dataset("toy", 20, x[:, :-1], x[:, 1:], x[:8, :-1], x[:8, 1:])
    recipe = dataclasses.replace(CHARACTERS, base_batch=2, epochs=2)

    def make(rngs):
        return GPT(20, 8, rngs=rngs, features=8, heads=2, layers=1)

    return Workload(dataset, make, recipe, eval_every=16)


@pytest.mark.slow
def test_lena_adamw_trains_a_gpt_on_the_gradient_as_adam_divides_it():
    config = Config("lena_adamw", 4, seeds=(0,))
    (own,) = loop.run(tiny_gpt(), config)
    assert len(own.updates) == 4 and np.isfinite(own.train_loss).all()
    # Adam's first five updates are not measured: one evaluation is four updates.
    ratios = [values for key, values in own.layers.items() if "trust_ratio" in key]
    assert {values[0] for values in ratios} == {1.0}
    assert all(1 < values[-1] <= 3 for values in ratios)


def test_a_method_of_sgd_refuses_a_recipe_of_adamw():
    with pytest.raises(ValueError, match="recipes of 'sgd', got one of 'adamw'"):
        METHODS["lena"].make(CHARACTERS, 4, 100)
    with pytest.raises(ValueError, match="recipes of 'adamw', got one of 'sgd'"):
        METHODS["lena_adamw"].make(DIGITS, 4, 100)


@pytest.mark.parametrize("method", OF_ADAMW)
def test_every_method_of_the_gpt_takes_its_recipe(method):
    tx = METHODS[method].make(CHARACTERS, 4, 100)
    jax.eval_shape(tx.init, {"w": jnp.zeros((2, 2))})


@pytest.mark.parametrize(("power", "method"), [(1, "linear"), (0.5, "square_root")])
def test_adamw_is_scaled_by_a_power_and_warmed_up(power, method):
    recipe = dataclasses.replace(CHARACTERS, schedule=CONSTANT)
    recipe = dataclasses.replace(recipe, weight_decay=0.0)
    tx = METHODS[f"adamw_{method}"].make(recipe, 4, 400)  # 20 steps, 5 updates
    params = jnp.ones(())
    state, found = tx.init(params), []
    for _ in range(7):
        update, state = tx.update(jnp.ones(()), state, params)
        found.append(float(update))
    factor = np.array([0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    expected = -recipe.learning_rate * 4**power * factor
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def updates_of(tx, turn=1, *, loss_rises=True):
    """What an optimizer does with gradients that grow, one of them a spike.

    Each is turned against the one before if `turn` is -1. One layer is noisier than the
    other, and both are less and less so. The loss rises with the gradients, or stays.
    """
    params = {"calm": jnp.ones(3), "noisy": jnp.full((2, 2), 0.5)}

    @jax.jit
    def step(state, size, sign, noise):
        grads = jax.tree.map(lambda leaf: sign * size * leaf, params)
        norms = {name: jnp.sum(leaf**2) for name, leaf in grads.items()}
        shares = {"calm": 1 + noise, "noisy": 1 + 8 * noise}
        micro = {name: shares[name] * norm for name, norm in norms.items()}
        moments = optax_lena.GradMoments(micro, norms, jnp.asarray(16))
        loss = size if loss_rises else 1.0
        return tx.update(grads, state, params, moments=moments, value=loss)

    state, found = tx.init(params), []
    for number in range(8):
        size = 3.0 if number == 3 else 1.0 + number / 10
        updates, state = step(state, size, turn**number, 1 / (1 + number))
        found += jax.tree.leaves(updates)
    return np.concatenate([np.ravel(leaf) for leaf in found])


@pytest.mark.parametrize(
    ("composition", "optimizer"),
    [("lena", optax_lena.lena), ("amplified", optax_lena.lena_amplified)],
)
def test_the_composition_of_an_ablation_is_the_optimizer(composition, optimizer):
    rate = {"lena": LENA, "amplified": AMPLIFIED}[composition]
    recipe = dataclasses.replace(DIGITS, weight_decay=1e-3)
    is_amplified = composition == "amplified"
    own = composed(rate, enters_buffer=is_amplified, counts_examples=is_amplified)
    one, other = (make(recipe, 16, 640) for make in (own, at_scale(optimizer)))
    # Steps that agree lift the limit of `lena_amplified`, which a chain cannot compare.
    one, other = (updates_of(tx, turn=-1) for tx in (one, other))
    np.testing.assert_allclose(one, other, rtol=1e-5)


@helpers.PLAIN_MOMENTS
def test_the_ablations_of_adamw_start_from_lena_adamw_and_differ():
    recipe = dataclasses.replace(CHARACTERS, weight_decay=1.0)
    names = ["lena_adamw", *OF_ADAMW_ABLATION]
    # They were recorded before it backed off, which it does where the loss rises.
    made = {name: METHODS[name].make(recipe, 16, 640) for name in names}
    found = {name: updates_of(tx, loss_rises=False) for name, tx in made.items()}
    own = found.pop("lena_adamw")
    np.testing.assert_allclose(found["lena_adamw_b1_b2_by_examples"], own, rtol=1e-5)
    pairs = itertools.combinations(found.values(), 2)
    assert not any(np.allclose(*pair, 1e-5, 0) for pair in pairs)


def test_adamw_with_memories_by_examples_has_the_floor_of_its_momentum():
    """The second of two opposite gradients, of which the first is 0.8 by then."""
    tx = METHODS["adamw_transferred"].make(CHARACTERS, 16, 16 * 20)
    state = tx.init(jnp.zeros(()))
    _, state = tx.update(jnp.ones(()), state, jnp.zeros(()))
    update, _ = tx.update(-jnp.ones(()), state, jnp.zeros(()))
    mean = (0.8 * 0.2 - 0.2) / (1 - 0.8**2)
    rate = CHARACTERS.rate(320)(16) * 4  # past the warm-up
    np.testing.assert_allclose(update, -rate * mean, rtol=1e-4)


@pytest.mark.slow
@helpers.PLAIN_MOMENTS
def test_the_methods_of_muon_differ_from_each_other():
    # A gain for the model grows as those of layers do for the first updates.
    left_out = ("base", "muon_tuned", "lena_muon_whole_model")
    names = [name for name in OF_MUON if name not in left_out]
    recipe = dataclasses.replace(MUON_CHARACTERS, schedule=EXPONENTIAL)
    found = {n: updates_of(METHODS[n].make(recipe, 16, 640)) for n in names}
    assert all(np.isfinite(values).all() for values in found.values())
    pairs = itertools.combinations(found, 2)
    assert [p for p in pairs if np.allclose(*map(found.get, p), 1e-5, 0)] == []
    with pytest.raises(ValueError, match="recipes of 'muon', got one of 'adamw'"):
        METHODS["lena_muon"].make(CHARACTERS, 4, 100)


@pytest.mark.slow
def test_the_methods_of_sgd_differ_from_each_other():
    muon = {*OF_MUON, *OF_MUON_ABLATION}
    others = {*OF_ADAMW, *OF_ADAMW_ABLATION, *muon} - {"base"}
    names = [name for name in METHODS if name not in others]
    # A schedule, since only then do clocks differ, and a warm-up that ends.
    recipe = dataclasses.replace(DIGITS, schedule=EXPONENTIAL)
    found = {name: updates_of(METHODS[name].make(recipe, 16, 640)) for name in names}
    for name, values in found.items():
        assert np.isfinite(values).all() and (values[-7:] < 0).all(), name
    pairs = itertools.combinations(found, 2)
    same = [pair for pair in pairs if np.allclose(*map(found.get, pair), 1e-5, 0)]
    assert same == []
