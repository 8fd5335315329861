"""Run short chains from weighted draws until they have settled, or their budget is spent."""

from __future__ import annotations

import dataclasses
import math
import time

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtri

from qphi.checks.chains import Ensemble, worst_rhat
from qphi.checks.tails import existing, with_ease, with_reach, with_tails
from qphi.checks.weighted import Moments, flattened, noisy, weighted_moments
from qphi.noise import systematic
from qphi.solvers.exact import MOST_DENSE, AbstractGaussian, nearest
from qphi.targets.oracle import AbstractOracle

__all__ = ["Settling", "measured", "settle"]

_WARM_MOVES = 24  # in which the step size is learned
_THIN = 4  # moves between two recorded states
_FIRST_STATES, _FEWEST_STATES = 16, 8
_RHAT, _DRIFT = 1.05, 0.1
_NUMBERS = 2**25  # of recorded states: 256 MB
_BLOCK = 512  # columns measured at a time
_FEWEST_CHAINS, _FEWEST_OF_A_MODE = 64, 8


@dataclasses.dataclass(frozen=True)
class Settling:
    """Draws of the second half of the recorded states, and whether the chains had settled by then.

    `rhat`: the worst rank-normalised R-hat; `drift`: how far, in sds of ranks, a mean or a distance from the median
    moved from the first half of these draws to the second, beyond its noise. Both within the chains of each mode.
    """

    start: Float[np.ndarray, "chains dim"]
    z: Float[np.ndarray, "draws dim"]
    values: dict[str, np.ndarray]
    moments: Moments  # of the flattened values
    chains: int
    moves: int
    acceptance: float
    rhat: float
    drift: float
    most_rhat: float = _RHAT

    @property
    def settled(self) -> bool:
        """Whether the draws can stand for the posterior's, as far as the chains can tell."""
        return self.rhat < self.most_rhat and self.drift < _DRIFT


def settle(
    oracle: AbstractOracle,
    parts: tuple[AbstractGaussian, ...],
    z: Float[np.ndarray, "draws dim"],
    weights: Float[np.ndarray, " draws"],
    random: np.random.Generator,
    *,
    chains: int,
    most_moves: int,
    deadline: float,
    fewest: int = _FEWEST_CHAINS,
    most_rhat: float = _RHAT,
    fewest_states: int = _FIRST_STATES,
    weighted: Moments | None = None,
) -> Settling | None:
    """Chains from `chains` of the weighted draws; their length doubles until they have settled, each has recorded
    `fewest_states`, and they have been as far as tails go that only the `weighted` draws have seen.

    Many short chains from good draws are the best answer, fewer longer ones the better proof: where they have not
    settled, every other one is left, down to `fewest`, and the next doubling costs no more than the last.
    None when `time.monotonic()` passes `deadline` before there is anything to look at.
    """
    start = z[systematic(random, weights, chains)]
    part_of = nearest(parts, start)
    many = oracle.dim > MOST_DENSE
    ensemble = Ensemble.at(parts, part_of, start, turning=many)
    for i in range(_WARM_MOVES):
        ensemble.rate = 0.5 / math.sqrt(1 + i / 4)
        ensemble.move(oracle, random)
        if time.monotonic() > deadline:
            return None
    ensemble.rate = 0.0
    states: list[np.ndarray] = []
    chances: list[np.ndarray] = []  # of the trajectories between states
    before: list[Moments] = []
    # a Gaussian turned by a random angle has forgotten more, and the worst of many columns needs longer chains
    wanted, thin = (3 * _FIRST_STATES // 2, _THIN // 2) if many else (_FIRST_STATES, _THIN)
    most_states = max(_FIRST_STATES, _NUMBERS // (chains * oracle.dim))
    while True:
        while len(states) < wanted and time.monotonic() <= deadline:
            chances.append(np.mean([ensemble.move(oracle, random) for _ in range(thin)], axis=0))
            states.append(ensemble.z)
            if len(states) > most_states:  # every other one, twice as far apart
                states, chances, thin, wanted = states[1::2], chances[1::2], 2 * thin, wanted // 2
        if len(states) < _FEWEST_STATES:
            return None
        late = np.array(states[len(states) // 2 :])
        rows = late.reshape(-1, oracle.dim)
        values = oracle.constrained(rows)
        columns, count = flattened(values), late.shape[1]
        rhat, drift = measured(columns.reshape(*late.shape[:2], -1), part_of)
        moments = with_reach(weighted_moments(columns, np.full(len(rows), 1 / len(rows)), count), columns, count)
        moments = with_ease(moments, columns, np.concatenate(chances[len(states) // 2 :]))
        for others in before:
            moments = with_tails(moments, others)
        counted = (len(part_of), ensemble.moves, ensemble.accepted)
        found = Settling(start, rows, values, moments, *counted, rhat, drift, most_rhat)
        most = most_moves * chains // len(ensemble.u)
        spent = len(states) < wanted or ensemble.moves + thin * len(states) > most
        if spent:
            return found
        if found.settled:
            if len(states) >= fewest_states and not noisy(moments) and not _unseen(moments, weighted):
                return found
        elif _can_halve(part_of, fewest):
            start, part_of, states = start[::2], part_of[::2], [state[::2] for state in states]
            chances = [chance[::2] for chance in chances]
            ensemble.halve()
            before.append(moments)  # fewer chains have seen less of the tails
        wanted = 2 * len(states)


def _unseen(moments: Moments, weighted: Moments | None) -> bool:
    """Whether a moment that exists by the chains does not by the weighted draws, which have been further out."""
    if weighted is None:
        return False
    own, all_told = existing(moments), existing(with_tails(moments, weighted))
    return any(bool(np.any(seen & ~told)) for seen, told in zip(own, all_told, strict=True))


def _can_halve(part_of: Int[np.ndarray, " chains"], fewest: int) -> bool:
    left = np.bincount(part_of[::2])
    return len(part_of[::2]) >= fewest and bool(np.all((left == 0) | (left >= _FEWEST_OF_A_MODE)))


def measured(
    draws: Float[np.ndarray, "times chains columns"], part_of: Int[np.ndarray, " chains"]
) -> tuple[float, float]:
    """R-hat and drift (see `Settling`), within the chains of each mode: those of different modes need never meet."""
    moving = np.flatnonzero(np.ptp(draws, axis=(0, 1)) > 0)
    if not moving.size:  # nothing moves: nothing has been forgotten
        return math.inf, math.inf
    blocks = np.array_split(moving, -(-moving.size // _BLOCK))
    chance = max(3.0, -float(ndtri(0.01 / moving.size)))  # standard errors that the largest of so many may reach
    rhats, drifts = zip(*(_measured_block(draws[:, :, block], part_of, chance) for block in blocks), strict=True)
    return max(rhats), max(drifts)


def _measured_block(
    draws: Float[np.ndarray, "times chains columns"], part_of: Int[np.ndarray, " chains"], chance: float
) -> tuple[float, float]:
    rhat, drift = 1.0, 0.0
    for c in np.unique(part_of):
        own = draws[:, part_of == c]
        if own.shape[1] < 4:
            continue
        rhat = max(rhat, worst_rhat(own))
        half, count = len(own) // 2, own.shape[0] * own.shape[1]
        # in ranks, scaled to the sd of a uniform: heavy tails have no say; of distances too, since chains that all
        # spread, or all shrink, agree with each other
        for values in (own, np.abs(own - np.median(own, axis=(0, 1)))):
            ranks = values.reshape(count, -1).argsort(axis=0).argsort(axis=0).reshape(own.shape) / count * math.sqrt(12)
            moved = np.abs(ranks[:half].mean(axis=(0, 1)) - ranks[half:].mean(axis=(0, 1)))
            drift = max(drift, float(np.max(moved - chance * math.sqrt(4 / count), initial=0.0)))
    return rhat, drift
