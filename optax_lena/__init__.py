"""LENA for optax: layer-wise adaptive rates for large-batch training.

Keep the recipe of the small batch and change one number (`batch_scale`). In the order
in which data flow: what one layer is, the moments of its gradient, how they are
gathered, the parts that make up a rate, the transformation, the optimizers, reports.
"""

import importlib
import typing

from optax_lena._measure.layers import Layers as Layers
from optax_lena._measure.layers import by_regex as by_regex
from optax_lena._measure.layers import per_module as per_module
from optax_lena._measure.layers import per_parameter as per_parameter
from optax_lena._measure.layers import stacked as stacked
from optax_lena._measure.layers import whole_model as whole_model
from optax_lena._measure.metric import Metric as Metric
from optax_lena._measure.moments import GradMoments as GradMoments
from optax_lena._measure.sums import IncrementalMoments as IncrementalMoments
from optax_lena._gather.stack import moments_from_stack as moments_from_stack
from optax_lena._gather.over_axis import moments_over_axis as moments_over_axis
from optax_lena._gather.value_and_grad import value_and_grad as value_and_grad
from optax_lena._gather.accumulate import accumulate as accumulate
from optax_lena._gather.successive import (
    from_successive_gradients as from_successive_gradients,
)
from optax_lena._parts.estimate import Estimate as Estimate
from optax_lena._parts.averages import Averages as Averages
from optax_lena._parts.rules import Rule as Rule
from optax_lena._parts.rules import amplified_gain as amplified_gain
from optax_lena._parts.rules import capped_gain as capped_gain
from optax_lena._parts.rules import linear as linear
from optax_lena._parts.rules import square_root_gain as square_root_gain
from optax_lena._parts.normalised import normalised_gain as normalised_gain
from optax_lena._parts.loss_limit import LossLimit as LossLimit
from optax_lena._parts.guard import GrowthLimit as GrowthLimit
from optax_lena._parts.guard import SpikeLimit as SpikeLimit
from optax_lena._parts.backoff import Backoff as Backoff
from optax_lena._parts.warmup import FixedWarmup as FixedWarmup
from optax_lena._parts.warmup import StateAwareWarmup as StateAwareWarmup
from optax_lena._parts.layer_rate import LayerRate as LayerRate
from optax_lena._parts.memory import decay_at as decay_at
from optax_lena._transform.state import ScaleByLenaState as ScaleByLenaState
from optax_lena._transform.scale_by_lena import (
    scale_by_layer_rate as scale_by_layer_rate,
)
from optax_lena._transform.scale_by_lena import scale_by_lena as scale_by_lena
from optax_lena._transform.scale_by_adam import scale_by_adam as scale_by_adam
from optax_lena._transform.adam_preconditioner import (
    adam_preconditioner as adam_preconditioner,
)
from optax_lena._transform.monitor import monitor as monitor
from optax_lena._optimizers.adascale import adascale as adascale
from optax_lena._optimizers.lena import lena as lena
from optax_lena._optimizers.lena_adamw import lena_adamw as lena_adamw
from optax_lena._optimizers.lena_amplified import lena_amplified as lena_amplified
from optax_lena._optimizers.lena_lars import lena_lars as lena_lars
from optax_lena._optimizers.lena_muon import lena_muon as lena_muon
from optax_lena._optimizers.linear_scaling import linear_scaling as linear_scaling
from optax_lena._reports.report import layer_report as layer_report
from optax_lena._reports.report import metrics as metrics
from optax_lena._processes import assert_same_on_processes as assert_same_on_processes
from optax_lena._advice.curve import Curve as Curve
from optax_lena._advice.curve import fit_curve as fit_curve
from optax_lena._advice.branch import BranchTest as BranchTest
from optax_lena._advice.branch import branch_test as branch_test
from optax_lena._advice.advice import Advice as Advice
from optax_lena._advice.advice import advise as advise
from optax_lena._advice.schedule import BatchSchedule as BatchSchedule
from optax_lena._advice.ramp import BatchRamp as BatchRamp
from optax_lena._advice.seesaw import seesaw as seesaw
from optax_lena._advice.configs import levanter_config as levanter_config
from optax_lena._advice.configs import maxtext_config as maxtext_config

__version__ = "0.1.0"


if typing.TYPE_CHECKING:  # a type checker then finds names that are misspelt
    from optax_lena import flax as flax
    from optax_lena import plotting as plotting
else:

    def __getattr__(name):
        """Imports `optax_lena.flax` and `optax_lena.plotting` at their first use."""
        if name in ("flax", "plotting"):
            return importlib.import_module(f"optax_lena.{name}")
        raise AttributeError(f"module 'optax_lena' has no attribute {name!r}")
