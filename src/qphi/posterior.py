"""What the user holds at the end of door 1: q, with what is known about how good it is."""

from __future__ import annotations

import dataclasses
import functools
import html
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.draws import log_weights, named_draws
from qphi.families import AbstractFamily
from qphi.importance import ImportanceWeights
from qphi.status import Status
from qphi.summary import SHOWN_ROWS, Summary, draws_for, exact_moments, summarise
from qphi.targets.base import AbstractTarget

__all__ = ["Posterior", "posterior_from"]

SUMMARY_SEED = 0  # of the table's own draws: the same posterior prints the same table twice


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """A fitted q_phi(z) on a target, with named draws, a table, and its evidence lower bound.

    `elbo` is in nats for the whole data set, higher is better, at most the log evidence, and
    `elbo_standard_error` is its Monte Carlo standard error; both come from fresh draws (`weights`), never
    from the optimiser's trace.
    """

    q: AbstractFamily
    target: AbstractTarget
    status: Status
    weights: ImportanceWeights
    steps: int = 0
    seconds: float = 0.0
    history: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    reason: str = ""

    @property
    def elbo(self) -> float:
        """E_q[log p(x, z) - log q(z)], nats; NaN where a draw's is."""
        return self.weights.elbo

    @property
    def elbo_standard_error(self) -> float:
        """Monte Carlo standard error of `elbo`, nats."""
        return self.weights.elbo_standard_error

    def sample(self, key: PRNGKeyArray, n: int = 1000) -> dict[str, Array]:
        """`n` draws of each named value (deterministic sites too), on their own supports."""
        draws = named_draws(self.q, self.target, key, _checked_count(n))
        return {name: jnp.asarray(draws[name]) for name in self._shapes}

    def log_prob(self, z: Float[Array, "*draws dim"]) -> Array:
        """log q(z), nats, on the unconstrained scale: a number for one point, one for each row."""
        z = jnp.asarray(z)
        return self.q.log_prob(z) if z.ndim == 1 else self.q.log_prob_many(z)

    def mean(self) -> dict[str, np.ndarray]:
        """Posterior means of q: exact for unconstrained values of a Gaussian q, else of the table's draws."""
        return self._column("mean")

    def sd(self) -> dict[str, np.ndarray]:
        """Posterior standard deviations of q, exact where `mean` is."""
        return self._column("sd")

    def quantiles(self, probabilities: Sequence[float] = (0.05, 0.5, 0.95)) -> dict[str, np.ndarray]:
        """Quantiles of q, one leading axis over `probabilities`; exact where `mean` is."""
        probabilities = _checked_probabilities(probabilities)
        summary = self._summarise(probabilities)
        return {
            name: np.moveaxis(summary.block(name).quantiles, -1, 0).reshape(len(probabilities), *shape)
            for name, shape in self._shapes.items()
        }

    def summary(self) -> Summary:
        """Table with a row for each component: mean, sd, 5 %, 50 %, 95 %."""
        return self._summary

    @property
    def warning(self) -> str:
        """One sentence when the importance weights say that q is far from the posterior; else empty."""
        return self.weights.warning

    def __repr__(self) -> str:
        return "\n".join([*self._head(), "", self._summary.text(limit=SHOWN_ROWS), "", *self._foot()])

    def _repr_html_(self) -> str:
        head, foot = (
            "".join(f"<p>{html.escape(line)}</p>" for line in lines) for lines in (self._head(), self._foot())
        )
        return f"<div>{head}{self._summary.html(limit=SHOWN_ROWS)}{foot}</div>"

    def _head(self) -> list[str]:
        lines = [f"Posterior: {(self.reason or self.status.message).rstrip('.')}."]
        if self.status.advice:
            lines.append(f"Advice: {self.status.advice}")
        if self.warning:
            lines.append(f"Warning: {self.warning}")
        return lines

    def _foot(self) -> list[str]:
        return [
            f"ELBO {self.weights.elbo_text}; {self.weights.ess_text}",
            f"{type(self.q).__name__} over {self.target.dim} unconstrained coordinate(s); "
            + f"{self.steps:,} steps in {self.seconds:.3g} seconds",
        ]

    def _column(self, column: str) -> dict[str, np.ndarray]:
        return {name: getattr(self._summary.block(name), column).reshape(s) for name, s in self._shapes.items()}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return self.target.shapes()

    @functools.cached_property
    def _summary(self) -> Summary:
        return self._summarise((0.05, 0.5, 0.95))

    def _summarise(self, probabilities: tuple[float, ...]) -> Summary:
        shapes, exact = self._shapes, exact_moments(self.q, self.target)
        if exact.keys() >= shapes.keys():
            return summarise(shapes, {}, exact, probabilities)
        draws = named_draws(self.q, self.target, jax.random.key(SUMMARY_SEED), draws_for(shapes))
        return summarise(shapes, draws, exact, probabilities)


def posterior_from(
    target: AbstractTarget,
    q: AbstractFamily,
    status: Status,
    key: PRNGKeyArray,
    *,
    steps: int = 0,
    seconds: float = 0.0,
    history: Mapping[str, list[float]] | None = None,
    reason: str = "",
    n: int = 4000,
) -> Posterior:
    """The `Posterior` of a fitted q, its ELBO and importance weights from `n` fresh draws made with `key`.

    `reason` says in words how the fit ended, where there is more to say than the status does.
    """
    weights = ImportanceWeights.from_log_weights(log_weights(q, target, key, _checked_count(n)))
    return Posterior(q, target, status, weights, steps, seconds, dict(history or {}), reason)


def _checked_count(n: object) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < 2:
        raise ValueError(f"n is {n!r}; a whole number of draws, 2 or more, is needed.")
    return n


def _checked_probabilities(probabilities: Sequence[float]) -> tuple[float, ...]:
    chosen = tuple(float(p) for p in np.atleast_1d(np.asarray(probabilities, float)))
    if not all(0 < p < 1 for p in chosen):
        raise ValueError(f"probabilities are {list(chosen)}; each has to be between 0 and 1, 5 % being 0.05.")
    return chosen
