"""Posteriors by stochastic gradients: families by name, the ascent, and flows around an automatic Gaussian."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.auto import EFFORTS, explore
from qphi.bounds import AbstractBound, MonteCarlo
from qphi.bounds.objective import AbstractObjective, PosteriorObjective
from qphi.errors import InputError
from qphi.families import (
    AbstractFamily,
    AbstractFlow,
    AutoregressiveFlow,
    CouplingFlow,
    DiagonalGaussian,
    FromNumPyro,
    FullRankGaussian,
    LowRankGaussian,
    StudentT,
)
from qphi.loop import Progress, Result, drive, start
from qphi.noise import fixed_draws
from qphi.posterior import Posterior, posterior_from
from qphi.solvers import AbstractNoisySolver, Problem, StochasticGradient
from qphi.solvers.exact import MOST_DENSE, Gaussian
from qphi.stopping import Plateau
from qphi.targets import AbstractTarget
from qphi.targets.oracle import Oracle
from qphi.targets.whitened import Whitened
from qphi.verdict import Trust, Verdict

__all__ = ["CHECK_EVERY", "FAMILIES", "FLOWS", "ascend", "fit_flow", "fit_posterior", "named_family"]

FAMILIES = ("mean-field", "low-rank", "full-rank", "student-t")
FLOWS = {"coupling-flow": CouplingFlow, "autoregressive-flow": AutoregressiveFlow}
CHECK_EVERY = 200  # steps
_RANK = 16  # of "low-rank"
_SCORING_PARTICLES = 512  # per check, the same draws at each
_MAX_STEPS = 50_000
_TOWERS = 20.0  # p over q, times the evidence


def named_family(
    family: str, mean: Float[Array, " dim"], scale: float, key: PRNGKeyArray, *, df: float = 10.0
) -> AbstractFamily:
    """The family of that name, one of `FAMILIES`, about N(mean, scale^2 I): to start from."""
    dim = len(mean)
    if family == "mean-field":
        return DiagonalGaussian(mean, jnp.full_like(mean, math.log(scale)))
    if family == "low-rank":
        # not zero: at zero no direction is better than another, and none would be found
        factor = 0.1 * scale * jax.random.normal(key, (dim, min(_RANK, dim)), mean.dtype)
        return LowRankGaussian(mean, factor, jnp.full_like(mean, math.log(scale)))
    tril = scale * jnp.eye(dim, dtype=mean.dtype)
    return FullRankGaussian(mean, tril) if family == "full-rank" else StudentT(mean, tril, jnp.log(jnp.asarray(df)))


def ascend(
    q: AbstractFamily,
    objective: AbstractObjective,
    scoring: AbstractObjective,
    solver: AbstractNoisySolver,
    key: PRNGKeyArray,
    *,
    patience: int,
    max_steps: int | None,
    max_time: float | None,
    watch: Callable[[Progress], None] | None,
    seconds_before: float = 0.0,
) -> tuple[AbstractFamily, Result]:
    """Climb `objective` from q until `scoring` has stopped rising; the family at the end, and how it ended.

    Both have their target inside. Budgets: steps (50,000 where None), and seconds, `seconds_before` included.
    """
    problem, trained = Problem.of(q, objective=objective, scoring=scoring, train=None, held_out=None)
    stopping = Plateau(patience=patience, keep_latest=True)
    most = _MAX_STEPS if max_steps is None else max_steps
    result = drive(
        problem,
        solver,
        stopping,
        start(problem, solver, stopping, trained, key),
        key,
        max_steps=most,
        check_every=min(CHECK_EVERY, most),
        max_time=max_time,
        watch=watch,
        seconds_before=seconds_before,
    )
    return problem.whole(result.answer), result


def fit_posterior(
    target: AbstractTarget,
    key: PRNGKeyArray,
    q: AbstractFamily,
    bound: AbstractBound,
    solver: AbstractNoisySolver,
    max_steps: int | None,
    max_time: float | None,
    watch: Callable[[Progress], None] | None,
) -> Posterior:
    """The posterior by stochastic gradients from q, judged but not corrected. Raises InputError if q does not fit."""
    run_key, answer_key = jax.random.split(key)
    q = jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if eqx.is_inexact_array(leaf) else leaf, q)
    if isinstance(q, FromNumPyro):
        raise InputError(
            "family is a NumPyro distribution; its arrays are constrained and tied to each other, so they cannot be "
            "moved freely. Use 'mean-field', 'full-rank' or a qphi family (NumPyro's are fine as encoders and priors)."
        )
    if q.dim != target.dim:
        raise InputError(f"The family is over {q.dim} dimensions, the target over {target.dim}. Give a matching one.")
    q, result = ascend(
        q,
        PosteriorObjective(target, bound),
        PosteriorObjective(target, MonteCarlo(_SCORING_PARTICLES)),
        solver,
        run_key,
        patience=5,
        max_steps=max_steps,
        max_time=max_time,
        watch=watch,
    )
    return posterior_from(
        target,
        q,
        result.status,
        answer_key,
        steps=int(result.run.step),
        seconds=result.seconds,
        history=result.history,
        reason=result.reason,
    )


def fit_flow(
    target: AbstractTarget,
    key: PRNGKeyArray,
    family: str | AbstractFlow,
    bound: AbstractBound,
    solver: AbstractNoisySolver | None,
    max_steps: int | None,
    max_time: float | None,
    watch: Callable[[Progress], None] | None,
) -> Posterior:
    """A flow by stochastic gradients, in the coordinates of the Gaussian that it bends."""
    began = time.monotonic()
    start_key, flow_key, run_key = jax.random.split(key, 3)
    others: list[Gaussian] = []
    if isinstance(family, AbstractFlow):
        flow = family
    elif target.dim > MOST_DENSE:
        raise InputError(
            f"family={family!r} begins at a full-rank Gaussian, of at most {MOST_DENSE} dimensions; the target has "
            f"{target.dim}. Use 'low-rank' or 'mean-field', or give a flow to start from."
        )
    else:
        flow = FLOWS[family].around(jnp.zeros(target.dim), jnp.eye(target.dim), key=flow_key)  # refuses first
        deadline = math.inf if max_time is None else began + max_time
        search = explore(Oracle(target), start_key, effort=EFFORTS["quick"], deadline=deadline)
        best, *others = search.gaussians
        flow = dataclasses.replace(flow, mean=jnp.asarray(best.mean), tril=jnp.asarray(best.tril))
    if flow.dim != target.dim:
        raise InputError(f"The flow is over {flow.dim} dimensions, the target over {target.dim}. Give a matching one.")
    mean, tril = jnp.asarray(flow.mean, float), jnp.tril(jnp.asarray(flow.tril, float))
    posterior = fit_posterior(
        Whitened(target, mean, tril),
        run_key,
        dataclasses.replace(flow, mean=jnp.zeros_like(mean), tril=jnp.eye(flow.dim)),
        bound,
        solver or StochasticGradient(learning_rate=0.01, average_over=CHECK_EVERY, refinements=3),
        max_steps,
        None if max_time is None else max(0.0, began + max_time - time.monotonic()),
        watch,
    )
    inner, verdict = posterior.q, posterior.verdict
    assert isinstance(inner, AbstractFlow)
    q = dataclasses.replace(inner, mean=mean + tril @ inner.mean, tril=tril @ jnp.tril(inner.tril))
    missed = sum(_misses(q, target, other, posterior.log_evidence) for other in others)
    if missed and verdict.trust.usable:
        reason = f"the automatic fit found {missed} mode(s) where the flow has next to no mass"
        advice = "leave family= out, so that every mode has its Gaussian."
        verdict = Verdict(Trust.UNRELIABLE, (reason, *verdict.reasons), advice, numbers=verdict.numbers)
    return dataclasses.replace(posterior, q=q, target=target, verdict=verdict, seconds=time.monotonic() - began)


def _misses(q: AbstractFamily, target: AbstractTarget, mode: Gaussian, log_evidence: float) -> bool:
    """Whether p towers over q where a mode's Gaussian has its mass."""
    z = jnp.asarray(mode.transport(fixed_draws(np.random.default_rng(0), 64, target.dim)))
    excess = np.asarray(target.log_density_many(z) - q.log_prob_many(z)) - log_evidence
    return not np.median(excess) < math.log(_TOWERS)  # NaN: nothing is known, nothing is claimed
