"""Hessians of densities whose variables do not all meet: from a few products with vectors, not one for each."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

__all__ = ["FEWEST", "Pattern", "find_pattern"]

FEWEST = 48  # dimensions: below, another program takes longer to compile than it saves
_WORTH = 0.25  # of the dimensions: more products than that are not worth another program
_OFF = 1e-6  # of a row's sum of absolute values: a product that differs by more shows an entry that was thought zero


@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which entries of a symmetric matrix can differ from zero, and vectors whose products tell all of them.

    The first of `seeds` are unit vectors of columns that meet many others (the parameters that groups share); the
    next add up columns that have no row in common but those of the first (one a group, say); the last is a check.
    In a hierarchical model, whose groups meet in what they share only, this is a handful for thousands of groups.
    Source: Curtis, Powell & Reid (1974), with symmetry as in Powell & Toint (1979).
    """

    seeds: Float[np.ndarray, "products dim"]
    shared: Int[np.ndarray, " shared"]  # the columns with a product of their own
    row: Int[np.ndarray, " entries"]
    column: Int[np.ndarray, " entries"]
    product: Int[np.ndarray, " entries"]  # where entry (row, column) is read

    def matrix(self, products: Float[np.ndarray, "products dim"]) -> Float[np.ndarray, "dim dim"] | None:
        """The matrix of these products with `seeds`, symmetric; None where it has entries that the pattern lacks."""
        dim = self.seeds.shape[1]
        found = np.zeros((dim, dim))
        found[self.row, self.column] = products[self.product, self.row]
        own = products[: len(self.shared)]
        found[self.shared], found[:, self.shared] = own, own.T
        found = 0.5 * (found + found.T)
        with np.errstate(all="ignore"):  # what is not finite is for the caller to see
            off = np.abs(products[-1] - found @ self.seeds[-1])
            most = _OFF * (np.abs(found) @ np.abs(self.seeds[-1]) + np.abs(products[-1]))
        return None if (off > most).any() else found


def find_pattern(matrix: Float[np.ndarray, "dim dim"]) -> Pattern | None:
    """The pattern of a matrix, where it saves much; None where it does not.

    Entries that are exactly zero are taken for always so; the check finds those that are not.
    """
    dim = len(matrix)
    if dim < FEWEST:
        return None
    meets = (matrix != 0) | (matrix.T != 0) | np.eye(dim, dtype=bool)
    by_density = np.argsort(-meets.sum(axis=0), kind="stable")
    best: tuple[int, Int[np.ndarray, " rest"], Int[np.ndarray, " rest"]] | None = None
    most = int(_WORTH * dim)
    shared = 0
    while shared < most:
        rest = np.sort(by_density[shared:])
        colours = _colours(meets[np.ix_(rest, rest)], most - shared)
        if colours is not None:
            best, most = (shared, rest, colours), shared + int(colours.max())
        shared = shared + 1 if shared < 8 else int(1.5 * shared)
    if best is None:
        return None
    shared, rest, colours = best
    own = np.sort(by_density[:shared])
    seeds = np.zeros((shared + int(colours.max()) + 2, dim))
    seeds[np.arange(shared), own] = 1
    seeds[shared + colours, rest] = 1
    seeds[-1] = np.random.default_rng(0).uniform(1.0, 2.0, dim)  # no two the same: an entry in the wrong column shows
    row, column = np.nonzero(meets[np.ix_(rest, rest)])
    return Pattern(seeds, own, rest[row], rest[column], shared + colours[column])


def _colours(meets: Bool[np.ndarray, "dim dim"], most: int) -> Int[np.ndarray, " dim"] | None:
    """A colour for each column, so that two of one colour have no row in common; None where `most` do not suffice."""
    colours = np.zeros(len(meets), int)
    taken = np.zeros((0, len(meets)), bool)  # rows of each colour
    for column in np.argsort(-meets.sum(axis=0), kind="stable"):
        free = ~(taken & meets[:, column]).any(axis=1)
        colour = int(np.argmax(free)) if free.any() else len(taken)
        if colour == len(taken):
            if colour == most:
                return None
            taken = np.concatenate([taken, np.zeros((1, len(meets)), bool)])
        taken[colour] |= meets[:, column]
        colours[column] = colour
    return colours
