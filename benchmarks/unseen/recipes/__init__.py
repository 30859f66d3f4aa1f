"""Recipes other than those of the small tasks, as users bring them along.

Eight tasks on which no rule was chosen, named before the first run, each with the base
rate that is the best at S = 1 of itself, its half and its double.
"""

from benchmarks.unseen.recipes import adamw, sgd

OF_SGD = {
    f"sgd_{name}": recipe.family(f"recipe_{name}")
    for name, recipe in sgd.RECIPES.items()
}
OF_ADAMW = {
    f"adamw_{name}": recipe.family(f"recipe_adamw_{name}")
    for name, recipe in adamw.RECIPES.items()
}
FAMILIES = OF_SGD | OF_ADAMW
