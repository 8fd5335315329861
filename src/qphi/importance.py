"""Importance weights of q against the posterior: what a fit's own draws say about it."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

__all__ = ["ImportanceWeights"]

ENOUGH_ESS = 0.1  # of the draws; below it a few draws carry all the weight


@dataclasses.dataclass(frozen=True)
class ImportanceWeights:
    """What w = p(x, z) / q(z) over draws of q says, in nats.

        ELBO         mean log w, standard error sd(log w) / sqrt(n)
        log evidence log mean w, standard error sqrt(1 / ESS - 1 / n) (delta method)
        ESS          (sum w)^2 / sum w^2: the number of exact draws that the weighted ones are worth

    `nan`, `infinite` and `zero` count draws whose weight is NaN, infinite, or zero (density zero). NaN and
    infinite weights are never dropped: they make every figure NaN. High weights at a mode that q never visits
    cannot be seen: a good ESS is necessary for trust, not sufficient.
    """

    draws: int
    nan: int
    infinite: int
    zero: int
    elbo: float
    elbo_standard_error: float
    ess: float
    log_evidence: float
    log_evidence_standard_error: float

    @classmethod
    def from_log_weights(cls, log_w: np.ndarray) -> ImportanceWeights:
        """From log w of each draw, shape (draws,); computed in float64 on the host."""
        log_w = np.asarray(log_w, np.float64)
        n = log_w.size
        nan, infinite, zero = (int(np.sum(s)) for s in (np.isnan(log_w), log_w == np.inf, log_w == -np.inf))
        counts = (n, nan, infinite, zero)
        if nan or infinite:
            return cls(*counts, math.nan, math.nan, math.nan, math.nan, math.nan)
        if zero == n:
            return cls(*counts, -math.inf, math.nan, 0.0, -math.inf, math.nan)
        with np.errstate(over="ignore"):  # an infinite standard error is one
            elbo, error = (-math.inf, math.nan) if zero else (log_w.mean(), log_w.std(ddof=1) / math.sqrt(n))
        top = log_w.max()
        weights = np.exp(log_w - top)
        ess = weights.sum() ** 2 / np.sum(weights**2)
        log_evidence = top + math.log(weights.mean())
        return cls(
            *counts,
            float(elbo),
            float(error),
            float(ess),
            float(log_evidence),
            math.sqrt(max(1 / ess - 1 / n, 0)),
        )

    @property
    def warning(self) -> str:
        """Words for weights that speak against q; empty when they do not."""
        if self.nan or self.infinite:
            return f"the log density is not finite at {self._broken}: do not trust the table."
        if self.ess < ENOUGH_ESS * self.draws:
            return f"q is far from the posterior ({self.ess_text}): do not trust the table."
        if self.zero:
            return f"the density is zero at {self.zero} of {self.draws} draws of q, so the ELBO is -inf."
        return ""

    @property
    def elbo_text(self) -> str:
        """The ELBO with its standard error, or why there is none."""
        if self.nan or self.infinite:
            return f"not available: the log density is not finite at {self._broken}"
        if not math.isfinite(self.elbo):
            return f"{self.elbo} nats"
        # two digits of the standard error say how many of the ELBO mean something
        error = self.elbo_standard_error
        decimals = 4 if error == 0 else min(max(1 - math.floor(math.log10(error)), 0), 4)
        return f"{self.elbo:.{decimals}f} ± {error:.{decimals}f} nats"

    @property
    def ess_text(self) -> str:
        """The effective sample size with the number of draws."""
        if self.nan or self.infinite:
            return "importance ESS not available"
        return f"importance ESS {self.ess:.0f} of {self.draws}"

    @property
    def _broken(self) -> str:
        return f"{self.nan + self.infinite} of {self.draws} draws of q ({self.nan} NaN, {self.infinite} infinite)"
