"""Figures of layers: what is drawn, what is refused, and without Matplotlib."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_lena
from optax_lena import plotting


def history_of(layers: int, steps: int = 5) -> dict[str, jax.Array]:
    """Metrics of a small run, stacked by `lax.scan`."""
    params = {f"layer{i:02}": jnp.zeros(3) for i in range(layers)}
    tx = optax_lena.lena(0.1, batch_scale=4, warmup_steps=10)

    def step(state, key):
        noise = jax.random.normal(key, (4, 3))
        stack = {name: 1 + i * noise for i, name in enumerate(params)}
        grads, moments = optax_lena.moments_from_stack(stack)
        _, state = tx.update(grads, state, params, moments=moments)
        return state, optax_lena.metrics(state)

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.lax.scan(step, tx.init(params), keys)[1]


@pytest.mark.parametrize("field", plotting.FIELD_LABELS)
def test_one_line_per_layer_for_every_field(field):
    history = history_of(2)
    ax = plotting.plot_layers(history, field)
    assert [line.get_label() for line in ax.lines] == ["layer00", "layer01"]
    for line in ax.lines:
        np.testing.assert_array_equal(line.get_xdata(), history["model/base_steps"])
        y = history[f"{field}/{line.get_label()}"]
        np.testing.assert_array_equal(line.get_ydata(), y)
    assert ax.get_ylabel() == plotting.FIELD_LABELS[field]


def test_every_reported_field_has_a_label():
    assert set(plotting.FIELD_LABELS) == set(plotting.LAYER_FIELDS)


def test_many_layers_get_a_colour_bar_and_the_figure_saves(tmp_path):
    ax = plotting.plot_layers(history_of(12), "trust_ratio", clock="gain_steps")
    assert len(ax.lines) == 12
    assert ax.get_legend() is None
    assert len(ax.figure.axes) == 2
    ax.figure.savefig(tmp_path / "layers.png")


def test_draws_on_given_axes_and_names_the_legend_from_top_to_bottom():
    ax = plotting.Figure().subplots()
    assert plotting.plot_layers(history_of(3), "gain", ax=ax) is ax
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    last = {line.get_label(): line.get_ydata()[-1] for line in ax.lines}
    assert names == sorted(last, key=lambda name: -last[name])


def test_layers_of_several_states_keep_their_labels():
    one = history_of(1)
    two = {f"{label}/{k}": v for label in "ab" for k, v in one.items()}
    ax = plotting.plot_layers(two, "gain")
    assert [line.get_label() for line in ax.lines] == ["a/layer00", "b/layer00"]


def test_a_single_time_is_a_marker():
    history = {key: value[-1] for key, value in history_of(1).items()}
    (line,) = plotting.plot_layers(history, "gain").lines
    assert line.get_marker() == "o"


@pytest.mark.parametrize(
    ("history", "kwargs", "message"),
    [
        ({}, {"field": "gains"}, "`field` must be one of"),
        ({}, {"clock": "updates"}, "`clock` must be one of"),
        ({"loss": np.zeros(3)}, {}, r"`history` must hold .* got \['loss'\]"),
        (
            {"model/base_steps": np.zeros(0), "trust_ratio/w": np.zeros(0)},
            {},
            "`history` must hold one time or more, got empty arrays",
        ),
    ],
)
def test_errors_say_what_is_allowed(history, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plotting.plot_layers(history, **kwargs)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "optax_lena.plotting")
    with pytest.raises(ImportError, match=r"pip install 'optax_lena\[plot\]'"):
        importlib.import_module("optax_lena.plotting")
