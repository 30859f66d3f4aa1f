"""Figures of a run, from metrics.jsonl: the losses, and every layer's trust ratio."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import optax_lena.plotting
from examples.pod_training import log

matplotlib.use("agg")


def draw(folder: Path) -> list[Path]:
    """Draws what the folder's metrics hold; returns the files."""
    rows = log.read(folder / "metrics.jsonl")
    trained = [row for row in rows if "loss" in row]
    tested = [row for row in rows if "test_loss" in row]
    if not trained:
        return []
    losses, ratios = Figure(layout="constrained"), Figure(layout="constrained")
    axes = losses.add_subplot()
    for name, found in (("loss", trained), ("test_loss", tested)):
        x, y = ([row[field] for row in found] for field in ("base_steps", name))
        axes.plot(x, y, label=name.replace("_", " "))
    axes.set(xlabel="base-batch steps", ylabel="nats per byte")
    axes.legend(frameon=False)
    history = {name: np.array([row[name] for row in trained]) for name in trained[0]}
    optax_lena.plotting.plot_layers(history, ax=ratios.add_subplot())
    paths = [folder / "losses.png", folder / "trust_ratios.png"]
    for figure, path in zip((losses, ratios), paths, strict=True):
        figure.savefig(path, dpi=150)
    return paths
