"""Convolutions that halve an image and their transposes, as patches and matrix products, batch last.

`strided_conv` is the 4x4, stride-2, padding-1 convolution and `strided_conv_transpose` its adjoint, with
derivatives of their own. They equal `lax.conv_general_dilated` and `lax.conv_transpose` and exist for speed
on a CPU, where the compiler's convolutions and their automatic gradients run several times slower, most of
all inside `lax.scan`. Four choices make the difference:

- *Batch last*, (c, h, w, n): copies move runs of n numbers, so they are vectorised whatever c is.
- *Phases*: a 4x4 kernel with stride 2 is a 2x2 kernel with stride 1 over the four (row parity, column parity)
  phases of the padded image. Once they are cut, patches are four contiguous shifts, not sixteen strided ones.
- *Written-out derivatives*: three matrix products a layer; the patches of the forward pass are kept for the
  kernel's gradient. The automatic gradient would scatter them back one slice at a time.
- *The adjoint shifts the thinner side*: before the product it moves 4 o rows (o channels on the small image),
  after it 16 c rows (c channels on the large one): for c = 1, o = 32 an eighth as much.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jaxtyping import Array, Float

__all__ = ["half", "strided_conv", "strided_conv_transpose"]

SHIFTS = ((0, 0), (0, 1), (1, 0), (1, 1))  # of the 2x2 kernel over phases: (down, right)


def half(size: int) -> int:
    """The side of an image after one `strided_conv`: size / 2, rounded up."""
    return (size + 1) // 2


def strided_conv(x: Float[Array, "c h w n"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "o h_half w_half n"]:
    """4x4 convolution (correlation) with stride 2 and padding 1, halving height and width.

    y[o, i, j] = sum_{a, b, c} kernel[a, b, c, o] x[c, 2i + a - 1, 2j + b - 1], with zeros outside the image.
    An odd side is padded with one more zero at its end: 31 x 47 gives 16 x 24.
    """
    _, height, width, _ = x.shape
    return _conv(jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0))), kernel)


def strided_conv_transpose(
    y: Float[Array, "o h_half w_half n"], kernel: Float[Array, "4 4 c o"], size: tuple[int, int]
) -> Float[Array, "c h w n"]:
    """The adjoint of `strided_conv` for images of `size` (height, width), doubling height and width.

    x[c, p, q] = sum_{o, i, j} kernel[p - 2i + 1, q - 2j + 1, c, o] y[o, i, j], over the taps that exist; an
    odd side is cropped at its end. The kernel is laid out as for the convolution: first the channels of the
    large image, then those of the small one.
    """
    height, width = size
    if (half(height), half(width)) != y.shape[1:3]:
        raise ValueError(
            f"An image of {height} x {width} has {half(height)} x {half(width)} halves, got {y.shape[1:3]}. "
            "Ask for a size of twice the input, or one less for an odd side."
        )
    return _conv_transpose(y, kernel)[:, :height, :width]


@jax.custom_vjp
def _conv(x: Array, kernel: Array) -> Array:
    return _conv_forward(x, kernel)[0]


def _conv_forward(x: Array, kernel: Array):
    _, height, width, n = x.shape
    patches = _patches(x)
    y = (_rows(kernel).T @ patches).reshape(-1, height // 2, width // 2, n)
    return y, (patches, kernel)


def _conv_backward(residuals, y_bar: Array):
    patches, kernel = residuals
    return _adjoint(y_bar, kernel), _kernel_gradient(patches, y_bar)


_conv.defvjp(_conv_forward, _conv_backward)


@jax.custom_vjp
def _conv_transpose(y: Array, kernel: Array) -> Array:
    return _adjoint(y, kernel)


def _conv_transpose_forward(y: Array, kernel: Array):
    return _adjoint(y, kernel), (y, kernel)


def _conv_transpose_backward(residuals, x_bar: Array):
    y, kernel = residuals
    patches = _patches(x_bar)
    return (_rows(kernel).T @ patches).reshape(y.shape), _kernel_gradient(patches, y)


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _rows(kernel: Float[Array, "4 4 c o"]) -> Float[Array, "rows o"]:
    """The kernel as a matrix; rows run over (shift down, shift right, row phase, column phase, channel)."""
    _, _, c, o = kernel.shape
    return kernel.reshape(2, 2, 2, 2, c, o).transpose(0, 2, 1, 3, 4, 5).reshape(16 * c, o)


def _kernel_gradient(patches: Float[Array, "rows points"], y_bar: Array) -> Float[Array, "4 4 c o"]:
    o, c = y_bar.shape[0], patches.shape[0] // 16
    rows = patches @ y_bar.reshape(o, -1).T
    return rows.reshape(2, 2, 2, 2, c, o).transpose(0, 2, 1, 3, 4, 5).reshape(4, 4, c, o)


def _patches(x: Float[Array, "c h w n"]) -> Float[Array, "rows points"]:
    """The 16 c numbers under the kernel at each of the h/2 w/2 n output points, in the order of `_rows`."""
    c, h, w, n = x.shape[0], x.shape[1] // 2, x.shape[2] // 2, x.shape[3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    phases = padded.reshape(c, h + 1, 2, w + 1, 2, n).transpose(2, 4, 0, 1, 3, 5)
    # The barriers keep each copy a plain one: fused into its readers it would be recomputed for every shift.
    phases = optimization_barrier(phases)
    shifted = jnp.stack([phases[..., s : s + h, t : t + w, :] for s, t in SHIFTS])
    return optimization_barrier(shifted.reshape(16 * c, -1))


def _adjoint(y: Float[Array, "o h w n"], kernel: Float[Array, "4 4 c o"]) -> Float[Array, "c 2*h 2*w n"]:
    """The transpose of the convolution: one product gives the four phases, which are then interleaved."""
    (o, h, w, n), c = y.shape, kernel.shape[2]
    rows = _rows(kernel)
    if 4 * c < o:
        taps = optimization_barrier(rows @ y.reshape(o, -1)).reshape(4, 4 * c, h, w, n)
        moved = [
            jnp.pad(tap, ((0, 0), (s, 1 - s), (t, 1 - t), (0, 0))) for (s, t), tap in zip(SHIFTS, taps, strict=True)
        ]
        phases = moved[0] + moved[1] + moved[2] + moved[3]
    else:
        padded = jnp.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
        shifted = jnp.stack([padded[:, 1 - s : h + 2 - s, 1 - t : w + 2 - t] for s, t in SHIFTS])
        by_phase = rows.reshape(4, 4 * c, o).transpose(1, 0, 2).reshape(4 * c, 4 * o)
        phases = by_phase @ optimization_barrier(shifted.reshape(4 * o, -1))
    x = phases.reshape(2, 2, c, h + 1, w + 1, n).transpose(2, 3, 0, 4, 1, 5)
    return x.reshape(c, 2 * h + 2, 2 * w + 2, n)[:, 1:-1, 1:-1]
