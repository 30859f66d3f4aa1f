"""Recipes other than those of the small tasks, as users bring them along.

Eight tasks on which no rule was chosen, named before the first run, each with the base
rate that is the best at S = 1 of itself, its half and its double.
"""

from benchmarks.unseen.recipes.adamw import RECIPES as _ADAMW
from benchmarks.unseen.recipes.sgd import RECIPES as _SGD

OF_SGD = {f"sgd_{name}": recipe.family(name) for name, recipe in _SGD.items()}
OF_ADAMW = {f"adamw_{name}": recipe.family(name) for name, recipe in _ADAMW.items()}
FAMILIES = OF_SGD | OF_ADAMW
