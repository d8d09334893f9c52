"""Optimizers: the book's algorithms, the source's equations, AMSGrad and a capped rate.

Each is an Optax `GradientTransformation` whose `rate` is a number, a traced array or a schedule
(updates done -> rate). The book is Goodfellow, Bengio & Courville (2016), chapter 8.

name               from          beside Optax's default of the same name
sgd                8.1           the same; its schedule is `linear_decay`, where `linear_schedule`
                                 returns float32 and starts at k = 0
momentum           8.2           `sgd(momentum=)` multiplies the sum of gradients by the rate of the
                                 last step: another path once the rate changes
nesterov           8.3           the same steps of the look-ahead point; the rate as in 8.2
adagrad            8.4           delta 1e-7 outside the root, not inside; sums from 0, not 0.1
rmsprop            8.5           decay 0.9 (the book gives none); delta 1e-6 in the root, not 1e-8;
                                 its average of squares is the source's equation 7
rmsprop_nesterov   8.6           no delta, and 0 / 0 is 0, where
                                 `rmsprop(eps=0, momentum=0.9, nesterov=True)` gives NaN
adam               8.7           the same: 0.9, 0.999, 1e-8
averaged_momentum  source 3, 4   `chain(ema(debias=False), scale(-rate))`; no optimizer of its own
adam_uncorrected   source 5, 6   `adam` corrects bias, with no way to switch it off
amsgrad            Reddi et al.  `amsgrad` corrects bias; as published it does not
capped             -             not in Optax

For 8.3 and 8.6 the parameters are the point y = theta + alpha v where the gradient is taken, so
that any training loop serves; `nesterov_point` gives theta.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dlstudy.errors import UserError


def linear_decay(first, last, steps: int) -> optax.Schedule:
    """The rates of algorithm 8.1: from `first` to `last` over `steps` updates, then constant.

    Update k = 1, 2, ... has the rate (1 - a) first + a last, a = min(k / steps, 1) (equation
    8.14), in the default precision. The book suggests `last` of about a hundredth of `first`.
    """

    def rate(updates_done):
        k = jnp.minimum(updates_done + 1, steps).astype(jnp.result_type(float))
        a = k / steps
        return (1 - a) * first + a * last

    return rate


def sgd(rate) -> optax.GradientTransformation:
    """Algorithm 8.1: theta <- theta - rate g."""
    return optax.sgd(rate)


def momentum(rate, alpha=0.9) -> optax.GradientTransformation:
    """Algorithm 8.2, heavy ball: v <- alpha v - rate g; theta <- theta + v."""
    return optax.chain(optax.scale_by_learning_rate(rate), optax.trace(alpha))


def nesterov(rate, alpha=0.9) -> optax.GradientTransformation:
    """Algorithm 8.3: as `momentum`, with the gradient at theta + alpha v: the parameters here."""
    return optax.chain(optax.scale_by_learning_rate(rate), optax.trace(alpha, nesterov=True))


def nesterov_point(params, state, alpha=0.9):
    """theta of algorithms 8.3 and 8.6, from the point theta + alpha v and the optimizer's state."""
    velocity = optax.tree.get(state, "trace")
    return jax.tree.map(lambda y, v: y - alpha * v, params, velocity)


def adagrad(rate, delta=1e-7, initial=0.0) -> optax.GradientTransformation:
    """Algorithm 8.4: r <- r + g^2, from `initial`; theta <- theta - rate g / (delta + sqrt r)."""
    scale = _divide_by_root(lambda r, g: r + g * g, lambda r: delta + jnp.sqrt(r), initial)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def rmsprop(rate, rho=0.9, delta=1e-6) -> optax.GradientTransformation:
    """Algorithm 8.5: r <- rho r + (1 - rho) g^2; theta <- theta - rate g / sqrt(delta + r)."""
    scale = optax.scale_by_rms(decay=rho, eps=delta, eps_in_sqrt=True)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def rmsprop_nesterov(rate, rho=0.9, alpha=0.9) -> optax.GradientTransformation:
    """Algorithm 8.6: r as in 8.5; v <- alpha v - rate g / sqrt r, with g at theta + alpha v.

    The book has no delta: a parameter that never had a gradient gives 0 / 0, which is taken as 0.
    """
    scale = _divide_by_root(lambda r, g: rho * r + (1 - rho) * g * g, jnp.sqrt)
    return optax.chain(scale, nesterov(rate, alpha))


def adam(rate, rho1=0.9, rho2=0.999, delta=1e-8) -> optax.GradientTransformation:
    """Algorithm 8.7, with bias correction."""
    return optax.adam(rate, b1=rho1, b2=rho2, eps=delta)


def averaged_momentum(rate, beta=0.9) -> optax.GradientTransformation:
    """The source's equations 3 and 4: v <- beta v + (1 - beta) g; theta <- theta - rate v.

    Algorithm 8.2 with alpha = beta and a rate of (1 - beta) times this one, while it is constant.
    """
    return optax.chain(optax.ema(beta, debias=False), optax.scale_by_learning_rate(rate))


def adam_uncorrected(rate, rho1=0.9, rho2=0.999, delta=1e-8) -> optax.GradientTransformation:
    """The source's equations 5 and 6: Adam's averages, from 0, without bias correction."""

    def init(params):
        return optax.scale_by_adam().init(params)

    def update(updates, state, params=None):
        del params
        mu = optax.tree.update_moment(updates, state.mu, rho1, 1)
        nu = optax.tree.update_moment(updates, state.nu, rho2, 2)
        steps = jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + delta), mu, nu)
        return steps, optax.ScaleByAdamState(state.count + 1, mu, nu)

    scale = optax.GradientTransformation(init, update)
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


def amsgrad(rate, rho1=0.9, rho2=0.999, delta=1e-8) -> optax.GradientTransformation:
    """AMSGrad as published, without bias correction (Reddi, Kale & Kumar 2018, algorithm 2)."""
    scale = optax.scale_by_amsgrad(
        rho1, rho2, delta, bias_correction_mu=False, bias_correction_nu=False
    )
    return optax.chain(scale, optax.scale_by_learning_rate(rate))


class SquaresState(NamedTuple):
    """What the squares of the gradients add up to."""

    squares: object  # tree like the parameters


def _divide_by_root(accumulate: Callable, root: Callable, initial=0.0):
    """Divides g by root(r) after r <- accumulate(r, g); 0 where the root is 0."""

    def divide(g, r):
        below = root(r)
        return jnp.where(below == 0, jnp.zeros_like(g), g / jnp.where(below == 0, 1, below))

    def init(params):
        return SquaresState(jax.tree.map(lambda p: jnp.full_like(p, initial), params))

    def update(updates, state, params=None):
        del params
        squares = jax.tree.map(accumulate, state.squares, updates)
        return jax.tree.map(divide, updates, squares), SquaresState(squares)

    return optax.GradientTransformation(init, update)


# In the order of the book's algorithms 8.1 to 8.7, and of the source's equations.
_BOOK = (sgd, momentum, nesterov, adagrad, rmsprop, rmsprop_nesterov, adam)
_SOURCE = (averaged_momentum, adam_uncorrected)
BOOK, SOURCE = (tuple(made.__name__ for made in group) for group in (_BOOK, _SOURCE))
NAMES = (*BOOK, *SOURCE, "amsgrad")


def make(name: str, rate, *, momentum=0.9, **constants) -> optax.GradientTransformationExtraArgs:
    """The optimizer called `name`, one of `NAMES` or "capped", with learning rate `rate`.

    Args:
      name: of a function of this module; "capped" is `capped_sgd`.
      rate: number, traced array or schedule.
      momentum: alpha or beta of those that have one.
      constants: the others of that function.

    Raises:
      UserError: an unknown name.
    """
    makers = {made.__name__: made for made in (*_BOOK, *_SOURCE, amsgrad)} | {"capped": capped_sgd}
    if name not in makers:
        raise UserError(f"--optimizer={name}: must be one of {', '.join(makers)}")
    if name in ("momentum", "nesterov", "rmsprop_nesterov"):
        constants["alpha"] = momentum
    elif name == "averaged_momentum":
        constants["beta"] = momentum
    return standard_promotion(makers[name](rate, **constants))


def standard_promotion(optimizer) -> optax.GradientTransformationExtraArgs:
    """The same optimizer, traced under JAX's standard dtype promotion.

    Optax mixes weak and strong types in Adam and its kin, which the strict promotion used
    everywhere else would refuse.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def init(params):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.init(params)

    def update(updates, state, params=None, **extra):
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(updates, state, params, **extra)

    return optax.GradientTransformationExtraArgs(init, update)


def coupled_decay(optimizer, penalty) -> optax.GradientTransformationExtraArgs:
    """`optimizer` on the loss plus (penalty / 2) ||w||^2: its gradient goes through the optimizer.

    The source's penalty, lambda ||w||^2, is that of penalty = 2 lambda.
    """
    return standard_promotion(optax.chain(optax.add_decayed_weights(penalty), optimizer))


def decoupled_decay(optimizer, amount) -> optax.GradientTransformationExtraArgs:
    """`optimizer`, whose every step also multiplies the weights by 1 - amount.

    `optax.adamw(rate, weight_decay=decay)` is that of amount = rate x decay.
    """
    return standard_promotion(optax.chain(optimizer, optax.add_decayed_weights(-amount)))


def capped_sgd(rate) -> optax.GradientTransformationExtraArgs:
    """Gradient descent whose rate is capped by the curvature along the gradient.

    The step is -min(rate, g'g / g'Hg) g, the cap being the minimiser of the second-order model
    along g (Goodfellow et al. 2016, equation 4.10); it does not bind where g'Hg <= 0. `update`
    needs the keyword `curvature`, g'Hg of the batch that gave g.
    """

    def update(updates, state, params=None, *, curvature, **extra):
        del params, extra
        square = optax.tree.norm(updates, squared=True)
        best = square / jnp.where(curvature > 0, curvature, 1)
        step = jnp.where(curvature > 0, jnp.minimum(rate, best), rate)
        return jax.tree.map(lambda g: -step * g, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def adam_preconditioner(state):
    """P = sqrt(nu_hat) + eps of Adam's state, as a tree like the parameters.

    Adam's step is the rate times the first moment over P; the sharpness it feels is that of
    P^(-1/2) H P^(-1/2) (Cohen et al. 2022). Before the first step, where nu is 0, P is 1.
    """
    nu, count = optax.tree.get(state, "nu"), optax.tree.get(state, "count")

    def root(n):
        # 1 - 0.999^t by expm1: in float32 the plain difference is right to five digits only.
        correction = -jnp.expm1(count.astype(n.dtype) * math.log(0.999))
        corrected = n / jnp.where(count > 0, correction, 1)
        return jnp.where(count > 0, jnp.sqrt(corrected) + 1e-8, 1)

    return jax.tree.map(root, nu)
