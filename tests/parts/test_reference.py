"""Traces of the authors' own code (tests/golden): reference mode must replay them."""

import json
import pathlib

import numpy as np
import optax
import pytest

import optax_lena
from tests import helpers

FOLDER = pathlib.Path(__file__).parent / "golden"
TRACES = ["lena_w0", "lena_w2", "as_w2", "lsw_w1", "lsw_w2"]
RTOL = 1e-5


def load(name):
    with np.load(FOLDER / f"pub_mlp_S4_{name}.npz") as file:
        trace = dict(file)
    meta = json.loads(str(trace.pop("meta_json")))
    # Torch's names have dots; ours are paths.
    tree = lambda kind: {
        p.replace(".", "/"): trace[f"{kind}/{p}"] for p in meta["param_names"]
    }
    return trace, meta, tree


def warmup_arguments(meta):
    kinds = {
        0: {"warmup_steps": 0},
        1: {"warmup_steps": meta["warmup_steps"], "warmup": "fixed"},
        2: {"warmup_steps": meta["warmup_steps"], "warmup": "state_aware"},
    }
    return kinds[meta["warmup"]]


def alias(meta, method):
    schedule = lambda step: meta["base_lr"] * 0.01 ** (step / meta["total_steps"])
    factory = {
        "lena": optax_lena.lena,
        "as": optax_lena.adascale,
        "lsw": optax_lena.linear_scaling,
    }[method]
    return factory(
        schedule,
        meta["S"],
        momentum=meta["momentum"],
        weight_decay=meta["weight_decay"],
        reference=True,
        **({"clock": "base_steps"} if method == "as" else {}),
        **warmup_arguments(meta),
    )


def hand_written(meta, method):
    """What a user writes who chains optax's own parts with scale_by_lena."""
    is_lena, is_linear = method == "lena", method == "lsw"
    per_update = meta["S"] / meta["total_steps"]
    return optax.chain(
        optax.add_decayed_weights(meta["weight_decay"]),
        optax.trace(meta["momentum"]),
        optax_lena.scale_by_lena(
            meta["S"],
            layers=optax_lena.per_parameter if is_lena else optax_lena.whole_model,
            rule=optax_lena.linear if is_linear else optax_lena.capped_gain,
            reference=True,
            **warmup_arguments(meta),
        ),
        optax.scale_by_schedule(lambda t: -meta["base_lr"] * 0.01 ** (t * per_update)),
    )


@pytest.mark.parametrize("build", [alias, hand_written])
@pytest.mark.parametrize("name", TRACES)
def test_replays_the_authors_code(name, build):
    trace, meta, tree = load(name)
    method = name.split("_")[0]
    state, params, metrics = helpers.train(
        build(meta, method), tree("init"), tree("grad")
    )

    layers = [p.replace(".", "/") for (p, *_) in meta["groups"]]
    if method != "lena":
        layers = ["model"]
    table = lambda field: np.stack([metrics[f"{field}/{k}"] for k in layers], axis=1)
    close = lambda actual, key: np.testing.assert_allclose(
        actual, trace[key], rtol=RTOL, err_msg=key
    )

    if method != "lsw":  # its golden gain is S by definition; its rate is checked
        close(table("gain"), "scaling_factor")
    close(metrics["model/gain"], "grad_var")
    decay = meta["base_lr"] * trace["decay"][:, None]
    close(table("trust_ratio") * table("warmup_factor") * decay, "lr")
    if meta["warmup"] == 2:
        progress = table("progress")
        close(progress, "progress_after")
        close(
            np.vstack([np.zeros_like(progress[:1]), progress[:-1]]), "progress_before"
        )
    helpers.assert_trees_close(params, tree("param"), rtol=RTOL, atol=1e-7)
    momenta = optax.tree_utils.tree_get(state, "trace")
    helpers.assert_trees_close(momenta, tree("momentum_final"), rtol=RTOL, atol=1e-7)


def test_the_traces_reach_what_they_must_discriminate():
    """Layers that reach the cap and warm-ups that end: else a replay says little."""
    trace, meta, _ = load("lena_w2")
    assert (trace["scaling_factor"] > meta["S"]).any()
    assert (trace["progress_after"] > meta["warmup_steps"]).any()
    assert np.isclose(trace["lr"][0], 0).all()
