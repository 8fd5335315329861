"""Where the mass is, in many dimensions: Gaussians with few directions, fitted from dispersed starts.

No matrix of dim^2 numbers anywhere, and no climb to a mode: where many latents share a scale, the density is highest
where that scale vanishes, with no mass at all. The ELBO has no such place, so scales are fitted from the first step.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from qphi.noise import fixed_draws
from qphi.search import Effort, Search
from qphi.solvers.exact import MOST_DENSE, Spiked, solve
from qphi.solvers.spiked import SpikedFit, SpikedMeanField, add_spikes

__all__ = ["fit_many", "sized"]

_NUMBERS = 2**24  # draws times coordinates held at once: 128 MB
_SEEKING_DRAWS, _PRODUCT_DRAWS, _DRAWS = 16, 8, 64  # for the first fit, the curvature and the last fit
_ROUNDS = 2  # of directions, each followed by a fit of the scales
_RANK = 32
_STEPS = 400
_START_SCALE = 0.1
_ROUGHLY = 1e-2  # posterior sds
_MOST_MODES = 4
_APART = 1.0  # sds of one coordinate between the means of two modes
_NEGLIGIBLE, _PER_DIM = 10.0, 0.005  # nats: a mode this far below the best has no weight; noise of the ELBO


def sized(effort: Effort, dim: int) -> Effort:
    """The effort with as many draws and chains as can be held, above 1,000 dimensions.

    Their importance weights seldom say more than that q is not exact; the work is that of the chains, fewer of which
    tell as much when each has thousands of coordinates.
    """
    if dim <= MOST_DENSE:
        return effort
    return dataclasses.replace(
        effort,
        pairs=int(np.clip(_NUMBERS // (4 * dim), 128, effort.pairs)),
        chains=effort.chains // 8,
        seconds_of_chains=effort.seconds_of_chains * (1 + dim / 500),
    )


def fit_many(search: Search, starts: Float[np.ndarray, "starts dim"]) -> None:
    """A Gaussian at each distinct end of mean-field fits, widened along the directions that its scales miss."""
    dim = search.oracle.dim
    seeking = SpikedMeanField(fixed_draws(search.random, _SEEKING_DRAWS, dim), tolerance=_ROUGHLY)
    ends = [_fit(search, seeking, Spiked.diagonal(z, np.full(dim, _START_SCALE))) for z in starts]
    ends = sorted((end for end in ends if end is not None), key=lambda end: -end.elbo)
    kept: list[Spiked] = []
    for end in ends:
        near = end.elbo > ends[0].elbo - _NEGLIGIBLE - _PER_DIM * dim
        if near and len(kept) < _MOST_MODES and not any(_same(end.q, other) for other in kept):
            kept.append(end.q)
    products = fixed_draws(search.random, _PRODUCT_DRAWS, dim)
    found: list[SpikedFit] = []
    for q in kept:
        state = None
        for _ in range(_ROUNDS):
            q = add_spikes(search.oracle, q, products, search.random, rank=_RANK, deadline=search.deadline)
            draws = max(_DRAWS, 4 * len(q.spikes))
            state = _fit(search, SpikedMeanField(fixed_draws(search.random, draws, dim)), q) or state
            q = state.q if state is not None else q
        # along a ridge that scales alone do not know, rough ends lie apart that are one mode
        if state is not None and not any(_same(state.q, fit.q) for fit in found):
            found.append(state)
    search.fits += sorted(found, key=lambda state: -state.elbo)


def _fit(search: Search, solver: SpikedMeanField, start: Spiked) -> SpikedFit | None:
    state, steps = solve(search.oracle, solver, start, max_steps=_STEPS, deadline=search.deadline)
    search.solver_steps += steps
    return state if solver.answer(state) is not None else None


def _same(q: Spiked, other: Spiked) -> bool:
    """Whether the one's mean lies where the other has its mass, in every coordinate: both were fitted to one set of
    draws, on which a mode has one answer."""
    apart = (np.max(np.abs(a.whiten(b.mean[None]))) for a, b in ((q, other), (other, q)))
    return bool(min(apart) < _APART)
