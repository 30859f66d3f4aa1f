"""Recipes of momentum SGD."""

import dataclasses

import optax

import optax_lena
from benchmarks.methods.makers import buffer_of
from benchmarks.methods.rates import (
    AMPLIFIED,
    ARITHMETIC_LIMIT,
    CUT_TO_BASE,
    FIRST_AMPLIFIED,
    FIRST_LOSS,
    LENA,
    LIMIT_OF_START,
    NO_LOSS_LIMIT,
    REMEMBERED_AMPLIFIED,
    ROOT_OF_SCALE,
    WARMUP_UPDATES,
    noise_times,
)
from benchmarks.unseen.catalogue import TASKS
from benchmarks.unseen.family import (
    WARMUP,
    Family,
    Method,
    of_two_microbatches,
    without_loss,
)

_LAYERS, _MODEL = optax_lena.per_parameter, optax_lena.whole_model


def _warmed_up(rate: optax_lena.LayerRate) -> optax_lena.LayerRate:
    """The rate, whose warm-up is as long as that of every method."""
    return dataclasses.replace(rate, warmup=type(rate.warmup)(WARMUP))


_lena = _warmed_up(LENA)
_no_loss_limit = _warmed_up(NO_LOSS_LIMIT)
_adascale = dataclasses.replace(LENA, clock="gain_steps")
_linear = dataclasses.replace(
    LENA, rule=optax_lena.linear, warmup=optax_lena.FixedWarmup(WARMUP)
)
_square_root = dataclasses.replace(_linear, rule=ROOT_OF_SCALE)

# Of seven independent testers' tasks, those on which nothing was tried afterwards. On
# all older ones it was looked at what the spike limit's geometric mean costs.
_UNTRIED = (
    "poisson_equation",
    "linear_recurrence",
    "parity",
    "two_losses",
    "reinforce",
    "kelvin",
    "hashing",
    "survival",
    "alignment",
    "spikes",
    "steady_state",
    "adaptation",
    "two_players",
    "gaps",
    "selective",
    "ranking",
    "boxes",
    "codebook",
    "thin",
    "triplets",
    "positives",
    "energy",
    "addition",
    "segmentation",
    "actor_critic",
    "forces",
    "inducing",
    "splats",
    "clicks",
    "few_bits",
    "views",
    "distilled",
    "hypernetwork",
    "weight_norm",
    "sampled_softmax",
    "ordinal",
    "late_modality",
    "compartments",
)


def _method(
    label: str,
    rate: optax_lena.LayerRate,
    layers: optax_lena.Layers = _LAYERS,
    *,
    enters_buffer: bool = False,
    counts_examples: bool = False,
    warmup_updates: int = 0,
) -> Method:
    """Momentum SGD at a rate per layer.

    Args:
      label: for people.
      rate: all but its schedule.
      layers: what one layer is.
      enters_buffer: whether the rate stands before the momentum, or behind it.
      counts_examples: whether the momentum follows S.
      warmup_updates: of a longer warm-up than the rate's; 0: as it is.
    """

    def make(
        schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        own = dataclasses.replace(rate, learning_rate=schedule)
        if warmup_updates:
            length = max(WARMUP, float(warmup_updates * batch_scale))
            own = dataclasses.replace(own, warmup=optax_lena.FixedWarmup(length))
        scale = optax_lena.scale_by_layer_rate(own, batch_scale, layers=layers)
        buffer = buffer_of(0.9, batch_scale if counts_examples else None)
        links = (scale, buffer) if enters_buffer else (buffer, scale)
        return optax.chain(*links, optax.scale(-1.0))

    return Method(label, make)


def _recommended(label: str, layers: optax_lena.Layers = _LAYERS) -> Method:
    """`lena_amplified` as it is."""

    def make(
        schedule: optax.Schedule, batch_scale: int
    ) -> optax.GradientTransformation:
        return optax_lena.lena_amplified(
            schedule, batch_scale, warmup_steps=WARMUP, layers=layers
        )

    return Method(label, make)


def _by_examples(
    label: str, rate: optax_lena.LayerRate, layers: optax_lena.Layers = _LAYERS
) -> Method:
    """What `lena_amplified` was: in front of a momentum that counts examples."""
    warmed = _warmed_up(rate)
    return _method(label, warmed, layers, enters_buffer=True, counts_examples=True)


def _noise_times(factor: float) -> Method:
    """`lena_amplified` with another factor on the noise."""
    rate = dataclasses.replace(_no_loss_limit, rule=noise_times(factor))
    return _method(f"amplified LENA, noise × {factor:g}", rate, enters_buffer=True)


SGD = Family(
    label="momentum SGD (0.9)",
    records="unseen",
    rate=lambda task: task.rate,
    grid=lambda task: task.rates,
    base=lambda schedule: optax.sgd(schedule, 0.9),
    methods={
        "linear": _method("linear scaling", _linear, _MODEL),
        "square_root": _method("square-root scaling", _square_root, _MODEL),
        "adascale": _method("AdaScale", _adascale, _MODEL),
        "lena_model": _method("LENA, one layer: the model", _lena, _MODEL),
        "lena": _method("LENA", _lena),
        "lena_no_warmup": _method("LENA, no warm-up", LENA),
        "amplified_model": _recommended("amplified, one layer: the model", _MODEL),
        "lena_amplified": _recommended("amplified LENA"),
        "amplified_without_loss": without_loss(_recommended("amplified LENA")),
        "amplified_two": of_two_microbatches(_recommended("amplified LENA")),
        "amplified_any_direction": _by_examples(
            "amplified LENA, steps not compared", AMPLIFIED
        ),
        "amplified_any_direction_model": _by_examples(
            "amplified, steps not compared, one layer: the model", AMPLIFIED, _MODEL
        ),
        "amplified_any_direction_without_loss": without_loss(
            _by_examples("amplified LENA, steps not compared", AMPLIFIED)
        ),
        "amplified_first_loss": _by_examples(
            "amplified LENA, loss limit relative to the first loss", FIRST_LOSS
        ),
        "amplified_arithmetic": _by_examples(
            "amplified LENA, arithmetic spike limit", ARITHMETIC_LIMIT
        ),
        "amplified_arithmetic_model": _by_examples(
            "amplified, arithmetic spike limit, one layer: the model",
            ARITHMETIC_LIMIT,
            _MODEL,
        ),
        "amplified_limit_of_start": _by_examples(
            "amplified LENA, loss limit of the start", LIMIT_OF_START
        ),
        "amplified_limit_of_start_model": _by_examples(
            "amplified, loss limit of the start, one layer: the model",
            LIMIT_OF_START,
            _MODEL,
        ),
        "amplified_cut_to_base": _by_examples(
            "amplified LENA, spike limit 2", CUT_TO_BASE
        ),
        "amplified_cut_to_base_model": _by_examples(
            "amplified, spike limit 2, one layer: the model", CUT_TO_BASE, _MODEL
        ),
        "amplified_kept_momentum": _method(
            "amplified LENA, momentum as it is",
            _warmed_up(CUT_TO_BASE),
            enters_buffer=True,
        ),
        "amplified_kept_momentum_model": _method(
            "amplified, momentum as it is, one layer: the model",
            _warmed_up(CUT_TO_BASE),
            _MODEL,
            enters_buffer=True,
        ),
        "linear_of_examples": _method(
            "linear scaling, momentum counts examples",
            _linear,
            _MODEL,
            counts_examples=True,
        ),
        "adascale_of_examples": _method(
            "AdaScale, momentum counts examples",
            _adascale,
            _MODEL,
            counts_examples=True,
        ),
        "lena_of_examples": _method(
            "LENA, no warm-up, momentum counts examples", LENA, counts_examples=True
        ),
        "amplified_no_loss_limit": _method(
            "amplified LENA, no limit on the loss", _no_loss_limit, enters_buffer=True
        ),
        "amplified_no_loss_limit_model": _method(
            "amplified, no limit on the loss, one layer: the model",
            _no_loss_limit,
            _MODEL,
            enters_buffer=True,
        ),
        "amplified_remembered": _method(
            "amplified LENA, spikes remembered",
            _warmed_up(REMEMBERED_AMPLIFIED),
            enters_buffer=True,
        ),
        "amplified_longer_warmup": _method(
            f"amplified LENA, warm-up of {WARMUP_UPDATES} updates or more",
            _no_loss_limit,
            enters_buffer=True,
            warmup_updates=WARMUP_UPDATES,
        ),
        "amplified_by_3": _noise_times(3),
        "amplified_by_2": _noise_times(2),
        "amplified_first_model": _method(
            "first amplified, one layer: the model",
            _warmed_up(FIRST_AMPLIFIED),
            _MODEL,
            enters_buffer=True,
        ),
        "amplified_first": _method(
            "first amplified LENA", _warmed_up(FIRST_AMPLIFIED), enters_buffer=True
        ),
    },
    recommended="lena_amplified",
    own=(
        "lena_amplified",
        "amplified_model",
        "linear_of_examples",
        "adascale_of_examples",
        "lena_of_examples",
        "amplified_without_loss",
        "amplified_two",
        "amplified_any_direction",
        "amplified_any_direction_model",
        "amplified_any_direction_without_loss",
        "amplified_first_loss",
        "amplified_arithmetic",
        "amplified_arithmetic_model",
        "amplified_limit_of_start",
        "amplified_limit_of_start_model",
        "amplified_cut_to_base",
        "amplified_cut_to_base_model",
        "amplified_kept_momentum",
        "amplified_kept_momentum_model",
        "amplified_no_loss_limit",
        "amplified_no_loss_limit_model",
        "amplified_remembered",
        "amplified_longer_warmup",
        "amplified_by_3",
        "amplified_by_2",
        "amplified_first",
        "amplified_first_model",
    ),
    developed=tuple(name for name in TASKS if name not in _UNTRIED),
    pairs={
        "LENA": ("lena", "lena_model"),
        "amplified": ("lena_amplified", "amplified_model"),
        "first amplified": ("amplified_first", "amplified_first_model"),
    },
    preconditioned=False,
)
