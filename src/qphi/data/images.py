"""A folder of PNG or JPEG pictures as one array."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from qphi.errors import InputError

__all__ = ["read_folder"]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_folder(folder: str | Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Every PNG and JPEG under `folder`, in the order of their paths, and their classes.

    Grey pictures give (n, h, w), uint8 (uint16 for 16-bit ones). If any is in colour, all become
    (n, h, w, 3). Transparent pictures are laid on white, which is how they look on a page; dropping the alpha
    channel would bring out colours that nobody sees. Rotations noted by a camera are carried out. If every
    picture stands in a sub-folder, the name of the first sub-folder is its class.
    """
    folder = Path(folder)
    paths = _find(folder)
    pictures = [_read(path) for path in paths]
    _check_sizes(folder, paths, pictures)
    _check_depths(paths, pictures)
    if any(picture.ndim == 3 for picture in pictures):
        pictures = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]
    inside = [path.relative_to(folder).parts for path in paths]
    labels = np.array([parts[0] for parts in inside]) if all(len(parts) > 1 for parts in inside) else None
    return np.stack(pictures), labels


def _find(folder: Path) -> list[Path]:
    found = [
        path
        for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts)
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    paths = [path for path in found if path.suffix.lower() in _SUFFIXES]
    if not paths:
        others = Counter(path.suffix.lower() or "(no suffix)" for path in found)
        listed = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4)) or "it is empty"
        raise InputError(
            f"no PNG or JPEG pictures in the folder {folder} ({listed}). Convert them, or give another one."
        )
    return paths


def _read(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as opened:
            return np.asarray(_plain(ImageOps.exif_transpose(opened)))
    except _UNREADABLE as error:
        why = "it is not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise InputError(f"cannot read the picture {path}: {why}. Repair it or take it out of the folder.") from error


def _plain(picture: Image.Image) -> Image.Image | np.ndarray:
    """The picture as grey (8 or 16 bit) or RGB, without palette and transparency."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):  # 16-bit grey; PNG has no deeper grey
        return np.asarray(picture).astype(np.uint16)
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode in ("LA", "La") or (picture.mode == "L" and "transparency" in picture.info):
        picture = picture.convert("LA")
        white = Image.new("L", picture.size, 255)
        white.paste(picture.getchannel("L"), mask=picture.getchannel("A"))
        return white
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("RGB")


def _check_sizes(folder: Path, paths: list[Path], pictures: list[np.ndarray]) -> None:
    sizes = [(picture.shape[1], picture.shape[0]) for picture in pictures]
    usual, count = Counter(sizes).most_common(1)[0]
    odd = [(path, size) for path, size in zip(paths, sizes, strict=True) if size != usual]
    if odd:
        path, (width, height) = odd[0]
        more = f" ({len(odd)} of the {len(paths)} pictures differ)" if len(odd) > 1 else ""
        raise InputError(
            f"pictures of mixed sizes: {path} is {width} x {height} pixels, {count} others in {folder} are "
            f"{usual[0]} x {usual[1]}{more}. Resize or crop them to one size, or take them out."
        )


def _check_depths(paths: list[Path], pictures: list[np.ndarray]) -> None:
    depths = [picture.dtype for picture in pictures]
    usual = Counter(depths).most_common(1)[0][0]
    for path, depth in zip(paths, depths, strict=True):
        if depth != usual:
            raise InputError(
                f"pictures of mixed depth: {path} has {8 * depth.itemsize} bits a channel, others have "
                f"{8 * usual.itemsize}. Convert them to one depth."
            )
