"""Arrays of images to one picture: a grid of tiles, and a PNG file written whole or not at all."""

from __future__ import annotations

import io
import math
from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from qphi.files import atomic_write

__all__ = ["image_grid", "png_bytes", "save_png", "shrunk", "to_pixels"]

TILE = 56  # pixels: 8 x 8 digits are shown seven times as large, 28 x 28 twice
GAP = 2  # pixels of white between two tiles
WHITE = 255


def to_pixels(images: ArrayLike, limits: tuple[float | int, float | int] = (0.0, 1.0)) -> NDArray[np.uint8]:
    """Images (n, h, w) or (n, h, w, 1 to 4 channels) as bytes, (n, h, w) or (n, h, w, 3).

    uint8 is taken as it is. Anything else is mapped so that `limits` become 0 (black) and 255 (white); what
    lies beyond is cut off. A second or fourth channel is opacity: such images are laid on white. A pixel that is
    not finite is refused: no shade would be an honest picture of it.
    """
    images = np.asarray(images)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and not 2 <= images.shape[3] <= 4):
        raise ValueError(f"images need shape (n, h, w) or (n, h, w, 1 to 4 channels); got {images.shape}.")
    if images.dtype == np.uint8:
        return _on_white(images)
    low, high = (float(limit) for limit in limits)
    if not low < high:
        raise ValueError(f"limits need to be (low, high) with low < high; got {limits}.")
    shade = (images.astype(np.float32) - low) / (high - low)
    if not np.isfinite(shade).all():
        broken = int((~np.isfinite(shade).reshape(len(shade), -1).all(axis=1)).sum())
        raise ValueError(f"{broken} of {len(images)} images hold pixels that are not finite.")
    return _on_white(np.rint(255 * np.clip(shade, 0, 1)).astype(np.uint8))


def _on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey or colours without the opacity that may be the last channel."""
    if pixels.ndim == 3 or pixels.shape[3] == 3:
        return pixels
    opacity = pixels[..., -1:] / 255
    shown = np.rint(pixels[..., :-1] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return shown[..., 0] if shown.shape[3] == 1 else shown


def image_grid(
    images: ArrayLike,
    columns: int | None = None,
    *,
    limits: tuple[float | int, float | int] = (0.0, 1.0),
    tile: int = TILE,
    gap: int = GAP,
) -> NDArray[np.uint8]:
    """Many images as one, row by row, with thin white lines between: (H, W), or (H, W, 3) for colour.

    Without `columns` the grid is as nearly square as it can be. Images smaller than `tile` pixels are
    enlarged by a whole factor, nearest neighbour, so that no value is invented. `limits` is as in
    `to_pixels`, `gap` the thickness of the lines in pixels.

    >>> image_grid(np.zeros((4, 28, 28))).shape  # two by two tiles of 56, and one gap of 2
    (114, 114)
    """
    pixels = _enlarged(to_pixels(images, limits), tile)
    count, height, width = pixels.shape[:3]
    if count == 0:
        raise ValueError("there are no images to show.")
    if columns is not None and columns < 1:
        raise ValueError(f"columns needs to be at least 1; got {columns}.")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *pixels.shape[3:])
    grid = np.full(shape, WHITE, np.uint8)
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + gap), (index % columns) * (width + gap)
        grid[top : top + height, left : left + width] = image
    return grid


def save_png(path: str | PathLike[str], array: NDArray[np.uint8]) -> Path:
    """Write pixels (H, W) or (H, W, 3), uint8, as a PNG: beside its place first, then renamed."""
    path, content = Path(path), png_bytes(array)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return path


def png_bytes(array: NDArray[np.uint8]) -> bytes:
    """Pixels (H, W) or (H, W, 3), uint8, as the bytes of a PNG."""
    if array.dtype != np.uint8:
        raise TypeError(f"a PNG needs uint8 pixels, got {array.dtype}; `to_pixels` or `image_grid` makes them.")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Images scaled down to a longer side of `side`, averaging over areas; smaller ones as they are."""
    longer = max(pixels.shape[1:3])
    if longer <= side:
        return pixels
    height, width = (max(1, round(length * side / longer)) for length in pixels.shape[1:3])
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BOX)) for i in pixels])


def _enlarged(pixels: NDArray[np.uint8], tile: int) -> NDArray[np.uint8]:
    """Every pixel repeated so that the longer side comes to about `tile`."""
    longer = max(pixels.shape[1:3])
    if longer < 1:
        raise ValueError(f"images need at least one pixel; got shape {pixels.shape}.")
    repeat = max(1, round(tile / longer))
    return pixels.repeat(repeat, axis=1).repeat(repeat, axis=2)
