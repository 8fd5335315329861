"""The table of a posterior: a row for each component of each named value."""

from __future__ import annotations

import dataclasses
import html
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import ndtri

from qphi.draws import Pool
from qphi.families import AbstractFamily, DiagonalGaussian, FullRankGaussian
from qphi.targets.base import AbstractTarget, component_names

__all__ = ["Block", "Summary", "draws_for", "exact_moments", "summarise", "summarise_pool"]

DRAWS = 4000  # Monte Carlo error of a mean: 0.016 sd
FEWEST_DRAWS = 100
SHOWN_ROWS = 20  # fits on a screen
ENTRIES = 50_000_000  # draws times components held at once: 200 MB in float32


@dataclasses.dataclass(frozen=True)
class Block:
    """Moments of one named value, flat in C order: arrays of length `size`, quantiles (size, probabilities).

    `not_finite` counts, for each component, the draws that are NaN or infinite. `is_exact` says that the
    moments are q's own, in closed form, and not from draws.
    """

    name: str
    shape: tuple[int, ...]
    mean: np.ndarray
    sd: np.ndarray
    quantiles: np.ndarray
    not_finite: np.ndarray
    is_exact: bool


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """Mean, sd and quantiles of each component.

    Prints itself, shortened when long; `text()` is all of it and `rows()` the numbers, for a data frame.
    """

    blocks: tuple[Block, ...]
    probabilities: tuple[float, ...]
    draws: int

    def block(self, name: str) -> Block:
        """The moments of one named value; KeyError for an unknown name."""
        for block in self.blocks:
            if block.name == name:
                return block
        raise KeyError(f"{name!r} is not in the table; it has {', '.join(b.name for b in self.blocks)}.")

    def rows(self) -> list[dict[str, str | float]]:
        """Every row as a dict: name, mean, sd and the quantiles."""
        rows = itertools.chain.from_iterable(map(self._rows, self.blocks))
        return [dict(zip(self.header, (name, *values), strict=True)) for name, values in rows]

    @property
    def header(self) -> tuple[str, ...]:
        """Names of the columns."""
        return ("name", "mean", "sd", *(f"{100 * p:g} %" for p in self.probabilities))

    def text(self, limit: int | None = None) -> str:
        """The table as text; with `limit`, that many rows, shared between names, and counts of the rest."""
        lines = [(name, *cells) for name, cells in self._lines(limit)]
        table = [self.header, *lines]
        rows = [line for line in table if len(line) > 1]  # the others are counts of what is left out
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        shown = [
            line[0].ljust(widths[0])
            + "".join("  " + cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=False))
            for line in table
        ]
        return "\n".join([*(line.rstrip() for line in shown), *self.notes()])

    def html(self, limit: int | None = None) -> str:
        """The table as HTML, shortened in the same way."""
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = ""
        for name, cells in self._lines(limit):
            tail = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
            span = "" if cells else f" colspan={len(self.header)}"
            body += f"<tr><td{span}>{html.escape(name)}</td>{tail}</tr>"
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes())
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"

    def notes(self) -> list[str]:
        """What the reader of the table has to know: draws that are not finite, fewer draws than usual."""
        notes = []
        for block in self.blocks:
            bad = int(np.sum(block.not_finite > 0))
            if bad and block.is_exact:
                notes.append(f"{block.name}: q's own moments are not finite in {bad} component(s).")
            elif bad:
                notes.append(
                    f"{block.name}: {bad} component(s) with draws that are not finite, up to "
                    f"{int(block.not_finite.max())} of {self.draws}."
                )
        if self.draws < DRAWS and not all(block.is_exact for block in self.blocks):
            notes.append(f"From {self.draws} draws, to bound memory.")
        return notes

    def __repr__(self) -> str:
        return self.text(limit=SHOWN_ROWS)

    def _repr_html_(self) -> str:
        return self.html(limit=SHOWN_ROWS)

    def _rows(self, block: Block) -> Iterator[tuple[str, tuple[float, ...]]]:
        for i, name in enumerate(component_names(block.name, block.shape)):
            yield name, (float(block.mean[i]), float(block.sd[i]), *map(float, block.quantiles[i]))

    def _lines(self, limit: int | None) -> Iterator[tuple[str, tuple[str, ...]]]:
        allowed = _shares([block.mean.size for block in self.blocks], limit)
        for block, share in zip(self.blocks, allowed, strict=True):
            for name, values in itertools.islice(self._rows(block), share):
                yield name, _formatted(values)
            if 0 < share < block.mean.size:
                yield f"... {block.mean.size - share:,} more of {block.name} left out", ()
        hidden = [block.mean.size for block, share in zip(self.blocks, allowed, strict=True) if not share]
        if hidden:
            yield f"... {sum(hidden):,} rows of {len(hidden):,} more names left out", ()


def _shares(sizes: list[int], limit: int | None) -> list[int]:
    """Rows shown of each name: all, if they fit; else equal shares, small names leaving room to large."""
    if limit is None or sum(sizes) <= limit:
        return sizes
    if len(sizes) > limit:
        return [1] * limit + [0] * (len(sizes) - limit)
    shares, left = [0] * len(sizes), limit
    for position, i in enumerate(sorted(range(len(sizes)), key=sizes.__getitem__)):
        shares[i] = min(sizes[i], left // (len(sizes) - position))
        left -= shares[i]
    return shares


def _formatted(values: tuple[float, ...]) -> tuple[str, ...]:
    """Cells of one row, with the decimals that its sd (the second value) makes worth reading."""
    sd = values[1]
    if not (math.isfinite(sd) and 1e-6 < sd < 1e6):
        return tuple(f"{value:.4g}" for value in values)
    decimals = max(2 - math.floor(math.log10(sd)), 0)
    return tuple(f"{value:.{decimals}f}" if abs(value) < 1e9 else f"{value:.4g}" for value in values)


def draws_for(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Draws to summarise with: 4,000, or fewer where so many would not fit into memory."""
    components = sum(math.prod(shape) for shape in shapes.values())
    return int(np.clip(ENTRIES // max(components, 1), FEWEST_DRAWS, DRAWS))


def exact_moments(q: AbstractFamily, target: AbstractTarget) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and sd of the unconstrained values under a Gaussian q, flat; empty for other families."""
    if isinstance(q, DiagonalGaussian):
        mean, sd = q.mean, q.scale
    elif isinstance(q, FullRankGaussian):
        # sd_i = sqrt((C C')_ii)
        mean, sd = q.mean, np.sqrt(np.sum(np.asarray(q.scale_tril, np.float64) ** 2, axis=1))
    else:
        return {}
    mean, sd = np.asarray(mean, np.float64), np.asarray(sd, np.float64)
    return {name: (mean[block], sd[block]) for name, block in target.real_blocks().items()}


def summarise(
    shapes: Mapping[str, tuple[int, ...]],
    draws: Mapping[str, np.ndarray],
    exact: Mapping[str, tuple[np.ndarray, np.ndarray]],
    probabilities: tuple[float, ...],
) -> Summary:
    """The table, from draws (n, *shape) of each name, or from exact moments where those are known."""
    blocks = tuple(
        (
            _exact_block(name, shape, *exact[name], probabilities)
            if name in exact
            else _drawn_block(name, shape, draws[name], probabilities)
        )
        for name, shape in shapes.items()
    )
    return Summary(blocks, probabilities, max((len(d) for d in draws.values()), default=0))


def summarise_pool(shapes: Mapping[str, tuple[int, ...]], pool: Pool, probabilities: tuple[float, ...]) -> Summary:
    """The table of weighted draws."""
    blocks = []
    for name, shape in shapes.items():
        flat = np.asarray(pool.values[name], np.float64).reshape(len(pool.z), -1)
        with np.errstate(invalid="ignore", over="ignore"):
            mean = pool.weights @ flat
            sd = np.sqrt(pool.weights @ (flat - mean) ** 2)
        bad = np.sum(~np.isfinite(flat), axis=0)
        blocks.append(Block(name, shape, mean, sd, pool.quantiles(name, probabilities), bad, False))
    return Summary(tuple(blocks), probabilities, max(DRAWS, len(pool.z)))


def _exact_block(
    name: str, shape: tuple[int, ...], mean: np.ndarray, sd: np.ndarray, probabilities: tuple[float, ...]
) -> Block:
    quantiles = mean[:, None] + sd[:, None] * ndtri(np.asarray(probabilities))
    broken = ~np.isfinite(mean) | ~np.isfinite(sd)
    return Block(name, shape, mean, sd, quantiles, broken.astype(int), True)


def _drawn_block(name: str, shape: tuple[int, ...], draws: np.ndarray, probabilities: tuple[float, ...]) -> Block:
    flat = np.asarray(draws, np.float64).reshape(len(draws), -1)
    with np.errstate(invalid="ignore", over="ignore"):  # a draw that is not finite stays so, and is counted
        mean, sd = flat.mean(axis=0), flat.std(axis=0, ddof=1)
        quantiles = np.quantile(flat, probabilities, axis=0).T
    return Block(name, shape, mean, sd, quantiles, np.sum(~np.isfinite(flat), axis=0), False)
