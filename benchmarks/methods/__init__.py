"""Methods: the ways to train at a larger batch; `registry.py` names them all."""
