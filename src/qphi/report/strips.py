"""Images in rows and columns that have names, drawn pixel by pixel: nothing is blurred into its neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from qphi import theme
from qphi.report.pictures import WHITE, image_grid, shrunk

__all__ = ["image_strip"]

PAGE = 9 * theme.DPI  # pixels of the file across the page
GAP = 4  # pixels between two images
MARGIN = 24  # pixels between a name and the images


def image_strip(
    pixels: NDArray[np.uint8],
    columns: int,
    *,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    tile: int = 112,
) -> NDArray[np.uint8]:
    """A grid of images with names to the left of its rows and below its columns: (H, W) or (H, W, 3).

    Images are enlarged by a whole factor up to `tile` pixels, larger ones are shrunk to it, and all of it is
    no wider than the page.
    """
    left = MARGIN + max(_width(name) for name in row_names) if row_names else 0
    tile = max(1, min(tile, (PAGE - left) // columns - GAP))
    pixels = shrunk(pixels, tile)
    tile -= tile % max(pixels.shape[1:3])  # whole blocks, and never wider than the page
    grid = image_grid(pixels, columns, tile=tile, gap=GAP)
    height, width = grid.shape[:2]
    below = 3 * MARGIN if column_names else 0
    page = np.full((height + below, left + width, *grid.shape[2:]), WHITE, np.uint8)
    page[:height, left:] = grid
    picture = Image.fromarray(page)
    pen = ImageDraw.Draw(picture)
    ink = theme.INK if grid.ndim == 3 else 40
    for index, name in enumerate(row_names):
        middle = (index + 0.5) * (height + GAP) / len(row_names)
        pen.text((0, middle), name, fill=ink, font=_font(), anchor="lm")
    for index, name in enumerate(column_names):
        middle = left + (index + 0.5) * (width + GAP) / columns
        pen.text((middle, height + 1.5 * MARGIN), name, fill=ink, font=_font(), anchor="mm")
    return np.asarray(picture)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The font of matplotlib's figures, at their size."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, round(theme.SIZE * theme.DPI / 72))


def _width(name: str) -> int:
    return round(_font().getlength(name))
