"""Traces of the authors' own code (tests/golden): reference mode must replay them."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optax_lena

FOLDER = pathlib.Path(__file__).parent / "golden"
RTOL = 1e-5


def load(name):
    with np.load(FOLDER / f"pub_mlp_S4_{name}.npz") as file:
        trace = dict(file)
    meta = json.loads(str(trace.pop("meta_json")))
    # Torch's names have dots; ours are paths.
    tree = lambda kind: {
        p.replace(".", "/"): jnp.asarray(trace[f"{kind}/{p}"])
        for p in meta["param_names"]
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
@pytest.mark.parametrize("name", ["lena_w0", "lena_w2", "as_w2", "lsw_w1", "lsw_w2"])
def test_replays_the_authors_code(name, build):
    trace, meta, tree = load(name)
    method = name.split("_")[0]
    tx = build(meta, method)
    params, stacks, expected = tree("init"), tree("grad"), tree("param")

    @jax.jit
    def update(params, state, stack):
        grads, moments = optax_lena.moments_from_stack(stack)
        updates, state = tx.update(grads, state, params, moments=moments)
        return optax.apply_updates(params, updates), state

    def rows_of(state):
        report = optax_lena.layer_report(state)
        order = [".".join(p).replace(".", "/") for p in meta["groups"]]
        return [report[name if name in report else "model"] for name in order]

    column = lambda field, rows: [row[field] for row in rows]
    state = tx.init(params)
    for t in range(meta["T"]):
        stack = {p: g[t] for p, g in stacks.items()}
        before = rows_of(state)
        params, state = update(params, state, stack)
        report = rows_of(state)

        for p, value in params.items():
            np.testing.assert_allclose(
                value, expected[p][t], rtol=RTOL, atol=1e-7, err_msg=f"{p}, update {t}"
            )
        rate = np.multiply(column("trust_ratio", report), column("warmup_factor", report))
        rate *= meta["base_lr"] * trace["decay"][t]
        np.testing.assert_allclose(rate, trace["lr"][t], rtol=RTOL)
        if method != "lsw":  # its golden gain is S by definition; its rate is checked
            gain = column("gain", report)
            np.testing.assert_allclose(gain, trace["scaling_factor"][t], rtol=RTOL)
        model_gain = optax_lena.metrics(state)["model/gain"]
        np.testing.assert_allclose(model_gain, trace["grad_var"][t], rtol=RTOL)
        if meta["warmup"] == 2:
            for rows, moment in ((before, "before"), (report, "after")):
                np.testing.assert_allclose(
                    column("progress", rows), trace[f"progress_{moment}"][t], rtol=RTOL
                )


def test_the_traces_reach_what_they_must_discriminate():
    """Some layers reach the cap and some end their warm-up, else a replay says little."""
    trace, meta, _ = load("lena_w2")
    assert (trace["scaling_factor"] > meta["S"]).any()
    assert (trace["progress_after"] > meta["warmup_steps"]).any()
    assert np.isclose(trace["lr"][0], 0).all()
