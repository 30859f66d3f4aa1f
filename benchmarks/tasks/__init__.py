"""Tasks: a data set, a model and the recipe tuned for it at the base batch."""
