"""Corruptions of images by name, at five severities: pure functions of images [N, H, W, C].

    shifted = corruptions.corrupt("blur", images, severity=3, key=key)

Pixels are in [0, 1] and stay there. Severity 0 is the identity, to the bit; `severity` may be
traced, so that a grid of severities is an axis. The kinds are a choice of those of Hendrycks &
Dietterich (2019); lengths are shares of the image's height, so that a severity means the same on
small images and large ones. Dtypes are those of the images.

    name        strength           at severities 1 to 5
    blur        sd of a Gaussian   0.02 0.04 0.06 0.08 0.11 of the height
    contrast    factor             0.75 0.5 0.35 0.2 0.1
    brightness  added              0.1 0.2 0.3 0.4 0.5
    noise       sd of a Gaussian   0.1 0.2 0.3 0.4 0.5
    rotation    degrees            10 20 30 40 50
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

from dlstudy.errors import UserError

STRENGTHS = {  # by severity
    "blur": (0.0, 0.02, 0.04, 0.06, 0.08, 0.11),
    "contrast": (1.0, 0.75, 0.5, 0.35, 0.2, 0.1),
    "brightness": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "noise": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5),
    "rotation": (0.0, 10.0, 20.0, 30.0, 40.0, 50.0),
}
NAMES = tuple(STRENGTHS)
SEVERITIES = 5


def corrupt(name: str, images: jax.Array, severity, key: jax.Array) -> jax.Array:
    """Images corrupted in the way `name`, one of `NAMES`.

    Args:
      name: of the corruption.
      images: [N, H, W, C] in [0, 1].
      severity: 0 (none) to 5; a whole number, may be traced.
      key: of the noise; the others do not use it. One key gives the same noise at every severity,
        but for its size.

    Raises:
      UserError: an unknown name, or a severity out of range where it is a plain number.
    """
    if name not in STRENGTHS:
        raise UserError(f"--corruptions={name}: must be one of {', '.join(NAMES)}")
    if isinstance(severity, int) and not 0 <= severity <= SEVERITIES:
        raise UserError(f"--severities={severity}: must be from 0 to {SEVERITIES}")
    chex.assert_rank(images, 4)
    strength = jnp.asarray(STRENGTHS[name], images.dtype)[severity]
    if name == "blur":
        return blur(images, strength * images.shape[1])
    if name == "noise":
        return noise(images, strength, key)
    return {"contrast": contrast, "brightness": brightness, "rotation": rotation}[name](
        images, strength
    )


def blur(images: jax.Array, sd) -> jax.Array:
    """Convolution with a Gaussian of standard deviation `sd` pixels.

    The border is reflected, its own pixel first (d c b a | a b c d), so that no light is lost: the
    mean of an image is kept. Sums run over one image's length to either side.
    """
    rows, columns = (_gaussian(n, sd, images.dtype) for n in images.shape[1:3])
    return _unit(jnp.einsum("ih,jw,nhwc->nijc", rows, columns, images, precision="highest"))


def _gaussian(size: int, sd, dtype) -> jax.Array:
    """Matrix [size, size] that blurs a line of pixels; symmetric, rows sum to 1."""
    offsets = np.arange(-size, size + 1)
    place = (np.arange(size)[:, None] + offsets) % (2 * size)
    place = np.minimum(place, 2 * size - 1 - place)  # reflected
    spread = jnp.where(sd > 0, sd, 1)
    weights = jnp.exp(-jnp.square(jnp.asarray(offsets, dtype) / spread) / 2)
    weights = jnp.where(sd > 0, weights / weights.sum(), jnp.asarray(offsets == 0, dtype))
    where = jnp.asarray(place[..., None] == np.arange(size), dtype)
    return jnp.einsum("d,idh->ih", weights, where, precision="highest")


def contrast(images: jax.Array, factor) -> jax.Array:
    """Each image's pixels drawn towards their mean: factor x pixel + (1 - factor) x mean."""
    mean = images.mean((1, 2, 3), keepdims=True)
    return _unit(factor * images + (1 - factor) * mean)


def brightness(images: jax.Array, amount) -> jax.Array:
    """Every pixel brighter by `amount`; white stays white."""
    return _unit(images + amount)


def noise(images: jax.Array, sd, key: jax.Array) -> jax.Array:
    """Independent normal noise on every pixel, cut off at black and white."""
    return _unit(images + sd * jax.random.normal(key, images.shape, images.dtype))


def rotation(images: jax.Array, degrees) -> jax.Array:
    """Turned anticlockwise about the centre; bilinear, and black where nothing was."""
    height, width = images.shape[1:3]
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = jnp.arange(height, dtype=images.dtype)[:, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=images.dtype)[None] - (width - 1) / 2
    source = cos * y + sin * x + (height - 1) / 2, cos * x - sin * y + (width - 1) / 2

    def one(image):
        return map_coordinates(image, source, order=1, mode="constant", cval=0.0)

    planes = jax.vmap(jax.vmap(one, -1, -1))
    # Interpolation may leave [0, 1] by rounding.
    return _unit(planes(images))


def _unit(images):
    return jnp.clip(images, 0, 1)
