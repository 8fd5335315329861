"""The report's curves, bars and points: training, KL per unit, and data against samples for vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qphi import theme

__all__ = [
    "data_against_samples",
    "kl_per_unit",
    "marginals",
    "reconstructed_columns",
    "training_curve",
]

History = Mapping[str, Sequence[float | int | None]]
RATE_DROPS_AT_MOST = 12  # more of them are a schedule, which vertical lines would not show
NAMED_UNITS_AT_MOST = 40


def training_curve(history: History, *, kept: float | int | None = None) -> Figure:
    """The ELBO, training and held-out, with the kept check marked; beside it the held-out one's two parts.

    `kept` is the epoch of the check whose model was kept; without it, that with the highest held-out ELBO.
    """
    drawn = theme.figure(9.0, 3.6, margins=(0.75, 0.65, 0.55, 0.3))
    left, right = drawn.subplots(1, 2, width_ratios=(3, 2), gridspec_kw={"wspace": 0.28})
    along = _column(history, "epoch")
    training, held_out = _column(history, "elbo_per_datum"), _column(history, "held_out_elbo_per_datum")
    theme.style(left, x="epoch", y="nats per datum", title="ELBO")
    left.plot(along, training, color=theme.MUTED, lw=1.1, label="training")
    left.plot(along, held_out, color=theme.ACCENT, lw=1.6, label="held out")
    best = _kept_check(along, held_out, kept)
    if best is not None:
        label = f"kept, epoch {along[best]:.4g}"
        left.plot(along[best], held_out[best], "o", color=theme.SECOND, ms=6, label=label, zorder=4)
    _mark_rate_drops(left, along, _column(history, "learning_rate"))
    _settled_limits(left, np.stack([training, held_out]))
    left.legend(frameon=False, fontsize=theme.SIZE - 1, labelcolor=theme.INK, loc="lower right")
    _parts(right, along, history)
    return drawn


def _parts(plot: Axes, along: NDArray, history: History) -> None:
    """Log likelihood on the left axis, KL on the right one: they differ by far too much for one."""
    likelihood, kl = _column(history, "log_likelihood_per_datum"), _column(history, "kl_per_datum")
    theme.style(plot, x="epoch", y="log likelihood (nats per datum)", title="Its two parts, held out")
    plot.plot(along, likelihood, color=theme.ACCENT, lw=1.5)
    _settled_limits(plot, likelihood[None])
    plot.yaxis.label.set_color(theme.ACCENT)
    other = plot.twinx()
    theme.style(other, y="KL (nats per datum)", grid=None)
    other.plot(along, kl, color=theme.SECOND, lw=1.5, ls=(0, (5, 2)))
    other.set_ylim(0, 1.08 * theme.spread(kl, 0.0)[1])
    other.yaxis.label.set_color(theme.SECOND)
    other.spines["left"].set_visible(False)
    other.spines["right"].set_visible(True)


def _kept_check(along: NDArray, held_out: NDArray, kept: float | int | None) -> int | None:
    """The check whose model was kept: that of epoch `kept`, or else that with the highest held-out ELBO."""
    if not np.isfinite(held_out).any():
        return None
    return int(np.nanargmax(held_out) if kept is None else np.argmin(np.abs(along - kept)))


def _mark_rate_drops(plot: Axes, along: NDArray, rate: NDArray) -> None:
    drops = np.flatnonzero(rate[1:] < 0.99 * rate[:-1]) + 1
    if 0 < len(drops) <= RATE_DROPS_AT_MOST:
        for index, drop in enumerate(drops):
            label = "learning rate lowered" if index == 0 else None
            plot.axvline(along[drop], color=theme.MUTED, lw=0.8, ls=(0, (1, 2)), label=label, zorder=0)


def _settled_limits(plot: Axes, curves: NDArray) -> None:
    """Leave the plunge of the first checks out of the picture, where it would flatten everything after it."""
    count = curves.shape[1]
    settled = curves[:, count // 10 :] if count >= 10 else curves
    plot.set_ylim(*theme.spread(settled, 0.08))


def _column(history: History, name: str) -> NDArray:
    """One column of the history; what was not recorded is NaN, which draws nothing."""
    length = len(next(iter(history.values()), ()))
    return np.asarray([np.nan if v is None else v for v in history.get(name, [np.nan] * length)], float)


def kl_per_unit(kl: NDArray, active: NDArray) -> Figure:
    """KL of every latent unit, largest first; those that carry information in colour."""
    kl, active = np.asarray(kl, float), np.asarray(active, bool)
    order = np.argsort(-kl, kind="stable")
    drawn = theme.figure(min(9.0, 3.0 + 0.5 * len(kl)), 2.8, margins=(0.75, 0.1, 0.55, 0.15))
    plot = theme.style(drawn.add_subplot(), x="latent unit, by KL", y="KL (nats per datum)")
    places = np.arange(len(kl))
    for group, colour, name in ((True, theme.ACCENT, "active"), (False, "#b4bdc6", "not in use")):
        mine = active[order] == group
        if mine.any():
            plot.bar(places[mine], kl[order][mine], color=colour, label=f"{name} ({mine.sum()})", width=0.82)
    if len(kl) <= NAMED_UNITS_AT_MOST:
        plot.set_xticks(places, [str(unit) for unit in order])
        plot.tick_params(axis="x", length=0)
    plot.set_xlim(-0.7, len(kl) - 0.3)
    plot.set_ylim(0, 1.2 * max(theme.spread(kl, 0.0)[1], 1e-3))  # room for the legend
    plot.legend(frameon=False, fontsize=theme.SIZE - 1, labelcolor=theme.INK)
    return drawn


def data_against_samples(data: NDArray, samples: NDArray, names: Sequence[str], *, most: int = 4) -> Figure:
    """Columns in pairs: histograms on the diagonal, the data as points below it and samples above.

    With a single column there is one histogram. Only the first `most` columns are drawn.
    """
    width = min(data.shape[1], most)
    drawn = theme.figure(9.0, 3.4 if width == 1 else 8.2, margins=(0.7, 0.1, 0.55, 0.4))
    grid = drawn.subplots(width, width, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.08})
    limits = [_column_limits(data[:, j], samples[:, j]) for j in range(width)]
    for (row, column), plot in np.ndenumerate(grid):
        theme.style(plot, grid=None)
        plot.set_xlim(*limits[column])
        if row == column:
            _histograms(plot, data[:, row], samples[:, row], limits[row])
        else:
            points, colour = (data, theme.INK) if row > column else (samples, theme.ACCENT)
            plot.scatter(points[:, column], points[:, row], s=5, color=colour, alpha=0.4, linewidths=0)
            plot.set_ylim(*limits[row])
        plot.tick_params(labelbottom=row == width - 1, labelleft=column == 0 and row > 0)
        if row == width - 1:
            plot.set_xlabel(theme.plain(names[column]), fontsize=theme.SIZE, color=theme.INK)
        if column == 0 and row > 0:
            plot.set_ylabel(theme.plain(names[row]), fontsize=theme.SIZE, color=theme.INK)
        plot.locator_params(nbins=4)
    _legend_above(drawn, grid[0, 0])
    return drawn


def marginals(data: NDArray, samples: NDArray, names: Sequence[str], *, most: int = 8) -> Figure:
    """A histogram of every one of the first `most` columns, data against samples."""
    count = min(data.shape[1], most)
    across = min(count, 4)
    down = -(-count // across)
    drawn = theme.figure(9.0, 1.9 * down + 0.4, margins=(0.1, 0.1, 0.55, 0.4))
    grid = drawn.subplots(down, across, squeeze=False, gridspec_kw={"wspace": 0.15, "hspace": 0.5})
    for index, plot in enumerate(grid.flat):
        if index >= count:
            plot.set_axis_off()
            continue
        theme.style(plot, x=theme.plain(names[index]), grid=None)
        limits = _column_limits(data[:, index], samples[:, index])
        _histograms(plot, data[:, index], samples[:, index], limits)
        plot.locator_params(axis="x", nbins=4)
    _legend_above(drawn, grid[0, 0])
    return drawn


def _legend_above(drawn: Figure, plot: Axes) -> None:
    handles, names = plot.get_legend_handles_labels()
    legend = drawn.legend(handles, names, loc="upper right", ncols=2, frameon=False)
    for text in legend.get_texts():
        text.set(color=theme.INK, fontsize=theme.SIZE - 1)


def _histograms(plot: Axes, data: NDArray, samples: NDArray, limits: tuple[float, float]) -> None:
    edges = np.linspace(*limits, 33).tolist()
    plot.hist(data, edges, density=True, color="#b4bdc6", label="data")
    plot.hist(samples, edges, density=True, histtype="step", color=theme.ACCENT, lw=1.4, label="samples")
    plot.set_yticks([])
    plot.spines["left"].set_visible(False)


def _column_limits(data: NDArray, samples: NDArray) -> tuple[float, float]:
    """Wide enough for the data and nearly every sample, so that one stray draw does not squash the rest."""
    return theme.spread(np.concatenate([data, np.quantile(samples, [0.005, 0.995])]), 0.05)


def reconstructed_columns(data: NDArray, again: NDArray, names: Sequence[str], *, most: int = 8) -> Figure:
    """Each of the first `most` columns against its reconstruction; a perfect one lies on the line."""
    count = min(data.shape[1], most)
    across = min(count, 4)
    down = -(-count // across)
    drawn = theme.figure(0.8 + 2.05 * across, 0.3 + 2.3 * down, margins=(0.7, 0.1, 0.55, 0.1))
    grid = drawn.subplots(down, across, squeeze=False, gridspec_kw={"wspace": 0.28, "hspace": 0.38})
    for index, plot in enumerate(grid.flat):
        if index >= count:
            plot.set_axis_off()
            continue
        y = "reconstruction" if index % across == 0 else ""
        theme.style(plot, x=theme.plain(names[index]), y=y, grid=None)
        limits = theme.spread(data[:, index])
        plot.plot(limits, limits, color=theme.SECOND, lw=0.9)
        plot.scatter(data[:, index], again[:, index], s=5, color=theme.ACCENT, alpha=0.4, linewidths=0)
        plot.set(xlim=limits, ylim=limits)
        plot.locator_params(nbins=4)
    return drawn
