"""Optimizers by name, as Optax transformations whose rate may be a traced array."""

import math

import jax
import jax.numpy as jnp
import optax

from dlstudy.errors import UserError

NAMES = ("adam", "sgd", "momentum")


def make(name: str, rate, *, momentum: float = 0.9) -> optax.GradientTransformationExtraArgs:
    """The optimizer called `name`, one of `NAMES` or "capped", with learning rate `rate`.

    "adam" has the book's constants (Algorithm 8.7: 0.9, 0.999, 1e-8), which are Optax's; "momentum"
    is heavy ball; "capped" is `capped_sgd`.

    Raises:
      UserError: an unknown name.
    """
    makers = {
        "adam": lambda: optax.adam(rate),
        "sgd": lambda: optax.sgd(rate),
        "momentum": lambda: optax.sgd(rate, momentum=momentum),
        "capped": lambda: capped_sgd(rate),
    }
    if name not in makers:
        raise UserError(f"--optimizer={name}: must be one of {', '.join(makers)}")
    return standard_promotion(makers[name]())


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
