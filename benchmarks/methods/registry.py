"""The registry: every method by name, and which of them are compared with each other.

A new method is an entry of `sgd.py`, `adamw.py`, `muon.py` or `ablations.py`; it is
then a choice of every program.
"""

from benchmarks.methods.ablations import ABLATIONS
from benchmarks.methods.adamw import ADAMW_ABLATIONS, ADAMW_METHODS
from benchmarks.methods.muon import MUON_ABLATIONS, MUON_METHODS
from benchmarks.methods.sgd import SGD_METHODS

METHODS = SGD_METHODS | ADAMW_METHODS | MUON_METHODS
METHODS = METHODS | ABLATIONS | ADAMW_ABLATIONS | MUON_ABLATIONS

# What a newcomer's demo compares.
OF_DEMO = ("linear", "adascale", "lena", "lena_amplified")
# What the paper compares, and the recommended optimizer.
OF_LONG = ("base", "linear", "adascale_warmup", "lena", "lena_amplified")
OF_SGD = tuple(SGD_METHODS)
# LAMB is re-tuned here as in the tables of SGD: it takes no rate from the recipe.
OF_ADAMW = ("base", *ADAMW_METHODS, "lamb_tuned")
OF_MUON = ("base", *MUON_METHODS)
OF_ADAMW_ABLATION = tuple(ADAMW_ABLATIONS)
OF_MUON_ABLATION = tuple(MUON_ABLATIONS)
# The rows of an ablation; where a row takes minutes, only those that matter most.
OF_ABLATION = (
    "base",
    "lena_amplified",
    "lena",
    "lena_no_warmup",
    "linear_state_aware",
    "adascale",
    *ABLATIONS,
)
OF_SHORT_ABLATION = (
    "base",
    "lena_amplified",
    "lena",
    "amplified_by_1",
    "amplified_no_limit",
    "amplified_behind",
    "amplified_no_warmup",
    "amplified_state_aware",
    "amplified_base_clock",
    "amplified_absolute",
    "amplified_whole_model",
    "amplified_by_4",
    "amplified_by_16",
    "amplified_linear",
    "amplified_first",
    "amplified_by_4_1000",
    "amplified_by_8_300",
)
