"""The pictures of a model of images: what it makes of the prior, of data, and of the places between."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qphi.report.pictures import to_pixels
from qphi.report.strips import image_strip
from qphi.report.subject import SEED, Drawings, Subject
from qphi.report.words import MINUS

__all__ = ["interpolation", "plane", "reconstructions", "samples", "shades", "traversals"]

SAMPLES = 48
TRAVERSED_UNITS = 8
TRAVERSAL = np.linspace(-3, 3, 13)  # standard deviations of the prior


def samples(subject: Subject) -> Drawings:
    drawn = _strip(subject.vae, subject.vae.sample(SAMPLES, random_state=SEED), 12, tile=150)
    yield drawn, "Draws z from the prior, decoded: what the model takes the data to look like."


def reconstructions(subject: Subject) -> Drawings:
    if subject.x is None or subject.shown is None:
        return
    data = subject.x[subject.shown[:12]]
    again = np.asarray(subject.vae.reconstruct(data))
    low, high = subject.vae.levels_
    difference = (again.astype(float) - data.astype(float)) / (high - low)
    pictures = [_coloured(shades(subject.vae, images)) for images in (data, again)]
    names = ("data", "reconstruction", "difference")
    yield (
        image_strip(np.concatenate([*pictures, _signed(difference)]), len(data), row_names=names, tile=130),
        "Each datum, its code's mean decoded again, and the difference: red where the reconstruction is "
        "brighter, blue where it is darker, white where they agree.",
    )


def interpolation(subject: Subject) -> Drawings:
    if subject.x is None or subject.shown is None or len(subject.shown) < 2:
        return
    rows = []
    for first, last in _pairs(subject):
        between = np.asarray(subject.vae.interpolate(subject.x[first], subject.x[last], steps=9))
        rows += [subject.x[first][None], between, subject.x[last][None]]
    strip = np.concatenate([np.asarray(row, float) for row in rows])
    names = ("datum", *("" for _ in range(4)), "halfway", *("" for _ in range(4)), "datum")
    yield (
        _strip(subject.vae, strip, 11, column_names=names, tile=150),
        "From one datum to another in a straight line through the latent space, every step decoded. In a "
        "dense latent space the places between two data decode to something plausible as well.",
    )


def _pairs(subject: Subject, count: int = 4) -> list[tuple[int, int]]:
    """Positions of a few pairs to go between, of different labels where there are labels."""
    assert subject.shown is not None
    left, pairs = list(subject.shown), []
    while len(left) > 1 and len(pairs) < count:
        first = left.pop(0)
        labels = subject.labels
        different = [] if labels is None else [place for place in left if labels[place] != labels[first]]
        last = (different or left)[0]
        left.remove(last)
        pairs.append((int(first), int(last)))
    return pairs


def plane(subject: Subject) -> Drawings:
    if subject.vae.latent_dim < 2:
        return
    across, up = (int(unit) for unit in subject.units[:2])
    z = np.zeros((TRAVERSAL.size**2, subject.vae.latent_dim), np.float32)
    z[:, across] = np.tile(TRAVERSAL, TRAVERSAL.size)
    z[:, up] = np.repeat(TRAVERSAL[::-1], TRAVERSAL.size)
    decoded = subject.vae.inverse_transform(z)
    names = [_signed_number(value) for value in TRAVERSAL]
    others = ", every other unit at 0" if subject.vae.latent_dim > 2 else ""
    yield (
        _strip(subject.vae, decoded, TRAVERSAL.size, row_names=names[::-1], column_names=names, tile=104),
        f"What the decoder makes of every place: unit {across} runs to the right, unit {up} upwards, from "
        f"{names[0]} to {names[-1]} standard deviations of the prior{others}.",
    )


def traversals(subject: Subject) -> Drawings:
    units = subject.units
    if subject.active is not None and subject.active.any():
        units = units[subject.active[units]]
    units = units[:TRAVERSED_UNITS]
    z = np.zeros((len(units), TRAVERSAL.size, subject.vae.latent_dim), np.float32)
    for row, unit in enumerate(units):
        z[row, :, unit] = TRAVERSAL
    names = [_signed_number(value) for value in TRAVERSAL]
    decoded = subject.vae.inverse_transform(z.reshape(-1, z.shape[2]))
    units_named = [f"unit {unit}" for unit in units]
    which = "The units with the largest KL" if subject.kl is not None else "The first units"
    yield (
        _strip(subject.vae, decoded, TRAVERSAL.size, row_names=units_named, column_names=names, tile=104),
        f"{which}, one at a time, from {names[0]} to {names[-1]} standard deviations of the prior with every "
        "other unit at 0.",
    )


def _strip(vae: Any, images: Any, columns: int, **options: Any) -> NDArray[np.uint8]:
    return image_strip(shades(vae, images), columns, **options)


def shades(vae: Any, images: Any) -> NDArray[np.uint8]:
    """Images in the data's own units as shades. A uint8 here is a level like any other, not yet a shade."""
    return to_pixels(np.asarray(images, np.float32), vae.levels_)


def _signed(difference: NDArray) -> NDArray[np.uint8]:
    """Differences in units of the display range, as colours from blue (-1) over white to red (1)."""
    if difference.ndim == 4:
        difference = difference.mean(axis=3)
    strength = np.clip(np.abs(difference), 0, 1)[..., None]
    full = np.where(difference[..., None] > 0, (178, 24, 43), (33, 102, 172))
    return np.rint(255 + strength * (full - 255.0)).astype(np.uint8)


def _coloured(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels if pixels.ndim == 4 else np.repeat(pixels[..., None], 3, axis=3)


def _signed_number(value: float) -> str:
    return f"{value:g}".replace("-", MINUS)
