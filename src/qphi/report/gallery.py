"""Which pictures a report shows, in order, each with the words that go with it."""

from __future__ import annotations

import base64
import dataclasses

import numpy as np
from matplotlib.figure import Figure

from qphi import theme
from qphi.report import of_images, of_latents, of_vectors
from qphi.report.latent_map import latent_map
from qphi.report.pictures import png_bytes
from qphi.report.plots import kl_per_unit, training_curve
from qphi.report.subject import Drawings, Drawn, Maker, Subject
from qphi.report.words import MINUS

__all__ = ["Picture", "picture", "pictures"]

PAGE_PIXELS_PER_INCH = 100


@dataclasses.dataclass(frozen=True)
class Picture:
    """A titled figure of the page, or a note that says why it is missing."""

    title: str
    caption: str
    source: str = ""  # data: URI
    width: int = 0  # page pixels
    note: str = ""


def pictures(subject: Subject) -> list[Picture]:
    """Every picture there can be. One that fails says so in its place; the report is written all the same."""
    makers = _OF_IMAGES if subject.vae.image_ else _OF_VECTORS
    return [found for title, maker in makers for found in _tried(title, maker, subject)]


def _tried(title: str, maker: Maker, subject: Subject) -> list[Picture]:
    try:
        return [picture(title, drawn, caption) for drawn, caption in maker(subject)]
    except (ValueError, FloatingPointError, ArithmeticError) as error:
        return [Picture(title, "", note=f"This picture could not be drawn: {error}")]


def picture(title: str, drawn: Drawn, caption: str) -> Picture:
    """A figure or array as it goes into the page."""
    if isinstance(drawn, Figure):
        content, width = theme.png(drawn), theme.DPI * drawn.get_figwidth()
    else:
        content, width = png_bytes(drawn), drawn.shape[1]
    encoded = base64.b64encode(content).decode()
    width = round(width * PAGE_PIXELS_PER_INCH / theme.DPI)
    return Picture(title, caption, "data:image/png;base64," + encoded, width)


def _latent_map(subject: Subject) -> Drawings:
    if subject.means is None or subject.scales is None:
        return
    axes = tuple(int(unit) for unit in subject.units[:2])
    drawn = latent_map(subject.means, subject.scales, axes, subject.labels)
    ball = "Every datum is a Gaussian ball, its buffer zone: the mean and standard deviation of q(z | x)"
    colours = "in the colour of its label" if subject.labels is not None else "coloured by the density there"
    mean = f"The aggregate posterior q(z) is the mean of all {len(subject.means):,} balls"
    if len(axes) == 1:
        dense = "The latent space is dense where q(z) follows the prior without gaps."
        yield drawn, f"{ball}, {colours}. {mean}; dashed, the prior. {dense}"
        return
    seen = "the two latent units"
    if subject.vae.latent_dim > 2:
        seen += " with the largest KL; the others are integrated out"
    shades = "its shades hold 20, 40, 60, 80, 95 and 99 % of it, dark to light"
    dense = "The latent space is dense where the shades fill the prior's rings without holes."
    yield drawn, f"Seen along {seen}. {ball}, {colours}. {mean}; {shades}. Dashed: the prior. {dense}"


def _training(subject: Subject) -> Drawings:
    history = subject.vae.history_
    if not len(next(iter(history.values()), ())):
        return
    yield (
        training_curve(history, kept=getattr(subject.vae, "best_epoch_", None)),
        f"The ELBO in nats per datum, higher is better, and its two parts: ELBO = log likelihood {MINUS} KL. "
        "The model kept is that of the marked check. The steep start may lie below the picture.",
    )


def _kl(subject: Subject) -> Drawings:
    if subject.kl is None or subject.active is None or not np.isfinite(subject.kl).all():
        return
    units = f"{subject.active.sum()} of {subject.active.size} latent units are active"
    rest = "" if subject.active.all() else "; the others stay at the prior, cost nothing and say nothing"
    yield kl_per_unit(subject.kl, subject.active), f"How much each unit says about a datum. {units}{rest}."


_OF_IMAGES = (
    ("Samples", of_images.samples),
    ("Reconstructions", of_images.reconstructions),
    ("Between two data", of_images.interpolation),
    ("The latent map", _latent_map),
    ("The same plane, decoded", of_images.plane),
    ("Training", _training),
    ("KL of each latent unit", _kl),
    ("One latent unit at a time", of_images.traversals),
    ("Three ways between two data", of_latents.three_paths),
    ("Along the direction of a label", of_latents.attributes),
    ("Nearest in latent space", of_latents.neighbours),
)
_OF_VECTORS = (
    ("Samples", of_vectors.samples),
    ("Samples, further columns", of_vectors.further_columns),
    ("Reconstructions", of_vectors.columns_again),
    ("The latent map", _latent_map),
    ("Training", _training),
    ("KL of each latent unit", _kl),
)
