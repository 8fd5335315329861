"""The verdict on a posterior, from what was measured: thresholds, words and advice."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from qphi.checks.pareto import khat_threshold
from qphi.checks.settle import Settling
from qphi.checks.tails import existing, heavy
from qphi.checks.weighted import Moments, WeightCheck, believable
from qphi.outskirts import Estimate
from qphi.solvers.exact import AbstractGaussian
from qphi.verdict import Trust

__all__ = ["Circumstances", "Judgement", "beyond_help", "by_chains", "by_weights", "doubted", "outdone", "outreached"]

_SMALL_VARIANCE = 0.1  # of the lifted log weights: half of it is the KL that is left, nats
_FEWEST_ESS, _ESS_SHARE = 400, 0.05
_KHAT = 0.7
_DISAGREEMENT = 0.3  # posterior sds between chains and weights that both look good
_OTHER_SPREAD, _SURE = 0.1, 4.0  # of log sds, and in standard errors
_DEPARTURE = 0.1  # sds
_HEAVY_WEIGHT = 3.0  # nats over the log of the mean weight
_FLAT = 1e4  # an sd this large on the unconstrained scale hints at a direction that the data say nothing about
_MORE_EVIDENCE, _FEW_PLACES = 0.1, 0.3  # nats; the standard error of an estimate that a dozen places make
_ADDED = 1.0  # times the variance: an sd larger by two fifths
_ELBO_GAP = 0.5  # nats between the fit's own draws and fresh ones

_MORE_MODES = "every further round of starts found more modes: there may be others"
_LONGER = "try effort='thorough', which runs Markov chains from q for longer, or another parameterisation."
_CHECK_MODEL = "check the model: a prior that is missing, a direction without data, or another parameterisation."
_TAILS = "report medians and quantiles of the values marked, whose means or sds may not exist."


@dataclasses.dataclass(frozen=True)
class Circumstances:
    """What a judgement needs to know of how the fit went. `fitted_elbo` and `converged` are the best mode's."""

    q: AbstractGaussian
    modes: int
    converged: bool
    fitted_elbo: float
    late: bool
    modes_left: bool  # further starts kept finding modes
    largest_log_weight: float  # raw, over the log of the mean weight, nats
    thorough: bool
    shares_known: bool = True  # the weights tell how much mass each mode has

    @property
    def advice(self) -> str:
        """What is left to try."""
        return _CHECK_MODEL if self.thorough else _LONGER


@dataclasses.dataclass(frozen=True)
class Judgement:
    """A word, why, and what to do."""

    trust: Trust
    reasons: tuple[str, ...]
    advice: str = ""


def by_weights(case: Circumstances, check: WeightCheck, moments: Moments) -> Judgement:
    """Trusted where weights are nearly constant and nothing speaks against it; corrected where they can be used.

    Nearly constant: the variance of the lifted log weights below 0.1, a KL of 0.05 nats, whatever Pareto k is. Usable:
    k below its threshold and an ESS of 400 and a twentieth of the pairs. Either way every mean and sd has to have a
    small error of its own.
    """
    if not math.isfinite(check.log_evidence):
        return Judgement(Trust.FAILED, ("log p is not finite around the best place that was found",), _CHECK_MODEL)
    mean_ok, sd_ok = believable(moments)
    believed = bool(mean_ok.all() and sd_ok.all())
    reasons = []
    if case.late:
        reasons.append("the time budget ended before the checks did")
    if not case.converged:
        reasons.append(_unconverged(case.q))
    if case.modes == 1 and abs(check.elbo - case.fitted_elbo) > _ELBO_GAP + 4 * check.elbo_standard_error:
        reasons.append(f"the ELBO is {check.elbo:.2f} nats on fresh draws, {case.fitted_elbo:.2f} on those fitted to")
    if not believed:
        reasons.append(_doubtful(mean_ok, sd_ok))
    reasons += _modes(case)
    near = check.log_weight_variance < _SMALL_VARIANCE
    if near and check.khat >= _KHAT and case.largest_log_weight > _HEAVY_WEIGHT:
        near = False  # q agrees with p where q is; a few draws say that p is elsewhere too
    if near and not reasons:
        kl = max(check.log_weight_variance / 2, 0.001)
        return Judgement(Trust.TRUSTED, (f"q is within {kl:.2g} nats of the posterior",))
    if case.modes_left:
        return Judgement(Trust.UNRELIABLE, (_MORE_MODES, *reasons), case.advice)
    if not (near or _enough(check)):
        reasons.append(f"importance weights have Pareto k {check.khat:.2f} and ESS {check.ess:.0f} of {check.pairs}")
    elif believed and not case.late:
        reasons.append(f"moments are importance weighted (ESS {check.ess:.0f} of {check.pairs})")
        return Judgement(Trust.CORRECTED, tuple(reasons))
    return Judgement(Trust.UNRELIABLE, tuple(reasons), case.advice)


def _enough(check: WeightCheck) -> bool:
    return check.khat < khat_threshold(check.pairs) and check.ess > max(_FEWEST_ESS, _ESS_SHARE * check.pairs)


def beyond_help(check: WeightCheck, moments: Moments) -> bool:
    """Whether weights are good, and all that is doubtful are moments that do not exist.

    No draws would make these believable, and the weighted ones are the best there are: chains are seldom far out, and
    show less of such a tail than there is.
    """
    if moments.mean_own is None or moments.sd_own is None or not _enough(check):
        return False
    believed, exists = (np.stack([*found(moments)]) for found in (believable, existing))
    endless = ~exists & heavy(np.stack([moments.mean_own, moments.sd_own]))
    return bool(np.any(~believed) and np.all(believed | endless))


def by_chains(case: Circumstances, settling: Settling, moments: Moments, other: Moments | None) -> Judgement:
    """Corrected where chains have settled and every mean and sd can be believed.

    `other`: good weighted moments, which chains only check: these need not have small errors of their own.
    """
    said = f"{settling.chains} Markov chains from q, {settling.moves} moves"
    reasons = _modes(case)
    if case.modes_left:
        return Judgement(Trust.UNRELIABLE, (_MORE_MODES, *reasons), case.advice)
    if not settling.settled:
        reasons.append(f"{said}, have not settled (R-hat {settling.rhat:.2f}, drift {settling.drift:.2f} sd)")
        return Judgement(Trust.UNRELIABLE, tuple(reasons), case.advice)
    reasons.append(f"draws are those of {said} (R-hat {settling.rhat:.2f})")
    mean_ok, sd_ok = believable(moments) if other is None else existing(moments)
    if not (mean_ok.all() and sd_ok.all()):
        return Judgement(Trust.UNRELIABLE, (_doubtful(mean_ok, sd_ok), *reasons), _TAILS)
    if other is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            moved = np.abs(moments.mean - other.mean) / other.sd
            spread = np.abs(np.log(moments.sd / other.sd))
            noise = np.hypot(moments.sd_error / moments.sd, other.sd_error / other.sd)
        far = np.nanmax(moved, initial=0.0) > _DISAGREEMENT
        if far or np.any(spread > np.maximum(_OTHER_SPREAD, _SURE * noise)):
            return Judgement(
                Trust.UNRELIABLE, ("chains moved away from weights that looked good", *reasons), _CHECK_MODEL
            )
    return Judgement(Trust.CORRECTED, tuple(reasons))


def doubted(case: Circumstances, judgement: Judgement, departure: float) -> Judgement:
    """The judgement of draws which chains in plain coordinates have left by `departure`; NaN: there was no time."""
    if departure <= _DEPARTURE:
        return judgement
    left = f"Markov chains that began at the draws moved away from them (by {departure:.2f} sd)"
    if math.isnan(departure):
        left = "there was no time for Markov chains to check the draws, or they could not begin"
    return Judgement(Trust.UNRELIABLE, (left, *judgement.reasons), case.advice)


def outreached(
    case: Circumstances, judgement: Judgement, moments: Moments, added: Float[np.ndarray, " columns"]
) -> tuple[Judgement, Moments]:
    """The judgement, and the moments, where mass beyond all draws would have `added` such shares to variances."""
    missed = added > _ADDED
    if not missed.any():
        return judgement, moments
    marked = dataclasses.replace(moments, sd_error=np.where(missed, np.inf, moments.sd_error))
    factor = math.sqrt(1 + added.max())
    said = f"in a narrow place beyond all draws there is mass with which {np.sum(missed)} sd(s) would be larger"
    return Judgement(Trust.UNRELIABLE, (f"{said} (by {factor:.1f} or so)", *judgement.reasons), _TAILS), marked


def outdone(case: Circumstances, judgement: Judgement, seen: Iterable[Estimate], evidence: Estimate) -> Judgement:
    """The judgement where places outside of the fits were `seen` to hold more evidence than the draws account for."""
    more = 0.0
    for other in seen:
        sure = other.value - evidence.value > _SURE * math.hypot(other.error, evidence.error)
        if sure and other.error < _FEW_PLACES:  # of which one may have fallen on a peak
            more = max(more, other.value - evidence.value)
    if more < _MORE_EVIDENCE or not judgement.trust.usable:
        return judgement
    missed = f"places further out hold evidence that the draws do not account for ({more:.2f} nats): mass is missed"
    return Judgement(Trust.UNRELIABLE, (missed, *judgement.reasons), case.advice)


def _modes(case: Circumstances) -> list[str]:
    if case.modes == 1:
        return []
    known = "their weights come from importance sampling"
    unknown = "importance weights are too uneven to tell how much of the mass each has"
    return [f"{case.modes} modes were found; {known if case.shares_known else unknown}"]


def _doubtful(mean_ok: np.ndarray, sd_ok: np.ndarray) -> str:
    return f"the tails leave {np.sum(~mean_ok)} mean(s) and {np.sum(~sd_ok)} sd(s) uncertain"


def _unconverged(q: AbstractGaussian) -> str:
    scale = q.sd
    widest = int(np.argmax(scale))
    if scale[widest] < _FLAT:
        return "the fit has not converged"
    return f"unconstrained coordinate {widest} has an sd of {scale[widest]:.1g} and growing: it may be improper"
