"""What can be wrong with a log density, looked for before any fitting: some hundred evaluations, each with advice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from qphi.targets.base import Site
from qphi.targets.oracle import Oracle

__all__ = ["Finding", "preflight", "remote", "saturated"]

_PLACES = 3  # at which derivatives are checked
_ASIDE = 1e-3  # how far from a start its derivative is checked again
_STEP = 1e-5  # of central differences, times 1 + |z|: errors of 1e-10 in smooth functions
_AGREEMENT = 1e-3  # relative difference of a derivative from its central difference
_REMOTE = (1e9, 1e12)  # far out even for a posterior with an sd of a million
_LOW = 30.0  # nats
_NARROWINGS = 5  # each to a fifteenth
_CLIFF = 1e6  # nats
_ROUNDED = 1e-3  # of the weight, at one value
_MOST_SITES = 20  # checked one by one
_MOST_DIRECTIONS, _SUSPECTS = 1000, 64  # coordinates: all are tried up to this many, above it so many


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check: what it is called, whether it passed, and otherwise what was found and what to do about it."""

    name: str
    passed: bool
    found: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.name}: ok" if self.passed else f"{self.name}: {self.found}. {self.advice}"


def preflight(
    oracle: Oracle, starts: Float[np.ndarray, "starts dim"], random: np.random.Generator
) -> tuple[Finding, ...]:
    """The findings, in the order of the checks. `starts` are dispersed places; some with a finite density.

    finite      log p and its gradient over the starts: NaN and infinite values are counted and never replaced
    derivative  the gradient along a random direction, at or beside three starts, against a central difference; where
                they disagree, again for each named value, to name the ones to blame
    support     log p does not jump to -inf at an edge between the starts
    smooth      no coordinate has a gradient of exactly zero at every start (a step function, an integer cast, a value
                that log p does not depend on)
    proper      far out log p falls fast enough along every coordinate, both ways: else the mass is infinite (above
                1,000 dimensions along the 64 coordinates that it changes least with)

    They see wrong derivatives, not wrong models; and a direction that is improper without being a coordinate is left
    to the checks of the fit.
    """
    with np.errstate(all="ignore"):
        value, gradient = oracle.gradients(starts)
        good = np.isfinite(value) & np.isfinite(gradient).all(axis=1)
        findings = [_finite(value, good)]
        if good.any():
            places = starts[good][:_PLACES]
            findings.append(_support(oracle, starts, value, good))
            findings.append(_derivative(oracle, places, random))
            findings.append(_smooth(oracle, gradient[good]))
            findings.append(_proper(oracle, starts[good][np.argmax(value[good])], gradient[good]))
    return tuple(findings)


def _finite(value: Float[np.ndarray, " starts"], good: np.ndarray) -> Finding:
    nan, infinite = int(np.isnan(value).sum()), int(np.isinf(value).sum())
    rest = int((~good).sum()) - nan - infinite
    found = f"{len(good) - int(good.sum())} of {len(good)} starts: {nan} NaN, {infinite} infinite" + (
        f", {rest} with a gradient that is not finite" if rest else ""
    )
    advice = "Look for log(0), 0/0 and overflow; density zero outside a support is better written as a support."
    # -inf is a place without mass, which a model may have; NaN, or nothing finite at all, is a fault
    return Finding("finite", bool(good.any()) and nan == 0 and rest == 0, found, advice)


def _support(
    oracle: Oracle,
    starts: Float[np.ndarray, "starts dim"],
    value: Float[np.ndarray, " starts"],
    good: np.ndarray,
) -> Finding:
    """Between the best start and the nearest without density: a jump, or values that fall until they overflow."""
    outside = np.flatnonzero(value == -np.inf)
    if not len(outside):
        return Finding("support", True)
    best = np.flatnonzero(good)[np.argmax(value[good])]
    inner, outer = starts[best], starts[outside[np.argmin(np.sum((starts[outside] - starts[best]) ** 2, axis=1))]]
    last = value[best]
    for _ in range(_NARROWINGS):
        along = inner + np.linspace(0, 1, 16)[:, None] * (outer - inner)
        found = oracle.values(along)
        first = int(np.argmax(found == -np.inf))
        last, inner, outer = found[first - 1], along[first - 1], along[first]
    if not last > value[best] - _CLIFF:
        return Finding("support", True)
    blocks = _blocks(oracle)[:_MOST_SITES]
    steps = np.tile(inner, (len(blocks), 1))
    for row, (_, block) in zip(steps, blocks, strict=True):
        row[block] = outer[block]
    crossed = [name for (name, _), there in zip(blocks, oracle.values(steps), strict=True) if there == -np.inf]
    edge = f"an edge of {', '.join(crossed)}" if crossed else "an edge"
    found = f"log p jumps to -inf at {len(outside)} of {len(starts)} starts: {edge}"
    return Finding("support", False, found, _DECLARE)


def _derivative(oracle: Oracle, places: Float[np.ndarray, "places dim"], random: np.random.Generator) -> Finding:
    direction = random.standard_normal(oracle.dim)
    if _agrees(oracle, places, direction):
        return Finding("derivative", True)
    # a start is often the origin, where a logit of zero has the slope of a branch in some implementations
    places = places + _ASIDE * random.standard_normal(places.shape)
    if _agrees(oracle, places, direction):
        return Finding("derivative", True)
    wrong = []
    for name, block in _blocks(oracle)[:_MOST_SITES]:
        along = np.zeros(oracle.dim)
        along[block] = direction[block]
        if not _agrees(oracle, places, along):
            wrong.append(name)
    found = f"the gradient disagrees with central differences ({', '.join(wrong) or 'along a random direction'})"
    advice = "A kink, a jump, float32 inside the model, or a custom derivative: the fit may stop early or drift."
    return Finding("derivative", False, found, advice)


def _agrees(oracle: Oracle, places: Float[np.ndarray, "places dim"], direction: Float[np.ndarray, " dim"]) -> bool:
    direction = direction / np.linalg.norm(direction)
    # a step that is small for every coordinate, however their sizes differ
    size = _STEP * (1 + np.abs(places).max(axis=1, keepdims=True))
    value, gradient = oracle.gradients(np.concatenate([places, places + size * direction, places - size * direction]))
    n = len(places)
    difference = (value[n : 2 * n] - value[2 * n :]) / (2 * size[:, 0])
    slope = gradient[:n] @ direction
    curvature = np.abs((gradient[n : 2 * n] - gradient[2 * n :]) @ direction)
    rounding = 1e-15 * np.abs(value[:n]) / size[:, 0]
    scale = np.maximum(np.abs(slope), np.abs(difference))
    # where the slope itself turns over within the step, a difference cannot tell
    allowed = _AGREEMENT * scale + 10 * rounding + 0.1 * curvature + 1e-8
    return bool(np.all(np.abs(difference - slope) <= allowed))


def _smooth(oracle: Oracle, gradient: Float[np.ndarray, "starts dim"]) -> Finding:
    flat = np.all(gradient == 0, axis=0)
    if not flat.any():
        return Finding("smooth", True)
    found = f"log p does not change with {_names(oracle, flat)}, as far as its gradient says"
    advice = (
        "A step function, an integer cast or stop_gradient hides the change; or the value plays no part: leave it out."
    )
    return Finding("smooth", False, found, advice)


def _proper(oracle: Oracle, place: Float[np.ndarray, " dim"], gradient: Float[np.ndarray, "starts dim"]) -> Finding:
    stays, tried = np.zeros(oracle.dim, bool), np.arange(oracle.dim)
    if oracle.dim > _MOST_DIRECTIONS:
        tried = np.argsort(np.abs(gradient).max(axis=0))[:_SUSPECTS]
    ways = np.zeros((len(tried), oracle.dim))
    ways[np.arange(len(tried)), tried] = 1.0
    stays[tried] = _stays(oracle, place, ways)
    if not stays.any():
        return Finding("proper", True)
    found = f"log p does not fall far out along {_names(oracle, stays)}: the posterior is improper"
    return Finding("proper", False, found, _GIVE_PRIOR)


def remote(
    oracle: Oracle, place: Float[np.ndarray, " dim"], direction: Float[np.ndarray, " dim"], called: str
) -> Finding:
    """Whether log p falls far out along one direction, which need not be a coordinate's."""
    with np.errstate(all="ignore"):
        stays = bool(_stays(oracle, place, direction[None])[0])
    if not stays:
        return Finding("proper", True)
    main = np.abs(direction) > 0.3 * np.abs(direction).max()
    found = f"log p does not fall far out along {called} ({_names(oracle, main)}): the posterior is improper"
    return Finding("proper", False, found, _GIVE_PRIOR)


def _stays(oracle: Oracle, place: Float[np.ndarray, " dim"], ways: Float[np.ndarray, "ways dim"]) -> Any:
    """For each direction, whether p is too heavy to be integrated along it, one way or the other.

    Between the two distances, a factor of 1,000 apart, |x|^-a falls by a log 1000, and is integrable only for a > 1.
    """
    here = float(oracle.values(place[None])[0])
    near, far = (oracle.values(np.concatenate([place + d * ways, place - d * ways])) for d in _REMOTE)
    heavy = far > near - 1.005 * math.log(_REMOTE[1] / _REMOTE[0])  # False for NaN, and where both are -inf
    # transforms of bounded values saturate in floating point, some 36 nats down: what is that low has no weight
    heavy &= near > here - _LOW
    return heavy.reshape(2, -1).any(axis=0)


def saturated(
    oracle: Oracle,
    z: Float[np.ndarray, "draws dim"],
    values: Mapping[str, np.ndarray],
    weights: Float[np.ndarray, " draws"],
) -> Finding:
    """Whether constrained latents of different z are one and the same number at an end, rounded.

    A probability closer to one than 1e-16 is one. The density there is that of the rounded value: tails are cut off.
    Draws that repeat a z, as those of a chain that refuses a move do, count once.
    """
    _, once = np.unique(z, axis=0, return_index=True)
    weights = weights[once]
    sites: Sequence[Site] = getattr(oracle.target, "sites", ())
    names = []
    for site in sites:
        if site.is_real:
            continue
        flat = values[site.name].reshape(len(z), -1)[once]
        share = np.maximum(*(weights @ (flat == end) for end in (flat.min(axis=0), flat.max(axis=0))))
        at_end = share > _ROUNDED + 2 * np.max(weights)
        if at_end.any() and np.any(at_end & ~_constant(oracle, site)):
            names.append(site.name)
    if not names:
        return Finding("rounding", True)
    found = f"draws of {', '.join(names)} are so near the edge of the support that they are rounded: tails are cut off"
    advice = "Write the density on the unconstrained scale (of a logit, say), or take a prior with less mass there."
    return Finding("rounding", False, found, advice)


def _constant(oracle: Oracle, site: Site) -> Bool[np.ndarray, " values"]:
    """Which values of a site are the same whatever z, such as the corner of a Cholesky factor of correlations."""
    near = oracle.constrained(np.random.default_rng(0).standard_normal((4, oracle.dim)))[site.name].reshape(4, -1)
    return np.all(near == near[0], axis=0)


_DECLARE = (
    "Declare the support, so that no step crosses its edge: supports={name: constraints.positive} for a log density, a "
    "prior with that support in a program. Where log(1 - cdf) or the like underflows, use a log survival function."
)
_GIVE_PRIOR = "Give it a prior, or data that it depends on."


def _blocks(oracle: Oracle) -> list[tuple[str, slice]]:
    """Names of the values and their slices of z; of the coordinates themselves, where the target has no sites."""
    sites: Sequence[Site] = getattr(oracle.target, "sites", ())
    if not sites:
        return [(f"z[{i}]", slice(i, i + 1)) for i in range(oracle.dim)]
    ends = np.cumsum([site.size for site in sites]).tolist()
    return [(site.name, slice(end - site.size, end)) for site, end in zip(sites, ends, strict=True)]


def _names(oracle: Oracle, marked: np.ndarray) -> str:
    names = []
    for name, block in _blocks(oracle):
        count = int(marked[block].sum())
        if count:
            names.append(name if count == math.prod(marked[block].shape) else f"{count} of {name}")
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
