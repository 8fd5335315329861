"""Pictures of a posterior: marginals with their trust, and pairs."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from qphi import theme
from qphi.draws import Pool
from qphi.targets.base import component_names
from qphi.verdict import Verdict

__all__ = ["marginal_figure", "pair_figure"]

MOST_MARGINALS, MOST_PAIRED = 24, 5
_BINS, _POINTS = 48, 2000
_TRIMMED = 0.002  # of the weight, on each side, beyond the limits of a picture


def marginal_figure(pool: Pool, verdict: Verdict, q_draws: dict[str, np.ndarray] | None = None) -> Figure:
    """A histogram of each component; one whose mean or sd is not to be believed says so and is drawn in vermilion.

    `q_draws`: draws of q itself, drawn as a line, where they differ from the pool.
    """
    columns = list(itertools.islice(_columns(pool, verdict), MOST_MARGINALS))
    across = min(len(columns), 4)
    down = -(-len(columns) // across)
    drawn = theme.figure(2.25 * across, 1.75 * down + 0.5, margins=(0.15, 0.15, 0.4, 0.45))
    grid = drawn.subplots(down, across, squeeze=False, gridspec_kw={"hspace": 0.75, "wspace": 0.12})
    for plot, found in itertools.zip_longest(grid.flat, columns):
        if found is None:
            plot.set_axis_off()
            continue
        label, place, values, believed = found
        theme.style(plot, title=theme.plain(label) + ("" if believed else "  ?"), grid=None)
        limits = _limits(values, pool.weights)
        edges = np.linspace(limits[0], limits[1], _BINS + 1).tolist()
        colour = theme.ACCENT if believed else theme.SECOND
        plot.hist(values, edges, weights=pool.weights, density=True, color=colour, alpha=0.55)
        if q_draws is not None:
            name, index = place
            other = np.asarray(q_draws[name], float).reshape(len(q_draws[name]), -1)[:, index]
            plot.hist(other, edges, density=True, histtype="step", color=theme.INK, lw=0.9)
        plot.set_yticks([])
        plot.spines["left"].set_visible(False)
        plot.set_xlim(*limits)
        plot.locator_params(axis="x", nbins=4)
    return drawn


def pair_figure(pool: Pool, verdict: Verdict) -> Figure | None:
    """Scatter plots of the first few components against each other; None where there is only one."""
    columns = list(itertools.islice(_columns(pool, verdict), MOST_PAIRED))
    count = len(columns)
    if count < 2:
        return None
    rows = pool.choose(np.random.default_rng(0), _POINTS)
    drawn = theme.figure(1.75 * count, 1.75 * count, margins=(0.65, 0.1, 0.55, 0.1))
    grid = drawn.subplots(count, count, squeeze=False, gridspec_kw={"wspace": 0.08, "hspace": 0.08})
    limits = [_limits(values, pool.weights) for _, _, values, _ in columns]
    for (i, j), plot in np.ndenumerate(grid):
        if i < j:
            plot.set_axis_off()
            continue
        theme.style(plot, grid=None)
        plot.set_xlim(*limits[j])
        if i == j:
            edges = np.linspace(limits[i][0], limits[i][1], _BINS + 1).tolist()
            plot.hist(columns[i][2], edges, weights=pool.weights, density=True, color=theme.ACCENT, alpha=0.55)
            plot.set_yticks([])
        else:
            plot.scatter(columns[j][2][rows], columns[i][2][rows], s=3, color=theme.ACCENT, alpha=0.25, linewidths=0)
            plot.set_ylim(*limits[i])
        plot.tick_params(labelbottom=i == count - 1, labelleft=j == 0 and i > 0)
        if i == count - 1:
            plot.set_xlabel(theme.plain(columns[j][0]), fontsize=theme.SIZE, color=theme.INK)
        if j == 0 and i > 0:
            plot.set_ylabel(theme.plain(columns[i][0]), fontsize=theme.SIZE, color=theme.INK)
        plot.locator_params(nbins=3)
    return drawn


def _columns(pool: Pool, verdict: Verdict) -> Any:
    """Label, (name, index), values and trust of each component that varies."""
    for name, value in pool.values.items():
        flat = np.asarray(value, float).reshape(len(value), -1)
        oks = [np.asarray(ok[name]).ravel() if name in ok else None for ok in (verdict.mean_ok, verdict.sd_ok)]
        for i, label in enumerate(component_names(name, value.shape[1:])):
            if np.ptp(flat[:, i]) > 0:
                yield label, (name, i), flat[:, i], all(ok is None or bool(ok[i]) for ok in oks)


def _limits(values: Float[np.ndarray, " draws"], weights: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    order = np.argsort(values)
    low, high = np.interp([_TRIMMED, 1 - _TRIMMED], np.cumsum(weights[order]), values[order])
    return theme.spread([low, high])
