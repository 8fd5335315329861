"""Pictures of moving about in latent space: three ways between two data, attributes, neighbours."""

from __future__ import annotations

import numpy as np

from qphi.report.of_images import shades
from qphi.report.strips import image_strip
from qphi.report.subject import Drawings, Subject

__all__ = ["attributes", "neighbours", "three_paths"]

STRENGTHS = np.linspace(-1, 1, 9)
LABELS = 6  # lines at most


def three_paths(subject: Subject) -> Drawings:
    if subject.x is None or subject.shown is None or len(subject.shown) < 2:
        return
    first, last = (subject.x[place] for place in subject.shown[:2])
    paths = ("linear", "spherical", "geodesic")
    walks = [np.asarray(subject.vae.interpolate(first, last, steps=11, path=path)) for path in paths]
    yield (
        image_strip(shades(subject.vae, np.concatenate(walks)), 11, row_names=paths, tile=130),
        "Three ways from one datum to another: straight; turning and growing evenly, which stays where the prior has "
        "its mass; and the way on which the decoded pictures change least in all, a geodesic of the decoder.",
    )


def attributes(subject: Subject) -> Drawings:
    if subject.x is None or subject.shown is None or subject.labels is None:
        return
    kinds = np.unique(subject.labels)
    if not 1 < len(kinds) <= 100:
        return
    datum, own = subject.x[subject.shown[0]], subject.labels[subject.shown[0]]
    chosen = [kind for kind in kinds if kind != own][:LABELS]
    lines = []
    for kind in chosen:
        vector = subject.vae.attribute_vector(subject.x, subject.labels == kind)
        lines.append(np.asarray(subject.vae.shift(datum, vector, strengths=STRENGTHS)))
    names = [f"label {kind}" for kind in chosen]
    yield (
        image_strip(shades(subject.vae, np.concatenate(lines)), len(STRENGTHS), row_names=names, tile=130),
        f"One datum (label {own}) moved along the direction of each label, the mean code of its data less that of all "
        "others, from -1 to 1 times it; the middle column is its reconstruction.",
    )


def neighbours(subject: Subject) -> Drawings:
    if subject.x is None or subject.shown is None or len(subject.x) < 8:
        return
    rows = subject.x[subject.shown[:4]]
    places, _ = subject.vae.neighbours(rows, subject.x, k=8)
    yield (
        image_strip(shades(subject.vae, subject.x[places.ravel()]), 8, tile=130),
        "Data whose codes are nearest: each line begins with a datum, then its seven nearest neighbours in latent "
        "space. Near codes should be alike to the eye.",
    )
