"""Adam: the preconditioner, moments under it by every route, and `lena_adamw`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import optax_lena
from tests import helpers, oracle, test_routes
from tests.test_errors import says

P = PartitionSpec
UPDATES, N = 30, 4
adam_preconditioner = optax_lena.adam_preconditioner
lena_adamw = optax_lena.lena_adamw


def adam_state(count, nu):
    nu = jax.tree.map(jnp.asarray, nu)
    return optax.ScaleByAdamState(jnp.asarray(count, jnp.int32), nu, nu)


def train(tx, params, stacks, preconditioner=adam_preconditioner, **kwargs):
    """One update per row of the stacks; returns parameters, metrics and the state."""

    def update(carry, stack):
        params, state = carry
        p = preconditioner and preconditioner(state, params)
        grads, moments = optax_lena.moments_from_stack(
            stack, preconditioner=p, **kwargs
        )
        updates, state = tx.update(grads, state, params, moments=moments)
        params = optax.apply_updates(params, updates)
        return (params, state), (params, optax_lena.metrics(state))

    run = helpers.jit(functools.partial(jax.lax.scan, update))
    (_, state), (params, metrics) = run((params, tx.init(params)), stacks)
    return params, metrics, state


# The preconditioner.


@pytest.mark.parametrize("count", [5, 100, 10**6])
def test_is_what_adam_multiplies_by(count):
    nu = np.array([1e-12, 1e-4, 3.0, 1e6], np.float32)
    got = adam_preconditioner(adam_state(count, nu), nu, b2=0.99, eps=1e-3)
    expected = 1 / (np.sqrt(nu / (1 - 0.99**count)) + 1e-3)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_shapes_and_dtypes_are_enough_of_the_parameters():
    like = {"a": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}
    state = optax.masked(optax.adam(0.1), {"a": False}).init({"a": jnp.ones(3)})
    state = (state, optax.adam(0.1).init({}))
    got = jax.eval_shape(lambda: adam_preconditioner(state, like))
    assert got["a"].shape == (3,) and got["a"].dtype == jnp.float32


@pytest.mark.parametrize("count", [0, 1, 4])
def test_the_first_five_updates_are_not_measured(count):
    """The variance of 1 / ν̂ is infinite for less than 5 Gaussian gradients."""
    nu = np.ones(3, np.float32)
    np.testing.assert_array_equal(adam_preconditioner(adam_state(count, nu), nu), 0)
    stacks = helpers.random_stacks(0, 7, N)
    params = helpers.example_params()
    _, metrics, _ = train(lena_adamw(0.01, N), params, stacks)
    gains = np.stack(list(helpers.rows(metrics, "gain").values()))
    assert (gains[:, :5] == 1).all() and (gains[:, 5:] > 1).all()


def test_an_entry_without_a_gradient_yet_measures_nothing():
    """An embedding of a rare word: 1 / eps would outweigh all other entries."""
    nu = np.array([0, 0.25], np.float32)
    np.testing.assert_allclose(adam_preconditioner(adam_state(50, nu), nu)[0], 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_dtypes(dtype):
    params = {"w": jnp.ones((3, 2), dtype)}
    tx = lena_adamw(0.1, 4)
    state = tx.init(params)
    p = adam_preconditioner(state, params)
    assert p["w"].dtype == jnp.float32
    stack = {"w": jnp.ones((4, 3, 2), dtype)}
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
    updates, _ = tx.update(grads, state, params, moments=moments)
    assert grads["w"].dtype == updates["w"].dtype == dtype
    assert {x["w"].dtype for x in moments[:2]} == {jnp.dtype(jnp.float32)}


NU = {"a": np.array([1.0, 4.0], np.float32), "b": {"c": np.array(16.0, np.float32)}}


def wrapped(kind):
    adam = optax.adam(0.1)
    b_only = {"a": False, "b": True}
    return {
        "chain": optax.chain(optax.clip(9.0), adam),
        "lena_adamw": lena_adamw(0.1, 4),
        "inject_hyperparams": optax.inject_hyperparams(lena_adamw)(0.1, 4),
        "accumulate": optax_lena.accumulate(lena_adamw(0.1, 4), 1),
        "MultiSteps": optax.MultiSteps(adam, 1),
        "masked": optax.masked(adam, b_only),
        "partition": optax.partition(
            {"x": adam, "y": optax.adam(0.2)}, {"a": "x", "b": "y"}
        ),
        "partition with SGD": optax.partition(
            {"x": optax.sgd(0.1), "y": adam}, {"a": "x", "b": {"c": "y"}}
        ),
    }[kind]


@pytest.mark.parametrize("under_jit", [False, True])
@pytest.mark.parametrize(
    ("kind", "has_a"),
    [
        ("chain", True),
        ("lena_adamw", True),
        ("inject_hyperparams", True),
        ("accumulate", True),
        ("MultiSteps", True),
        ("masked", False),
        ("partition", True),
        ("partition with SGD", False),
    ],
)
def test_is_found_at_any_depth(kind, has_a, under_jit):
    is_adam = lambda x: isinstance(x, optax.ScaleByAdamState)

    def with_nu(state):
        nu = jax.tree.map(
            lambda like, nu: like if isinstance(like, optax.MaskedNode) else nu,
            state.nu,
            NU,
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )
        return optax.ScaleByAdamState(jnp.int32(10**6), state.mu, nu)

    state = jax.tree.map(
        lambda x: with_nu(x) if is_adam(x) else x,
        wrapped(kind).init(NU),
        is_leaf=is_adam,
    )
    find = jax.jit(adam_preconditioner) if under_jit else adam_preconditioner
    got = find(state, NU)
    helpers.assert_trees_close(
        got, {"a": np.array([1.0, 0.5] if has_a else [1.0, 1.0]), "b": {"c": 0.25}}
    )


def test_errors_of_the_preconditioner():
    params = {"w": jnp.ones(3)}
    message = says("`opt_state`", "optax.scale_by_adam", "got none", "without")
    with pytest.raises(ValueError, match=message):
        adam_preconditioner(optax.sgd(0.1, 0.9).init(params), params)
    state = optax.adam(0.1).init(params)
    for other, got in (({"w": jnp.ones(4)}, "(4,)"), ({"v": jnp.ones(3)}, "none")):
        message = says("`params`", "'w'", "(3,)", got, "initialised")
        with pytest.raises(ValueError, match=message):
            adam_preconditioner(state, other)


# Moments under a preconditioner.


@pytest.mark.parametrize("weighs", [False, True])
def test_moments_agree_with_float64(weighs):
    stack = helpers.random_stacks(0, 6)
    p = helpers.random_stacks(1)
    weights = np.array([1, 2, 3, 0, 5, 6], np.float32)
    kwargs = {"weights": weights} if weighs else {}
    shares = weights / 17.0 if weighs else np.full(6, 1 / 6)
    grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p, **kwargs)
    raw, _ = optax_lena.moments_from_stack(stack, **kwargs)
    helpers.assert_trees_equal(grads, raw)
    micro, batch = map(helpers.flat, moments[:2])
    for name, g in helpers.flat(stack).items():
        g = (g.astype(np.float64) * helpers.flat(p)[name]).reshape(6, -1)
        np.testing.assert_allclose(micro[name], shares @ (g * g).sum(1), rtol=1e-5)
        np.testing.assert_allclose(batch[name], np.sum((shares @ g) ** 2), rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ({"w": jnp.ones(4)}, ("shape (3,)", "'w'", "got (4,)")),
        ({"w": jnp.ones(())}, ("shape (3,)", "'w'", "got ()")),
        ({}, ("shape (3,)", "'w'", "got none")),
        ({"w": jnp.ones(3), "v": jnp.ones(2)}, ("shape none", "'v'", "got (2,)")),
    ],
)
def test_a_preconditioner_of_another_tree(wrong, parts):
    message = says("`preconditioner`", *parts, "adam_preconditioner(opt_state, params)")
    grads = {"w": jnp.ones((4, 3))}
    with pytest.raises(ValueError, match=message):
        optax_lena.moments_from_stack(grads, preconditioner=wrong)
    f = optax_lena.value_and_grad(lambda w, x: jnp.sum(w["w"]) * jnp.mean(x), 2)
    with pytest.raises(ValueError, match=message):
        f({"w": jnp.ones(3)}, jnp.ones(4), preconditioner=wrong)
    over_axis = lambda g: optax_lena.moments_over_axis(g, "i", preconditioner=wrong)
    with pytest.raises(ValueError, match=message):
        jax.vmap(over_axis, axis_name="i")(grads)
    tx = optax_lena.accumulate(lena_adamw(0.1, 4), 4, preconditioner=lambda *_: wrong)
    row = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match=message):
        tx.update(row, tx.init(row), row)


def test_accumulate_equals_the_stack():
    stacks = helpers.random_stacks(3, 12, N)
    params = helpers.example_params()
    expected, metrics, _ = train(lena_adamw(0.01), params, stacks)
    tx = optax_lena.accumulate(
        lena_adamw(0.01), N, preconditioner=optax_lena.adam_preconditioner
    )

    def call(carry, grads):
        params, state = carry
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacks)
    run = helpers.jit(functools.partial(jax.lax.scan, call))
    (got, state), _ = run((params, tx.init(params)), rows)
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
    helpers.assert_trees_close(got, last(expected), rtol=1e-4)
    helpers.assert_trees_close(
        optax_lena.metrics(state), last(metrics), rtol=1e-3, atol=1e-5
    )


def test_successive_gradients_under_a_preconditioner():
    """Two halves of a batch, measured as p times their gradients."""
    p = {"w": jnp.array([1.0, 10.0])}
    tx = optax_lena.from_successive_gradients(
        optax_lena.scale_by_lena(8), preconditioner=lambda state, params: p
    )
    state = tx.init(p)
    for grad in ([3.0, 0.2], [1.0, 0.4]):
        _, state = tx.update({"w": jnp.array(grad)}, state)
    row = optax_lena.layer_report(state)["w"]
    # d = (2² + 2²) / 4 = 2, m = (9 + 4 + 1 + 16) / 2 = 15
    np.testing.assert_allclose([row["noise"], row["signal"]], [8 * 4, 11], rtol=1e-5)


# The optimizer.


@pytest.mark.parametrize(
    "case",
    [
        dict(),
        dict(warmup_steps=40, weight_decay=0.1),
        dict(b1=0.5, b2=0.9, eps=1e-3, weight_decay=0.0),
        dict(preconditioned=False),
        dict(learning_rate=optax.cosine_decay_schedule(0.02, 3 * UPDATES)),
    ],
)
def test_agrees_with_float64(case):
    case = {"weight_decay": 1e-4, "learning_rate": 0.02} | case
    preconditioned = case.pop("preconditioned", True)
    stacks, params = helpers.random_stacks(1, UPDATES, N), helpers.example_params()
    betas = {k: v for k, v in case.items() if k in ("b2", "eps")}
    preconditioner = functools.partial(adam_preconditioner, **betas)
    got, metrics, _ = train(
        lena_adamw(batch_scale=N, **case),
        params,
        stacks,
        preconditioner if preconditioned else None,
    )
    warmup_steps, rate = case.pop("warmup_steps", 0), case.pop("learning_rate")
    schedule = (lambda t: float(rate(t))) if callable(rate) else lambda t: rate
    for name, w in helpers.flat(params).items():
        layer = oracle.Layer(oracle.square_root, N, warmup_steps)
        expected, gains = oracle.replay_adamw(
            w,
            helpers.flat(stacks)[name],
            layer,
            learning_rate=schedule,
            preconditioned=preconditioned,
            **case,
        )
        np.testing.assert_allclose(
            helpers.rows(metrics, "gain")[name], gains, rtol=1e-3
        )
        np.testing.assert_allclose(helpers.flat(got)[name], expected, rtol=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(),
        dict(weight_decay=0.0, nesterov=True),
        dict(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.1, mu_dtype="bfloat16"),
        dict(weight_decay_mask={"blocks": True, "conv1": False, "head": True}),
    ],
)
def test_at_a_batch_scale_of_one_it_is_adamw(arguments):
    """To the last bit, whatever the moments say."""
    arguments = dict(weight_decay=0.01) | arguments
    ours = lena_adamw(0.02, batch_scale=1, **arguments)
    arguments["mask"] = arguments.pop("weight_decay_mask", None)
    theirs = optax.adamw(0.02, **arguments)
    params = helpers.example_params()
    states = ours.init(params), theirs.init(params)
    for seed in range(4):
        grads, moments = helpers.example_moments(seed)
        got, ours_state = ours.update(grads, states[0], params, moments=moments)
        want, theirs_state = theirs.update(grads, states[1], params)
        helpers.assert_trees_equal(got, want)
        states = ours_state, theirs_state
        params = optax.apply_updates(params, want)


def test_at_a_batch_scale_of_one_a_schedule_is_adamw_s():
    schedule = optax.cosine_decay_schedule(0.02, 10)
    stacks, params = helpers.random_stacks(2, 6, N), helpers.example_params()
    got, _, _ = train(lena_adamw(schedule, 1, weight_decay=0.1), params, stacks)
    tx = optax.adamw(schedule, weight_decay=0.1)
    state = tx.init(params)
    for t in range(6):
        grads = jax.tree.map(lambda x, t=t: x[t].mean(0), stacks)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        row = jax.tree.map(lambda x, t=t: x[t], got)
        helpers.assert_trees_close(row, params, rtol=1e-4)


def test_the_decay_scales_with_the_rate_and_keeps_its_mask():
    tx = lena_adamw(
        0.1, 4, weight_decay=0.5, weight_decay_mask={"bias": False, "kernel": True}
    )
    params = {"bias": jnp.full(2, 3.0), "kernel": jnp.full(2, 3.0)}
    # A mean of zero moves nothing; opposite gradients are noise only, a gain of 4.
    stack = jax.tree.map(lambda _: jnp.array([[1.0] * 2, [-1.0] * 2]), params)
    grads, moments = optax_lena.moments_from_stack(stack)
    updates, _ = tx.update(grads, tx.init(params), params, moments=moments)
    np.testing.assert_array_equal(updates["bias"], 0)
    np.testing.assert_allclose(updates["kernel"], -0.1 * np.sqrt(4) * 0.5 * 3)


@pytest.mark.parametrize("factor", [2.0**-12, 2.0**12])
def test_the_gain_does_not_depend_on_the_unit_of_the_loss(factor):
    """From the first update on, as Adam's own updates do not."""
    stacks, params = helpers.random_stacks(4, 20, N), helpers.example_params()
    tx = lena_adamw(0.01, N, eps=1e-30)
    precondition = functools.partial(adam_preconditioner, eps=1e-30)
    _, plain, _ = train(tx, params, stacks, precondition)
    scaled = jax.tree.map(lambda x: x * np.float32(factor), stacks)
    _, other, _ = train(tx, params, scaled, precondition)
    for name in plain:
        np.testing.assert_allclose(other[name], plain[name], rtol=1e-4, err_msg=name)


def test_the_gain_is_the_mean_of_the_entries_gains():
    """Entries whose units differ by a million; 20,000 draws, 4 standard errors."""
    draws, n, scale, size = 20_000, 4, 16.0, 12
    unit = np.logspace(-3, 3, size)
    spread = np.tile([0.1, 1.0, 10.0], size // 3)  # noise over signal, per entry
    mean, deviation = unit, unit * spread  # of a base batch
    truth = np.mean((1 + spread**2) / (1 + spread**2 / scale))
    nu = (mean**2 + deviation**2 / scale).astype(np.float32)
    p = adam_preconditioner(adam_state(10**6, nu), nu)

    noise = np.random.default_rng(0).standard_normal((draws, n, size))
    stacks = (mean + deviation * noise / np.sqrt(scale / n)).astype(np.float32)

    @helpers.jit
    @jax.vmap
    def measure(stack):
        _, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        over_scale = (moments.micro_sq_norm - moments.batch_sq_norm) / (n - 1)
        signal = moments.batch_sq_norm - over_scale
        return signal + scale * over_scale, signal + over_scale

    top, bottom = (np.asarray(x, np.float64) for x in measure(stacks))
    gain = top.mean() / bottom.mean()
    residual = (top - gain * bottom) / bottom.mean()  # of a ratio of means
    error = residual.std(ddof=1) / np.sqrt(draws)
    assert error < 0.02 * truth
    assert abs(gain - truth) < 4 * error
    raw = np.sum(mean**2 + deviation**2) / np.sum(mean**2 + deviation**2 / scale)
    assert abs(raw - truth) > 50 * error


OPTIMIZERS = {
    "lena_adamw": lambda scale, **more: lena_adamw(
        1e-6, scale, b1=0.0, b2=0.95, weight_decay=0.0, **more
    ),
    "lena_lars": lambda scale, **more: optax_lena.lena_lars(
        1e-3, scale, momentum=0.0, **more
    ),
}


def progress(name, scale, **more):
    """Mean step along the true gradient, its standard error, and the mean gain.

    400 entries of signal 0.1 and noise 1 per base batch, 300 updates after 100.
    """
    size, updates, n = 400, 400, 4
    tx = OPTIMIZERS[name](scale, **more)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((updates, n, size)) / np.sqrt(scale / n)
    stacks = {"w": (0.1 + noise).astype(np.float32)}
    params = {"w": jnp.full(size, 1.0)}
    precondition = None
    if name == "lena_adamw":
        precondition = functools.partial(adam_preconditioner, b2=0.95)

    def update(state, stack):
        p = precondition and precondition(state, params)
        grads, moments = optax_lena.moments_from_stack(stack, preconditioner=p)
        updates, state = tx.update(grads, state, params, moments=moments)
        gain = optax_lena.metrics(state)["gain/w"]
        return state, (-jnp.mean(updates["w"]), gain)

    _, (steps, gains) = helpers.jit(functools.partial(jax.lax.scan, update))(
        tx.init(params), stacks
    )
    steps, gains = (np.asarray(x[100:], np.float64) for x in (steps, gains))
    error = steps.std(ddof=1) / np.sqrt(len(steps))
    return steps.mean(), error, gains.mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_makes_the_progress_of_gain_base_updates(name):
    """The square root is right: half of the gain comes from the division.

    Within 4 standard errors and 5 % for ν, which follows 20 gradients only.
    """
    base, base_error, gain = progress(name, 1.0)
    assert gain == 1
    large, error, gain = progress(name, 16.0)
    truth = (1 + 0.01) / (1 / 16 + 0.01)
    assert abs(gain / truth - 1) < 0.1
    ratio = large / base
    spread = ratio * np.hypot(error / large, base_error / base)
    assert spread < 0.1 * ratio
    assert abs(ratio - truth) < 4 * spread + 0.05 * truth
    whole, _, _ = progress(name, 16.0, rule=optax_lena.capped_gain)
    assert whole / base > 2 * truth
