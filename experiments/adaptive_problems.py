"""Problems with known answers for adaptive rates, in float64: functions of one seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlstudy.optimizers import make, standard_promotion

# Streams of a seed's key.
STEPS, REDDI, WILSON, TRACKING, OSCILLATION = range(5)

EARLY = 40  # first steps, all of which are kept
FAR = 1e6  # an iterate this far from its start has diverged


def moments(steps: int) -> np.ndarray:
    """Steps to keep, from 1 to `steps`: all the first ones, then evenly over the logarithm."""
    early = np.arange(1, min(EARLY, steps) + 1)
    return np.union1d(early, np.round(np.geomspace(1, steps, 60)).astype(int))


# -- the size of a step


def unit_steps(config, key) -> dict:
    """Steps at rate 1 under a gradient of constant magnitude, whose sign is random or constant.

    Returns:
      "step_size" [arms, moments], "step_slope" [arms]: of log step over log t, by least squares on
      all steps; "gradient_size": of the arms without a fixed one.
    """
    draw, signs = jax.random.split(jax.random.fold_in(key, STEPS))
    size = 10.0 ** jax.random.uniform(draw, dtype=jnp.float64, minval=-3.0, maxval=1.0)
    random = jax.random.rademacher(signs, (config.steps,), dtype=jnp.float64)
    same, small = jnp.ones(config.steps), config.small_gradient
    # Without delta the algebra is exact.
    arms = {
        "adam": (make("adam", 1.0, delta=0.0), size * same),
        "adam_uncorrected": (make("adam_uncorrected", 1.0, delta=0.0), size * same),
        "adagrad": (make("adagrad", 1.0, delta=0.0), size * random),
        "adagrad_optax": (standard_promotion(optax.adagrad(1.0)), small * random),
        "rmsprop": (make("rmsprop", 1.0, rho=config.rho, delta=0.0), size * random),
    }
    found = jnp.stack([jnp.abs(follow(*arm)) for arm in arms.values()])
    logs = jnp.log(jnp.arange(1.0, config.steps + 1))
    centred = logs - logs.mean()
    return {
        "step_size": found[:, moments(config.steps) - 1],
        "step_slope": (jnp.log(found) @ centred) / (centred @ centred),
        "gradient_size": size,
    }


STEP_ARMS = ("adam", "adam_uncorrected", "adagrad", "adagrad_optax", "rmsprop")


def follow(optimizer, gradients):
    """Updates [T, ...] that an optimizer makes of gradients [T, ...], whatever the parameters."""
    first = jnp.zeros_like(gradients[0])

    def step(state, gradient):
        update, state = optimizer.update(gradient, state, first)
        return state, update

    return jax.lax.scan(step, optimizer.init(first), gradients)[1]


# -- where Adam fails (Reddi, Kale & Kumar 2018)


def reddi(config, key) -> dict:
    """x [arms, moments] and its end [arms] in the counter-example, from a random start.

    The gradient is C in every third step and -1 in the others; x is clipped to [-1, 1], and the
    loss, (C - 2) x over three steps, is least at -1.
    """
    big = config.reddi_c
    start = jax.random.uniform(
        jax.random.fold_in(key, REDDI), dtype=jnp.float64, minval=-1.0, maxval=1.0
    )

    def rate(count):
        return config.reddi_rate / jnp.sqrt(count.astype(jnp.float64) + 1)

    critical = 1 / (1 + big**2)
    constants = {"rho1": 0.0, "rho2": critical}
    arms = {
        "adam": make("adam", rate, **constants),
        "adam_large_rho": make("adam", rate, rho1=0.0, rho2=config.reddi_hidden),
        "amsgrad": make("amsgrad", rate, **constants),
    }

    def path(optimizer):
        def step(state, number):
            x, memory = state
            gradient = jnp.where(number % 3 == 0, big, -1.0)
            update, memory = optimizer.update(gradient, memory, x)
            x = jnp.clip(x + update, -1, 1)
            return (x, memory), x

        return jax.lax.scan(step, (start, optimizer.init(start)), jnp.arange(config.reddi_steps))[1]

    paths = jnp.stack([path(arm) for arm in arms.values()])
    return {"reddi_x": paths[:, moments(config.reddi_steps) - 1], "reddi_end": paths[:, -1]}


REDDI_ARMS = ("adam", "adam_large_rho", "amsgrad")


# -- where adaptive methods generalise worse (Wilson et al. 2017)


def wilson_labels(key, count: int, share: float):
    """Labels -1 and 1, each positive with probability `share`, but more than half and not all."""
    one, other = jax.random.split(key)
    drawn = (jax.random.uniform(one, (count,), dtype=jnp.float64) < share).sum()
    positives = jnp.clip(drawn, count // 2 + 1, count - 1)
    return jnp.where(jax.random.permutation(other, count) < positives, 1.0, -1.0)


def wilson_features(labels, *, unseen: bool = False):
    """Inputs [N, 3 + 5 N]: the label, two ones, and one or five features of each example's own.

    A positive example has one feature of its own, a negative one five. Those of unseen examples are
    features that no training example has: they are left out, as their weights stay zero.
    """
    count = labels.shape[0]
    common = jnp.stack([labels, jnp.ones(count), jnp.ones(count)], 1)
    if unseen:
        return jnp.concatenate([common, jnp.zeros((count, 5 * count))], 1)
    used = (jnp.arange(5)[None] < 1) | (labels[:, None] < 0)
    own = jnp.eye(count)[:, :, None] * jnp.where(used, 1.0, 0.0)[:, None]
    return jnp.concatenate([common, own.reshape(count, -1)], 1)


def wilson(config, key) -> dict:
    """Accuracies on new examples [arms] of least squares from zero, and the share of positives."""
    one, other = jax.random.split(jax.random.fold_in(key, WILSON))
    count, share = config.wilson_samples, config.wilson_share
    y = wilson_labels(one, count, share)
    x = wilson_features(y)
    new = wilson_labels(other, count, share)
    test = wilson_features(new, unseen=True)
    largest = jnp.linalg.eigvalsh(x @ x.T)[-1] / count
    rate = config.wilson_rate
    arms = {
        "gradient_descent": make("sgd", 1 / largest),
        "adagrad": make("adagrad", rate),
        "rmsprop": make("rmsprop", rate),
        "adam": make("adam", rate),
        "adagrad_optax": standard_promotion(optax.adagrad(rate)),
    }

    def solve(optimizer):
        def step(state, _):
            w, memory = state
            update, memory = optimizer.update(x.T @ (x @ w - y) / count, memory, w)
            return (w + update, memory), None

        first = jnp.zeros(x.shape[1])
        return jax.lax.scan(
            step, (first, optimizer.init(first)), length=config.wilson_steps
        )[0][0]  # fmt: skip

    shortest = x.T @ jnp.linalg.solve(x @ x.T, y)
    found = jnp.stack([shortest, *map(solve, arms.values())])
    right = lambda inputs, labels: (jnp.sign(found @ inputs.T) == labels[None]).mean(1)  # noqa: E731
    return {
        "wilson_accuracy": right(test, new),
        "wilson_train_accuracy": right(x, y),
        "wilson_residual": jnp.linalg.norm(found @ x.T - y[None], axis=1) / jnp.sqrt(count),
        "base_rate": (new > 0).mean(),
    }


WILSON_ARMS = (
    "minimum_norm", "gradient_descent", "adagrad", "rmsprop", "adam", "adagrad_optax",
)  # fmt: skip


# -- a minimum that moves


def worlds(config, key) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(minima [T, D], gradient noise [T, D], scale [worlds, T]) of the moving minimum.

    The minimum is a random walk. The scale multiplies the gradient, noise included: it is 1 in the
    first world and falls to `calm` half way in the second.
    """
    walk, noise = jax.random.split(key)
    shape = config.track_steps, config.track_size
    minima = config.drift * jnp.cumsum(jax.random.normal(walk, shape, jnp.float64), 0)
    late = jnp.arange(config.track_steps) >= config.track_steps // 2
    scale = jnp.stack([jnp.ones(config.track_steps), jnp.where(late, config.calm, 1.0)])
    return minima, jax.random.normal(noise, shape, jnp.float64), scale


WORLDS = ("drift", "calm")
TRACKERS = ("adagrad", "rmsprop", "sgd")
BINS = 40  # parts of the way over which a mean is kept


def track(config, name: str, world, rates) -> dict:
    """Follows a moving minimum at all rates: means over each of `BINS` parts, [rates, BINS].

    Args:
      config: the settings.
      name: of the optimizer.
      world: minima [T, D], noise [T, D] and scale [T].
      rates: [R].

    Returns:
      "error": squared distance from the minimum, a mean over coordinates; "gain": size of the
      step over that of the gradient.
    """
    size = config.track_steps // BINS

    def one(rate):
        optimizer = make(name, rate)

        def step(state, at):
            x, memory = state
            minimum, noise, scale = at
            gradient = scale * (x - minimum + noise)
            update, memory = optimizer.update(gradient, memory, x)
            away = jnp.square(x - minimum).mean()
            return (x + update, memory), (away, jnp.square(update).mean(), (gradient**2).mean())

        first = jnp.zeros(config.track_size)
        rows = jax.lax.scan(step, (first, optimizer.init(first)), world)[1]
        return [row[: BINS * size].reshape(BINS, size).mean(1) for row in rows]

    away, update, gradient = jax.vmap(one)(rates)
    return {"error": away, "gain": jnp.sqrt(update / gradient)}


def tracking(config, key) -> dict:
    """Both worlds, drawn twice: to tune rates on, and to report.

    Returns:
      "tune_error", "test_error" and "test_gain", [worlds, trackers, rates, BINS]; see `track`.
    """
    key = jax.random.fold_in(key, TRACKING)
    rates = jnp.asarray(config.track_rates)
    minima, noise, scales = jax.vmap(lambda k: worlds(config, k))(jax.random.split(key))

    def follow_both(name):
        """[draws, worlds, rates, BINS]."""
        one = lambda m, n, scale: track(config, name, (m, n, scale), rates)  # noqa: E731
        in_worlds = jax.vmap(one, (None, None, 0))
        return jax.vmap(in_worlds)(minima, noise, scales)

    rows = [follow_both(name) for name in TRACKERS]
    found = {kind: jnp.stack([row[kind] for row in rows], 2) for kind in ("error", "gain")}
    (tune, test), gain = found["error"], found["gain"][1]
    return {"tune_error": tune, "test_error": test, "test_gain": gain}


# -- oscillation on an ill-conditioned quadratic


def oscillation(config, key) -> dict:
    """Descends sum_i k_i u_i^2 / 2 at all rates, [problems, 2, rates]; u are turned coordinates.

    Problems: "axis", the curvatures' directions are the coordinates; "rotated", a random rotation
    away from them; "moving", along the coordinates, each curvature wandering between its limits.
    """
    key = jax.random.fold_in(key, OSCILLATION)
    spread, sign, turn, phase = jax.random.split(key, 4)
    size, steps, most = config.quadratic_size, config.quadratic_steps, config.condition
    inner = jax.random.uniform(spread, (size - 2,), dtype=jnp.float64)
    curvature = most ** jnp.concatenate([jnp.array([0.0, 1.0]), inner])
    one, other = jax.random.split(sign)
    # Starts of one size would let a method whose steps have one size end in a single step.
    start = jax.random.rademacher(one, (size,), dtype=jnp.float64) * 10.0 ** jax.random.uniform(
        other, (size,), dtype=jnp.float64, minval=-0.5, maxval=0.5
    )
    rotation = jnp.linalg.qr(jax.random.normal(turn, (size, size), jnp.float64))[0]
    phases = jax.random.uniform(phase, (size,), dtype=jnp.float64)
    times = jnp.arange(0.0, steps)[:, None] / config.period + phases[None]
    wandering = most ** (0.5 + 0.5 * jnp.sin(2 * jnp.pi * times))
    still = jnp.broadcast_to(curvature[None], (steps, size))
    turned = jnp.stack([jnp.eye(size), rotation, jnp.eye(size)])
    curvatures = jnp.stack([still, still, wandering])

    def at_rates(name, rates, **constants):
        def one(rotation, curvatures, rate):
            optimizer = make(name, rate, **constants)
            return swing(optimizer, rotation, curvatures, start, config.target)

        in_problems = jax.vmap(one, (0, 0, None))
        return jax.vmap(in_problems, (None, None, 0), 1)(turned, curvatures, jnp.asarray(rates))

    both = (
        at_rates("sgd", config.descent_rates),
        at_rates("rmsprop", config.rmsprop_rates, rho=config.rho),
    )
    return jax.tree.map(lambda *pair: jnp.stack(pair, 1), *both)


PROBLEMS = ("axis", "rotated", "moving")
SWINGERS = ("sgd", "rmsprop")


def swing(optimizer, rotation, curvatures, start, target: float) -> dict:
    """One descent from u = start, measured until |u| stays below `target` of its start.

    A method whose steps are too long may pass below by chance: what counts is the step after the
    last one above.

    Returns:
      "time": steps until then (nan: never); "reversals": share of the steps until then that point
      against the one before; "amplitude": largest |u_i| over its start after u_i first changed
      its sign, until then; "largest": the same over all steps, at most `FAR`.
    """
    first = rotation @ start

    def step(state, curvature):
        x, memory = state
        u = rotation.T @ x
        update, memory = optimizer.update(rotation @ (curvature * u), memory, x)
        # Past `FAR` a run stays where it is: it has diverged, and must not overflow.
        update = jnp.where(jnp.abs(u).max() < FAR, update, 0.0)
        return (x + update, memory), (u, update)

    last, (u, updates) = jax.lax.scan(step, (first, optimizer.init(first)), curvatures)
    u = jnp.concatenate([u, (rotation.T @ last[0])[None]])
    # Not the loss, most of which lies in the steep directions: the others would not matter.
    distance = jnp.linalg.norm(u, axis=1)
    above = ~(distance <= target * distance[0])
    time = len(distance) - above[::-1].argmax()  # the start is above
    there = time < len(distance)
    crossed = jnp.cumsum(jnp.sign(u) != jnp.sign(start)[None], 0) > 0
    after = jnp.where(crossed, jnp.abs(u / start[None]), 0.0).max(1)
    numbers = jnp.arange(len(distance))
    against = (updates[1:] * updates[:-1]).sum(1) < 0
    counted = numbers[1:-1] < time  # the pair of steps numbered i - 1 and i, from 0
    return {
        "time": jnp.where(there, time.astype(jnp.float64), jnp.nan),
        "reversals": jnp.where(counted, against, False).mean() / jnp.maximum(counted.mean(), 1e-9),
        "amplitude": jnp.where(numbers <= time, after, 0.0).max(),
        "largest": jnp.minimum(after.max(), FAR),
    }
