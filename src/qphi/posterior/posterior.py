"""What the user holds at the end of door 1: draws of the posterior, q, and a verdict on both."""

from __future__ import annotations

import dataclasses
import functools
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.checks.pareto import khat_threshold, smooth_log_weights
from qphi.draws import Pool, log_weights, named_draws
from qphi.errors import InputError
from qphi.families import AbstractFamily
from qphi.importance import ImportanceWeights
from qphi.noise import checked_key, generator
from qphi.precision import in_double
from qphi.solvers.exact import MOST_DENSE
from qphi.status import Status
from qphi.summary import DRAWS, SHOWN_ROWS, Summary, draws_for, exact_moments, summarise, summarise_pool
from qphi.targets import NumPyroTarget
from qphi.targets.base import AbstractTarget
from qphi.targets.predictive import predictive
from qphi.targets.remembered import Remembered
from qphi.verdict import Trust, UnreliableError, Verdict

__all__ = ["Posterior", "posterior_from"]

SUMMARY_SEED = 0  # of the table's own draws: the same posterior prints the same table twice
SMALL_KL = 0.05  # nats; below it raw and weighted moments agree, whatever the tails of the weights


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior:
    """Draws of a posterior, the q_phi(z) they were made from, and a verdict that says whether to trust them.

    `elbo` is that of q, in nats for the whole data set, higher is better, at most the log evidence, and
    `elbo_standard_error` is its Monte Carlo standard error; both come from fresh draws (`weights`), never
    from the optimiser's trace. Where there is a `pool`, draws and moments are its own: q corrected by importance
    weights or by Markov chains (`made_by`); else they are q's.
    """

    q: AbstractFamily
    target: AbstractTarget
    status: Status
    weights: ImportanceWeights
    verdict: Verdict
    pool: Pool | None = None
    steps: int = 0
    seconds: float = 0.0
    history: Mapping[str, list[float]] = dataclasses.field(default_factory=dict)
    reason: str = ""
    evaluations: Mapping[str, int] = dataclasses.field(default_factory=dict)
    stages: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def elbo(self) -> float:
        """E_q[log p(x, z) - log q(z)], nats; NaN where a draw's is."""
        return self.weights.elbo

    @property
    def elbo_standard_error(self) -> float:
        """Monte Carlo standard error of `elbo`, nats."""
        return self.weights.elbo_standard_error

    @property
    def log_evidence(self) -> float:
        """log p(x) by importance sampling, nats; as good as the weights are (`verdict.numbers`)."""
        return self.weights.log_evidence

    @property
    def log_evidence_standard_error(self) -> float:
        """Standard error of `log_evidence`, nats, by the delta method; too small where Pareto k is above 0.7."""
        return self.weights.log_evidence_standard_error

    @property
    def made_by(self) -> str:
        """Where the draws come from: 'q', 'importance weights' or 'Markov chains'."""
        return self.pool.made_by if self.pool else "q"

    @in_double
    def sample(self, key: PRNGKeyArray, n: int = 1000) -> dict[str, np.ndarray]:
        """`n` draws of each named value (deterministic sites too), on their own supports, in double precision.

        From the pool where there is one: with more draws asked for than it holds, draws repeat.
        """
        checked_key(key)
        n = _checked_count(n, 1)
        if self.pool is None:
            draws = named_draws(self.q, self.target, key, n)
            return {name: draws[name] for name in self._shapes}
        rows = self.pool.choose(generator(key), n)
        return {name: np.asarray(self.pool.values[name])[rows] for name in self._shapes}

    @in_double
    def log_prob(self, z: Float[Array, "*draws dim"] | Float[np.ndarray, "*draws dim"]) -> np.ndarray:
        """log q(z), nats, on the unconstrained scale: a number for one point, one for each row."""
        z = jax.numpy.asarray(z)
        return np.asarray(self.q.log_prob(z) if z.ndim == 1 else self.q.log_prob_many(z))

    def mean(self) -> dict[str, np.ndarray]:
        """Posterior means. `verdict.mean_ok` says which can be believed."""
        return self._column("mean")

    def sd(self, *, allow_unreliable: bool = False) -> dict[str, np.ndarray]:
        """Posterior standard deviations. Raises UnreliableError where the verdict says not to read them."""
        self._check_usable(allow_unreliable)
        return self._column("sd")

    def quantiles(
        self, probabilities: Sequence[float] = (0.05, 0.5, 0.95), *, allow_unreliable: bool = False
    ) -> dict[str, np.ndarray]:
        """Quantiles, one leading axis over `probabilities`. Raises UnreliableError as `sd` does."""
        probabilities = _checked_probabilities(probabilities)
        self._check_usable(allow_unreliable)
        summary = self._summarise(probabilities)
        return {
            name: np.moveaxis(summary.block(name).quantiles, -1, 0).reshape(len(probabilities), *shape)
            for name, shape in self._shapes.items()
        }

    def summary(self, *, allow_unreliable: bool = False) -> Summary:
        """Table with a row for each component: mean, sd, 5 %, 50 %, 95 %. Raises UnreliableError as `sd` does."""
        self._check_usable(allow_unreliable)
        return self._summary

    @in_double
    def predict(self, key: PRNGKeyArray, *args: Any, n: int = 1000, **kwargs: Any) -> dict[str, np.ndarray]:
        """`n` draws of what a NumPyro program observes, each from its own draw of the posterior.

        Posterior predictive p(x* | x) = E_p(z|x)[p(x* | z)]. Without arguments the model runs on its own data, every
        observed site drawn anew; with arguments (new covariates, say) on those. Each array is (n, *shape). Raises
        InputError for a posterior whose target is not a NumPyro program.
        """
        checked_key(key)
        target = self.target
        if isinstance(target, Remembered):
            raise InputError(
                "predict needs the model, and this posterior was loaded from files, which do not have it. Fit again, "
                "or draw from the likelihood yourself, with posterior.sample(key, n)."
            )
        if not isinstance(target, NumPyroTarget):
            raise InputError(
                f"predict needs a NumPyro program, and this posterior's target is a {type(target).__name__}. Draw from "
                "the likelihood yourself, with posterior.sample(key, n)."
            )
        draw_key, model_key = jax.random.split(key)
        draws = self.sample(draw_key, n)
        if not (args or kwargs):
            args, kwargs = target.data()
        return predictive(target, {site.name: draws[site.name] for site in target.sites}, model_key, args, kwargs)

    def to_arviz(self, key: PRNGKeyArray | None = None, n: int = 4000) -> Any:
        """Draws as ArviZ's container, one chain; needs the package `arviz` (or `arviz-base`)."""
        try:
            import arviz  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError("to_arviz needs the package arviz. Install it: pip install arviz") from None
        draws = self.sample(jax.random.key(SUMMARY_SEED) if key is None else key, n)
        chains = {name: value[None] for name, value in draws.items()}
        attributes = {"verdict": str(self.verdict.trust), "made_by": self.made_by}
        if int(arviz.__version__.split(".")[0]) >= 1:
            return arviz.from_dict({"posterior": chains}, attrs={"posterior": attributes})
        return arviz.from_dict(posterior=chains, posterior_attrs=attributes)

    @in_double
    def for_nuts(self, key: PRNGKeyArray, chains: int = 4) -> tuple[dict[str, Array], dict[str, Any]]:
        """Where NumPyro's NUTS should begin, and what it should know: `starts, options`.

        `starts` are draws of the posterior on the unconstrained scale, (chains, *shape) each, for
        `MCMC(...).run(..., init_params=starts)`; `options` have the covariance of the unconstrained draws as a dense
        mass matrix, above 1,000 dimensions its diagonal: `NUTS(model, **options)`. Raises InputError for a target
        without named sites.
        """
        checked_key(key)
        sites = getattr(self.target, "sites", ())
        if not sites:
            raise InputError(f"A {type(self.target).__name__} has no named sites. Give NUTS posterior.pool.z yourself.")
        if self.pool is None:
            z = np.asarray(self.q.sample_many(key, max(DRAWS, chains)))
            weights, rows = np.full(len(z), 1 / len(z)), np.arange(chains)
        else:
            z, weights = self.pool.z, self.pool.weights
            rows = self.pool.choose(generator(key), chains)
        begin, starts = 0, {}
        for site in sites:
            block = z[rows, begin : begin + site.size]
            starts[site.name] = jax.numpy.asarray(block.reshape(chains, *site.unconstrained_shape))
            begin += site.size
        names = tuple(site.name for site in sites)
        if self.target.dim > MOST_DENSE:
            variances = jax.numpy.asarray(weights @ (z - weights @ z) ** 2)
            return starts, {"dense_mass": False, "inverse_mass_matrix": {names: variances}}
        covariance = np.atleast_2d(np.cov(z.T, aweights=weights))
        return starts, {"dense_mass": [names], "inverse_mass_matrix": {names: jax.numpy.asarray(covariance)}}

    def plot(self) -> Any:
        """Marginals of every component (the first 24) as a matplotlib figure; those not to be believed in vermilion."""
        from qphi.posterior.plots import marginal_figure

        if self.pool is None:
            raise InputError(
                "plot needs a fit without family= and solver=. Plot draws of posterior.sample(key) instead."
            )
        return marginal_figure(self.pool, self.verdict)

    def save(self, path: str | Path) -> Path:
        """Write draws, q and verdict into the folder `path`; `qphi.load` reads them, without the model."""
        from qphi.posterior.files import save_posterior

        save_posterior(self, Path(path))
        return Path(path)

    def __repr__(self) -> str:
        return "\n".join([*self._head(), "", self._summary.text(limit=SHOWN_ROWS), "", *self._foot()])

    def _repr_html_(self) -> str:
        head, foot = (
            "".join(f"<p>{html.escape(line)}</p>" for line in lines) for lines in (self._head(), self._foot())
        )
        return f"<div>{head}{self._summary.html(limit=SHOWN_ROWS)}{foot}</div>"

    def _head(self) -> list[str]:
        lines = [f"Posterior: {self.verdict}."]
        if self.reason or self.status is not Status.CONVERGED:
            lines.append(f"The fit: {(self.reason or self.status.message).rstrip('.')}.")
        lines += [f"Advice: {advice}" for advice in dict.fromkeys((self.status.advice, self.verdict.advice)) if advice]
        if self.verdict.trust is Trust.UNRELIABLE:
            lines.append("The table is shown for diagnosis; do not report its sds and intervals.")
        return lines

    def _foot(self) -> list[str]:
        lines = [f"Not to be believed: {words}" for words in _doubts(self.verdict)]
        lines.append(f"ELBO {self.weights.elbo_text}; {self.weights.ess_text}")
        work = f"{self.steps:,} steps"
        if self.evaluations:
            work = ", ".join(f"{count:,} {kind}" for kind, count in self.evaluations.items() if count) + " of log p"
        coordinates = "coordinate" if self.target.dim == 1 else "coordinates"
        lines.append(
            f"{type(self.q).__name__} over {self.target.dim} unconstrained {coordinates}; {work} in "
            f"{self.seconds:.3g} seconds"
        )
        return lines

    def _check_usable(self, allow_unreliable: bool) -> None:
        if not self.verdict.trust.usable and not allow_unreliable:
            advice = f" {self.verdict.advice[:1].upper()}{self.verdict.advice[1:]}" if self.verdict.advice else ""
            raise UnreliableError(
                f"The posterior is {self.verdict}.{advice} To read sds and intervals all the same, give "
                "allow_unreliable=True."
            )

    def _column(self, column: str) -> dict[str, np.ndarray]:
        return {name: getattr(self._summary.block(name), column).reshape(s) for name, s in self._shapes.items()}

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return in_double(self.target.shapes)()

    @functools.cached_property
    def _summary(self) -> Summary:
        return self._summarise((0.05, 0.5, 0.95))

    @in_double
    def _summarise(self, probabilities: tuple[float, ...]) -> Summary:
        shapes = self._shapes
        if self.pool is not None:
            return summarise_pool(shapes, self.pool, probabilities)
        exact = exact_moments(self.q, self.target)
        if exact.keys() >= shapes.keys():
            return summarise(shapes, {}, exact, probabilities)
        draws = named_draws(self.q, self.target, jax.random.key(SUMMARY_SEED), draws_for(shapes))
        return summarise(shapes, draws, exact, probabilities)


@in_double
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
    """The `Posterior` of a fitted q as it is, its ELBO and importance weights from `n` fresh draws made with `key`.

    `reason` says in words how the fit ended, where there is more to say than the status does. The verdict is
    `trusted` only where the weights are nearly constant and the fit converged: nothing is corrected here.
    """
    log_w = log_weights(q, target, key, _checked_count(n))
    weights = ImportanceWeights.from_log_weights(log_w)
    verdict = _verdict_of_q(status, weights, log_w)
    return Posterior(q, target, status, weights, verdict, None, steps, seconds, dict(history or {}), reason)


def _verdict_of_q(status: Status, weights: ImportanceWeights, log_w: Float[np.ndarray, " draws"]) -> Verdict:
    if not math.isfinite(weights.elbo):
        return Verdict(Trust.FAILED, (weights.warning.rstrip("."),), "check the model, or give another family.")
    _, khat = smooth_log_weights(log_w)
    kl = 0.5 * float(np.var(log_w))
    numbers = {"kl": kl, "khat": khat, "ess": weights.ess}
    small = kl < SMALL_KL
    near = f"q is within {max(kl, 0.001):.2g} nats of the posterior"
    far = f"q is far from the posterior: Pareto k {khat:.2f}, {weights.ess_text}"
    advice = "leave family= and solver= out, so that the fit is chosen and corrected automatically."
    if small and status is Status.CONVERGED:
        return Verdict(Trust.TRUSTED, (near,), numbers=numbers)
    if small:
        return Verdict(Trust.UNRELIABLE, (status.message,), status.advice, numbers=numbers)
    if khat >= khat_threshold(weights.draws) or weights.ess < 0.1 * weights.draws:
        return Verdict(Trust.UNRELIABLE, (far,), advice, numbers=numbers)
    off = f"q is about {kl:.2g} nats from the posterior (Pareto k {khat:.2f}, {weights.ess_text}), uncorrected"
    return Verdict(Trust.UNRELIABLE, (off,), advice, numbers=numbers)


def _doubts(verdict: Verdict) -> list[str]:
    """The names whose means, or sds, cannot be believed."""
    lines = []
    for what, ok in (("mean", verdict.mean_ok), ("sd", verdict.sd_ok)):
        names = [name for name, good in ok.items() if not np.all(good)]
        if names:
            lines.append(f"the {what} of {', '.join(names)} (see posterior.verdict.{what}_ok)")
    return lines


def _checked_count(n: object, least: int = 2) -> int:
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise ValueError(f"n is {n!r}; a whole number of draws, {least} or more, is needed.")
    return n


def _checked_probabilities(probabilities: Sequence[float]) -> tuple[float, ...]:
    chosen = tuple(float(p) for p in np.atleast_1d(np.asarray(probabilities, float)))
    if not all(0 < p < 1 for p in chosen):
        raise ValueError(f"probabilities are {list(chosen)}; each has to be between 0 and 1, 5 % being 0.05.")
    return chosen
