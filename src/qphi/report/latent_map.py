"""The latent map: every datum's Gaussian ball, the prior around them, and the density they add up to.

The encoder gives each datum x_i a ball q(z | x_i) = N(mean_i, diag(scale_i^2)), its buffer zone. Their
mixture q(z) = (1/n) sum_i q(z | x_i), the aggregate posterior, is where the decoder was trained; the KL term
draws it towards the prior N(0, I). Where it is dense without holes, a draw from the prior decodes to
something like the data.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import EllipseCollection, LineCollection
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from qphi import theme

__all__ = ["draw_balls", "latent_map", "map_limits", "mixture_density"]

BALLS = 1000  # drawn at most: more hide each other
RINGS = (1.0, 2.0, 3.0)  # standard deviations of the prior
MASSES = (0.99, 0.95, 0.8, 0.6, 0.4, 0.2)  # of q(z), inside the shaded regions from light to dark
CLASSES_AT_MOST = 20
FINEST_GRID = 400


def mixture_density(
    means: ArrayLike, scales: ArrayLike, xs: ArrayLike, ys: ArrayLike | None = None
) -> NDArray[np.float64]:
    """q(z) = (1/n) sum_i prod_j N(z_j; mean_ij, scale_ij^2), exactly, at the points of a grid.

    `means` and `scales` are (n, 1) with `xs` alone, which gives (len(xs),), or (n, 2) with both, which
    gives (len(ys), len(xs)). Units: one over latent units, or over their square.
    """
    means, scales = np.asarray(means, float), np.asarray(scales, float)
    along_x = _normal(np.asarray(xs, float), means[:, 0], scales[:, 0])
    if ys is None:
        return along_x.mean(axis=1)
    # Axis-aligned Gaussians factor, so the sum over data is one matrix product.
    along_y = _normal(np.asarray(ys, float), means[:, 1], scales[:, 1])
    return along_y @ along_x.T / len(means)


def _normal(points: NDArray, means: NDArray, scales: NDArray) -> NDArray:
    """N(points; means, scales^2) as a matrix (points, data)."""
    standard = (points[:, None] - means) / scales
    return np.exp(-0.5 * standard**2) / (scales * np.sqrt(2 * np.pi))


def map_limits(means: NDArray, scales: NDArray) -> float:
    """Half the side of a square around zero that holds the prior's third ring and nearly every ball."""
    reach = np.abs(means) + 2 * scales
    return float(max(1.1 * RINGS[-1], 1.05 * np.quantile(reach, 0.998)))


def latent_map(means: NDArray, scales: NDArray, axes: tuple[int, ...], labels: NDArray | None = None) -> Figure:
    """The map of two latent axes, or of the only one there is.

    `means` and `scales` are (n, latent_dim); at most a thousand balls are drawn, the same ones every time,
    while the density is that of all n. The other axes are not cut but integrated out.
    """
    means, scales = np.asarray(means, float)[:, axes], np.asarray(scales, float)[:, axes]
    if not (np.isfinite(means).all() and np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError("some codes are not finite, or have a scale of zero.")
    return _line(means, scales, axes, labels) if len(axes) == 1 else _plane(means, scales, axes, labels)


def _plane(means: NDArray, scales: NDArray, axes: tuple[int, ...], labels: NDArray | None) -> Figure:
    """Two panels of one plane: the balls on the left, the density they add up to on the right."""
    drawn = theme.figure(9.0, 4.85)
    left, right = drawn.subplots(1, 2, sharex=True, sharey=True)
    limit = map_limits(means, scales)
    balls = _chosen(len(means))
    colours = Colours.of(labels, mixture_density_at(means, scales, means[balls]), balls)
    for plot, title in ((left, "Every datum, a ball"), (right, "What they add up to: q(z)")):
        theme.style(plot, x=f"latent unit {axes[0]} (prior sd)", title=title, grid=None)
        plot.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        _draw_rings(plot)
    left.set_ylabel(f"latent unit {axes[1]} (prior sd)", color=theme.INK, fontsize=theme.SIZE)
    draw_balls(left, means[balls], scales[balls], colours.each)
    colours.explain(drawn, left, means[balls])
    _draw_density(right, means, scales, limit)
    return drawn


def _draw_rings(plot: Axes) -> None:
    """The prior's contours, named at the top."""
    for ring in RINGS:
        plot.add_patch(Circle((0, 0), ring, fill=False, edgecolor=theme.INK, lw=0.8, ls=(0, (4, 3)), zorder=3))
        name = f"prior, {ring:g} sd" if ring == RINGS[-1] else f"{ring:g} sd"
        _write(plot, 0.0, ring, name, theme.INK)


def _draw_density(plot: Axes, means: NDArray, scales: NDArray, limit: float) -> None:
    points = _grid_points(limit, scales)
    density = mixture_density(means, scales, points, points)
    levels = _levels(density)
    if len(levels) > 1:
        plot.contourf(points, points, density, levels=levels, cmap=theme.DENSITY, extend="max", zorder=1)
        plot.contour(points, points, density, levels=levels, colors="white", linewidths=0.5, zorder=2)


def draw_balls(plot: Axes, means: NDArray, scales: NDArray, colours: NDArray) -> None:
    """Every ball an ellipse whose radii are the scales, in the units of the axes."""
    plot.add_collection(
        EllipseCollection(
            2 * scales[:, 0],
            2 * scales[:, 1],
            np.zeros(len(means)),
            units="xy",
            offsets=means,
            offset_transform=plot.transData,
            facecolors=_faded(colours, 0.18),
            edgecolors=_faded(colours, 0.6),
            linewidths=0.4,
            zorder=2,
        )
    )


def _line(means: NDArray, scales: NDArray, axes: tuple[int, ...], labels: NDArray | None) -> Figure:
    """One latent unit: the two densities above, every ball as the stretch mean +- scale below."""
    drawn = theme.figure(9.0, 5.2)
    above, below = drawn.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    limit = map_limits(means, scales)
    points = np.linspace(-limit, limit, 2001)
    theme.style(above, y="density (per prior sd)")
    density = mixture_density(means, scales, points)
    prior = np.exp(-0.5 * points**2) / np.sqrt(2 * np.pi)
    above.fill_between(points, density, color=theme.ACCENT, alpha=0.25, linewidth=0)
    above.plot(points, density, color=theme.ACCENT, label="aggregate posterior q(z)")
    above.plot(points, prior, color=theme.INK, ls=(0, (4, 3)), lw=1, label="prior")
    above.legend(frameon=False, fontsize=theme.SIZE - 1, labelcolor=theme.INK)
    theme.style(below, x=f"latent unit {axes[0]} (prior sd)", y="data, in order", grid="x")
    balls = _chosen(len(means))
    balls = balls[np.argsort(means[balls, 0])]
    colours = Colours.of(labels, mixture_density(means, scales, means[balls, 0]), balls)
    height = np.arange(len(balls), dtype=float)
    ends = means[balls] + scales[balls] * [-1, 1]
    segments = np.stack([ends, np.stack([height, height], axis=1)], axis=2)
    each = list(_faded(colours.each, 0.6))
    below.add_collection(LineCollection(list(segments), colors=each, linewidths=1))
    below.set(xlim=(-limit, limit), ylim=(-1, len(balls)))
    colours.explain(drawn, below, np.stack([means[balls, 0], height], axis=1))
    return drawn


def mixture_density_at(means: NDArray, scales: NDArray, points: NDArray) -> NDArray:
    """q(z) at single points (m, 2)."""
    along = [_normal(points[:, axis], means[:, axis], scales[:, axis]) for axis in range(2)]
    return np.mean(along[0] * along[1], axis=1)


@dataclasses.dataclass(frozen=True)
class Colours:
    """A colour for every ball, and what colours mean: classes, a number, or the density at the ball."""

    each: NDArray  # (balls, 4)
    classes: NDArray | None = None
    labels: NDArray | None = None
    scale: ScalarMappable | None = None
    meaning: str = ""

    @classmethod
    def of(cls, labels: NDArray | None, density: NDArray, balls: NDArray) -> Colours:
        if labels is not None:
            labels = np.asarray(labels)
            classes = np.unique(labels)
            if len(classes) <= CLASSES_AT_MOST:
                palette = np.array([to_rgba(colour) for colour in theme.class_colours(len(classes))])
                return cls(palette[np.searchsorted(classes, labels[balls])], classes, labels[balls])
            if np.issubdtype(labels.dtype, np.number):
                return cls._graded(labels[balls].astype(float), "label")
        with np.errstate(divide="ignore"):
            return cls._graded(np.log(density), "log q(z) at the ball's centre (nats)")

    @classmethod
    def _graded(cls, values: NDArray, meaning: str) -> Colours:
        finite = values[np.isfinite(values)]
        low, high = np.quantile(finite, [0.02, 0.98]) if finite.size else (0.0, 1.0)
        scale = ScalarMappable(Normalize(low, high if high > low else low + 1), "viridis")
        scale.set_array(values)
        return cls(np.asarray(scale.to_rgba(values)), scale=scale, meaning=meaning)

    def explain(self, drawn: Figure, plot: Axes, places: NDArray) -> None:
        """Name each class at the middle of its balls, or add a bar for the scale."""
        if self.scale is not None:
            bar = drawn.colorbar(self.scale, ax=plot, location="bottom", fraction=0.04, aspect=40)
            bar.set_label(self.meaning, color=theme.INK, fontsize=theme.SIZE - 1)
            bar.ax.tick_params(colors=theme.MUTED, labelsize=theme.SIZE - 1.5)
            bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        if self.classes is None or self.labels is None:
            return
        for index, name in enumerate(self.classes):
            mine = self.labels == name
            if mine.any():
                x, y = np.median(places[mine], axis=0)
                colour = theme.class_colours(index + 1)[-1]
                _write(plot, float(x), float(y), name, colour, size=theme.SIZE + 3, weight="bold")


def _write(
    plot: Axes, x: float, y: float, text: object, colour: str, *, size: float = 7.5, weight: str = "normal"
) -> None:
    """Text with a white rim, readable on top of anything."""
    written = plot.text(x, y, theme.plain(text), color=colour, fontsize=size, fontweight=weight, zorder=5)
    written.set(ha="center", va="center", path_effects=[withStroke(linewidth=2.5, foreground="white")])
    written.set_clip_on(True)


def _chosen(count: int) -> NDArray:
    """Which balls are drawn: all, or the same thousand every time."""
    if count <= BALLS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, BALLS, replace=False))


def _faded(colours: NDArray, alpha: float) -> NDArray:
    return np.column_stack([np.asarray(colours)[:, :3], np.full(len(colours), alpha)])


def _grid_points(limit: float, scales: NDArray) -> NDArray:
    """Points fine enough for the narrower balls, within reason."""
    needed = 2 * limit / max(float(np.quantile(scales, 0.1)), 1e-9)
    return np.linspace(-limit, limit, int(np.clip(needed * 2, 161, FINEST_GRID)))


def _levels(density: NDArray) -> list[float]:
    """The heights whose regions {q > height} hold `MASSES` of the probability on the grid."""
    descending = np.sort(density, axis=None)[::-1]
    mass = np.cumsum(descending)
    if not mass[-1] > 0:
        return []
    places = np.searchsorted(mass, np.array(MASSES) * mass[-1])
    return sorted({float(descending[min(place, len(descending) - 1)]) for place in places} - {0.0})
