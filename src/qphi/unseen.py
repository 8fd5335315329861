"""The search for mass that no fit has: from far outside, from rounds of new starts, from draws that weigh too much."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from qphi.modes import (
    NARROW,
    NESTED_DIM,
    TOWERS,
    arrived,
    climb,
    expected,
    explained,
    fit_from,
    fit_gaussian,
    fit_modes,
    keep,
)
from qphi.outskirts import outskirts
from qphi.search import Search
from qphi.solvers.exact import Gaussian
from qphi.solvers.pathfinder import Path
from qphi.targets.starts import dispersed_starts

__all__ = ["fit_at", "follow", "more_are_left", "probe", "seek_more"]

_PROBE_STEPS = 200
_SMALL = 0.1  # of the best fit's scale: a Gaussian that begins somewhere else
_ROUNDS, _MANY_MODES = 4, 16  # of further starts that found modes; as many modes are not all of them
_DEAR_MODES = 4  # that a round without a new one is for, where log p is dear; else one
_LAST_ROUNDS = 4  # where q is to explain all that they find
_MORE, _CHEAP = 16, 2**21  # times more places, in few dimensions, where that is so many numbers: some milliseconds
_ARMS = 3  # further Gaussians from places that no fit explains
_UNSEEN = 5.0  # nats: places that stand for less of the evidence are not worth a fit
_HEAVY = 20.0  # times the mean weight


def probe(search: Search) -> None:
    """Climb from the likeliest of many places far outside of everything that was found, and from those there or in the
    widest box of starts where log p is furthest above what the fits say; fit a Gaussian as wide as the mass out there,
    where that is far wider; and one that begins where there is most mass that no fit has, which climbs may leave."""
    q, d = search.fits[0].q, search.oracle.dim
    many = 1 if d > NESTED_DIM else min(_MORE, max(1, search.oracle.rows_within(_CHEAP) // 1024))
    places = outskirts(search.oracle, q, search.random, many)
    value = places.log_p
    outside = np.isfinite(value) & ~explained(search, places.z)
    above_fits = value - expected(search, places.z)
    weight = value + places.log_room  # by density alone, the nearest would always win
    # climbs of many dimensions are long, and lead back
    probes, steps = (search.effort.probes, _PROBE_STEPS) if d <= 100 else (search.effort.probes // 2, _PROBE_STEPS // 2)
    around = np.flatnonzero(outside & places.around)
    if outside.any():
        # behind another mode log p may be as low as it likes, and is above the fits all the same
        above = np.flatnonzero(outside & ~places.along)
        above = above[np.argsort(-above_fits[above])]
        chosen = dict.fromkeys((*around[np.argsort(-weight[around])][: probes // 2], *above[: probes // 2]))
        fit_modes(search, climb(search, places.z[list(chosen)], steps))
    if d > NESTED_DIM or not isinstance(q, Gaussian):
        return
    search.outskirts = places
    for _ in range(_ARMS):
        unknown = np.flatnonzero(value > expected(search, places.z) + TOWERS)
        share = np.asarray(logsumexp(weight[unknown])) if len(unknown) else -math.inf
        if share < search.fits[0].elbo - _UNSEEN:
            break
        if not fit_at(search, places.z[unknown[np.argmax(weight[unknown])]]):
            break
    if not len(around):
        return
    share = np.exp(weight[around] - weight[around].max())
    radius = q.radius(places.z[around])
    width = math.sqrt(float(share @ radius) / float(share.sum()) / d)
    if width > NARROW:
        fit_from(search, Gaussian(q.mean, width * q.tril))


def fit_at(search: Search, place: Float[np.ndarray, " dim"]) -> bool:
    """A Gaussian from a small one at this place; whether it is none of those there were. Climbs leave a place whose
    mass and another's have their peak in common, as the arms of a cross have."""
    best = search.fits[0].q
    if search.late or not isinstance(best, Gaussian):
        return False
    fit = fit_gaussian(search, Gaussian(place, _SMALL * best.tril))
    return fit is not None and arrived(search, fit) and keep(search, fit)


def seek_more(search: Search) -> None:
    """Where there is more than one mode: climb from new starts until rounds of them find none that is new.

    As many rounds as there are modes: beside four, another that is a tenth as easy to find as each of them is missed by
    the 16 climbs of a round with a chance of 67 %, by those of five rounds with one of 14 %.
    """
    fruitful = quiet = 0
    modes_a_round = _DEAR_MODES if search.oracle.one_by_one else 1
    while fruitful < _ROUNDS:
        known = len(search.fits)
        if known < 2 or search.late:
            return
        if known >= _MANY_MODES:
            break
        fit_modes(search, _climbs(search))
        if len(search.fits) > known:
            fruitful, quiet = fruitful + 1, 0
        elif (quiet := quiet + 1) >= known / modes_a_round:
            return
    search.modes_left = True


def more_are_left(
    search: Search,
    log_r: Callable[[Float[np.ndarray, "points dim"]], Float[np.ndarray, " points"]],
    log_evidence: float,
) -> bool:
    """Whether climbs from new starts end where a proposal r, all modes together, does not explain how high log p is."""
    paths = [path for _ in range(_LAST_ROUNDS) for path in _climbs(search)]
    log_p = -np.array([path.energy for path in paths])
    return not bool((log_p - log_evidence - log_r(np.array([path.place for path in paths])) < TOWERS).all())


def _climbs(search: Search) -> list[Path]:
    starts, _ = dispersed_starts(search.oracle, search.random, 2 * search.effort.starts, search.key)
    return climb(search, starts, _PROBE_STEPS)


def follow(search: Search, z: Float[np.ndarray, "draws dim"], excess: Float[np.ndarray, " draws"]) -> bool:
    """Climb from draws whose log weight exceeds that of the mean by far; whether that has found a mode."""
    heavy = np.flatnonzero(excess > math.log(_HEAVY))
    if not len(heavy) or search.late:
        return False
    chosen = heavy[np.argsort(-excess[heavy])][: max(search.effort.starts, 4)]
    known = len(search.fits)
    paths = climb(search, z[chosen], _PROBE_STEPS)
    # also places that a fit covers: what weighs so much there may be much narrower
    fit_modes(search, paths)
    if len(search.fits) == known and search.oracle.dim <= NESTED_DIM:
        return fit_at(search, z[chosen[0]])
    return len(search.fits) > known
