"""Arrays of data as files: `.npy`, with a picture of the same name beside it when the data are images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qphi.cli.console import say
from qphi.files import atomic_write, check_writable

if TYPE_CHECKING:
    from qphi import VAE

__all__ = ["write_images"]

MOST_TILES = 400  # in one picture; the array always has all


def write_images(
    vae: VAE, rows: np.ndarray, path: Path, *, columns: int | None = None, shown: np.ndarray | None = None
) -> None:
    """Writes `path` as .npy and, for images, as .png, which has `shown` in place of `rows` if it is given."""
    array = check_writable(path.with_suffix(".npy"))
    with atomic_write(array) as temporary:
        np.save(temporary, rows)
    say(f"{len(rows)} {'images' if _are_pictures(vae, rows) else 'rows'} as an array {rows.shape} in {array}")
    if vae.levels_ is None or not _are_pictures(vae, rows):
        return
    from qphi.report.pictures import image_grid, save_png

    # as numbers: a byte here is a level like any other (1 of 0 and 1, say), not yet a shade
    shown = np.asarray(rows if shown is None else shown, np.float32)[:MOST_TILES]
    picture = check_writable(path.with_suffix(".png"))
    save_png(picture, image_grid(shown, columns, limits=vae.levels_))
    say(f"{len(shown)} of them as a picture in {picture}" if len(shown) < len(rows) else f"a picture in {picture}")


def _are_pictures(vae: VAE, rows: np.ndarray) -> bool:
    return vae.image_ and rows.ndim in (3, 4)
