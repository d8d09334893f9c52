"""The floating-point operations of a training step, counted by hand."""

import math


def training_flops(
    image: tuple[int, int, int], widths: tuple[int, ...], outputs: int, pool: bool, kernel: int = 3
) -> int:
    """Operations of one image in one step of `models.CNN`: its matrix products, no more.

    A product of matrices [m, k] and [k, n] is 2 m k n operations, a multiplication and an addition
    each. A convolution of C channels to O, on H x W pixels with "same" padding, is 2 H W k^2 C O
    (the zeros of the padding count: they are multiplied); a dense layer of I to O is 2 I O. Each
    layer does that once forward, once for the gradient of its kernel and once for the gradient of
    its input, which the first layer does not need. Biases, ReLU, pooling, the loss and the
    optimizer are not counted: they are few operations, but not little time.

    Args:
      image: height, width and channels of an image.
      widths: channels of each convolution.
      outputs: classes.
      pool: halve height and width after each convolution.
      kernel: height and width of the kernels.
    """
    height, width, channels = image
    forward = []
    for features in widths:
        forward.append(2 * height * width * kernel**2 * channels * features)
        channels = features
        if pool:
            height, width = height // 2, width // 2
    forward.append(2 * math.prod((height, width, channels)) * outputs)
    return 3 * sum(forward) - forward[0]
