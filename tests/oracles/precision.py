"""Float64 for one test, without leaking into the next."""

import functools

import jax


def in_float64(test):
    """Decorator: runs a test with JAX in float64."""

    @functools.wraps(test)
    def scoped(*arguments, **named):
        with jax.enable_x64(True):
            return test(*arguments, **named)

    return scoped
