r"""The rate of every layer, put together from its parts.

In: what each update measured. Out: the factor on every layer's update,

$$\eta(\text{clock}) \cdot \text{rule}(\text{estimate}_k, S) \cdot \text{warmup}_k$$

Seven choices are independent of each other: the learning rate and the clock it runs on,
the estimator, the rule, the warm-up, the guard and the loss limit. Every vector has a
row for each layer and, last, one for the whole model.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from optax_lena._checks import check_number, check_rate
from optax_lena._parts import returned
from optax_lena._parts.averages import Averages
from optax_lena._parts.clocks import Clocks, Count, check_clock
from optax_lena._parts.estimate import Measured
from optax_lena._parts.guard import SpikeLimit
from optax_lena._parts.loss_limit import LossLimit
from optax_lena._parts.rules import Rule, capped_gain, check_rule
from optax_lena._parts.state import Applied, LayerRateState
from optax_lena._parts.warmup import StateAwareWarmup, Worth


@dataclasses.dataclass(frozen=True)
class LayerRate:
    r"""How fast every layer learns: the parts of LENA, each of which can be replaced.

    `optax_lena.scale_by_layer_rate` makes a gradient transformation of it. An ablation
    is `dataclasses.replace(rate, guard=None)`; a part of your own is an object with the
    methods of the one it replaces (docs/extending.md).

    Attributes:
      learning_rate: η, a number, or a schedule of the clock. 1 leaves the rate to
        another transformation of the chain.
      clock: the name of what a schedule runs on: `"base_steps"`, the base batches seen;
        `"gain_steps"`, the sum of the whole model's gains (AdaScale); or
        `"rate_steps"`, the sum of what multiplied the whole model's rate. It is read
        before the update is counted. The base steps always go on, the others as long
        as one layer is finite.
      estimator: what makes an estimate of noise and signal out of single updates.
      rule: what makes a trust ratio out of the estimate.
      warmup: what multiplies the rate at first.
      guard: what cuts the trust ratios when something goes wrong; None: nothing.
      loss_limit: how much of the noise the rule sees, where updates are given the loss;
        None: all of it.

    Raises:
      ValueError: where a part does not fit its place.

    Example:
      >>> import optax, optax_lena
      >>> rate = optax_lena.LayerRate(
      ...     learning_rate=optax.cosine_decay_schedule(0.1, 6400),
      ...     rule=optax_lena.amplified_gain,
      ...     warmup=optax_lena.FixedWarmup(320),
      ...     guard=optax_lena.SpikeLimit(1.25),
      ... )
      >>> tx = optax.chain(
      ...     optax_lena.scale_by_layer_rate(rate, batch_scale=32), optax.scale(-1.0)
      ... )
    """

    learning_rate: Any = 1.0
    clock: str = "base_steps"
    estimator: Any = Averages()
    rule: Rule = capped_gain
    warmup: Any = StateAwareWarmup()
    guard: Any = None
    loss_limit: Any = None

    def __post_init__(self) -> None:
        """Checks the parts."""
        check_rate(self.learning_rate)
        check_clock(self.clock)
        check_rule(self.rule)
        _check_part("estimator", self.estimator, Averages(), ("init", "update", "read"))
        _check_part("warmup", self.warmup, StateAwareWarmup(), ("init", "update"))
        if self.guard is not None:
            _check_part("guard", self.guard, SpikeLimit(), ("init", "update"))
        if self.loss_limit is not None:
            methods = "init", "update", "read"
            _check_part("loss_limit", self.loss_limit, LossLimit(), methods)

    @property
    def needs_moments(self) -> bool:
        """Whether an update needs the moments of the gradient."""
        return (
            self.rule.needs_moments
            or getattr(self.warmup, "needs_moments", True)
            or self.guard is not None
            or self.clock != "base_steps"
        )

    @property
    def reads_loss(self) -> bool:
        """Whether a part may read the loss, where an update is given one."""
        return self.loss_limit is not None or self.guard is not None

    def init(self, num_rows: int) -> LayerRateState:
        """Returns the state before the first update.

        Args:
          num_rows: the layers, and one for the whole model.

        Returns:
          The state.
        """
        return LayerRateState(
            averages=self.estimator.init(num_rows),
            loss_limit=() if self.loss_limit is None else self.loss_limit.init(),
            guard=() if self.guard is None else self.guard.init(num_rows),
            progress=Count.zeros(num_rows),
            warmup_end=-jnp.ones(num_rows, jnp.float32),
            clocks=Clocks.zeros(),
            applied=Applied.nothing(num_rows, self._first_factor(num_rows)),
        )

    def update(self, state: LayerRateState, measured: Measured) -> LayerRateState:
        """Decides the rates of one update.

        Args:
          state: what the previous update returned.
          measured: what this update's moments say.

        Returns:
          The new state; the rates are its `applied.layer_rate`, `[rows]`.
        """
        scale, is_finite = measured.batch_scale, measured.is_finite
        averages = self.estimator.update(state.averages, measured)
        num_rows = len(is_finite)
        estimate = returned.estimate(self.estimator.read(averages), num_rows)
        gain = returned.vector("estimator", "one gain", estimate.gain(scale), num_rows)
        loss_limit, seen, noise_share = self._limit(state, estimate, measured.loss)
        ratio = self.rule.trust_ratio(seen, scale)
        ratio = returned.vector("rule", "one trust ratio", ratio, num_rows)
        ratio, guard, spike_factor = self._guarded(state.guard, ratio, measured)
        worth = Worth(gain, ratio, scale, is_finite)
        progress, factor = self._warmed_up(state.progress, worth)
        schedule = self._schedule(state.clocks)
        steps = {"gain_steps": gain[-1], "rate_steps": (ratio * factor)[-1]}
        steps = {name: jnp.where(is_finite[-1], x, 0) for name, x in steps.items()}
        clocks = state.clocks.add(base_steps=scale, **steps)
        has_ended = (state.warmup_end < 0) & (factor >= 1)
        layer_rate = schedule * ratio * factor
        return LayerRateState(
            averages,
            loss_limit,
            guard,
            progress,
            jnp.where(has_ended, clocks.base_steps.read(), state.warmup_end),
            clocks,
            Applied(
                noise=estimate.noise,
                signal=estimate.signal,
                noise_share=noise_share,
                gain=gain,
                trust_ratio=ratio,
                warmup_factor=factor,
                layer_rate=layer_rate,
                schedule=schedule,
                step_sq_norm=_step_sq_norm(layer_rate, measured),
                coherence=jnp.float32(measured.coherence),
                spike_factor=spike_factor,
                base_batches=scale,
            ),
        )

    def _schedule(self, clocks: Clocks) -> jax.Array:
        rate = evaluate(self.learning_rate, getattr(clocks, self.clock))
        return jnp.asarray(rate, jnp.float32)

    def _first_factor(self, num_rows: int) -> jax.Array:
        factor = self.warmup.init(num_rows)
        return returned.vector("warmup", "one factor", factor, num_rows)

    def _warmed_up(self, progress: Count, worth: Worth) -> tuple[Count, jax.Array]:
        """Returns the progress after an update, and the factors on its rates."""
        num_rows, new = len(worth.gain), self.warmup.update(progress, worth)
        progress, factor = returned.members("warmup", ("progress", "factors"), new)
        factor = returned.vector("warmup", "one factor", factor, num_rows)
        return returned.progress(progress, num_rows), factor

    def _guarded(
        self, state: Any, ratio: jax.Array, measured: Measured
    ) -> tuple[jax.Array, Any, jax.Array]:
        """Returns the ratios to train at, the guard's state, and a spike's factor."""
        if self.guard is None:
            return ratio, state, jnp.float32(1)
        new = self.guard.update(state, ratio, measured)
        names = "ratios", "state", "factor"
        cut, state, factor = returned.members("guard", names, new)
        cut = returned.vector("guard", "one trust ratio", cut, len(ratio))
        return cut, state, returned.scalar("guard", "the factor of a spike", factor)

    def _limit(
        self, state: LayerRateState, estimate: Any, loss: jax.Array | None
    ) -> tuple[Any, Any, jax.Array]:
        """Returns the limit's state, the estimate that the rule sees, and the share."""
        limit = state.loss_limit
        if self.loss_limit is None:
            return limit, estimate, jnp.float32(1)
        if loss is not None:
            limit = self.loss_limit.update(limit, loss)
        share = self.loss_limit.read(limit)
        share = returned.scalar("loss_limit", "the share of the noise", share)
        return limit, estimate._replace(noise=share * estimate.noise), share


def _step_sq_norm(layer_rate: jax.Array, measured: Measured) -> jax.Array:
    """Returns the squared length of the gradient at the layers' rates, `()`."""
    layers = measured.is_finite[:-1]
    # By the rate twice: its square may overflow where the product does not.
    sq_norms = layer_rate[:-1] * (layer_rate[:-1] * measured.sq_norms()[:-1])
    return jnp.sum(sq_norms, where=layers)


def evaluate(learning_rate: Any, clock: Count) -> Any:
    """Returns the rate at a clock's time, or the rate itself if it is no schedule."""
    if not callable(learning_rate):
        return learning_rate
    try:
        rate = learning_rate(clock.read())
    except (TypeError, ValueError, IndexError):
        # A schedule that indexes a table takes whole steps only, as optax counts them:
        # brackets, jnp.take and NumPy each raise another error.
        rate = learning_rate(clock.whole)
    meaning = "what the schedule returned"
    check_number("learning_rate", rate, meaning)
    return rate


def _check_part(name: str, part: Any, example: Any, methods: tuple[str, ...]) -> None:
    missing = [m for m in methods if not callable(getattr(part, m, None))]
    if missing or isinstance(part, type):
        raise ValueError(
            f"`{name}` must be an object such as optax_lena.{example!r}, or one of "
            f"your own with the methods {methods}, got {part!r}."
        )
