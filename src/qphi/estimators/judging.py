"""How good a fitted VAE is, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np

from qphi.autoencoders.evaluation import Evaluation, evaluate, score_rows
from qphi.autoencoders.gaps import Gaps, RateDistortion, gaps, rate_distortion
from qphi.autoencoders.sample_quality import SampleQuality, sample_quality
from qphi.errors import InputError
from qphi.estimators.diagnosis import ROWS, Diagnosis, diagnose
from qphi.estimators.options import positive
from qphi.estimators.uses import Uses

__all__ = ["Judging"]


class Judging(Uses):
    """Scores, gaps, curves and advice; `covariates=` and `size_factors=` as in `Uses`."""

    beta: float
    seen_: tuple[np.ndarray, np.ndarray]  # some rows trained on and held out, in the model's units; not in files

    def score_samples(
        self, X: Any, *, particles: int = 100, covariates: Any = None, size_factors: Any = None
    ) -> np.ndarray:
        """log p(x) of each row, nats, in the units of the data, by importance weighting with `particles` draws.

        A lower bound in expectation that tightens with `particles` (Burda et al. 2016). Randomness is fixed by the
        row's own values: the same row scores the same bits at every call, whatever its neighbours.
        """
        rows = score_rows(self._fitted(), self._rows(X, covariates, size_factors), positive(particles, "particles"))
        return np.asarray(rows.log_evidence, np.float64) + self.scaling_.log_jacobian

    def score(self, X: Any, y: Any = None, *, covariates: Any = None, size_factors: Any = None) -> float:
        """Mean of `score_samples`: nats per row, higher is better."""
        return float(np.mean(self.score_samples(X, covariates=covariates, size_factors=size_factors)))

    def evaluate(
        self,
        X: Any,
        *,
        particles: int = 500,
        annealed: bool = False,
        covariates: Any = None,
        size_factors: Any = None,
    ) -> Evaluation:
        """ELBO with its two parts, importance-weighted log p(x) with Pareto's k of each row, bits per dimension, active
        units, mutual information, prior mismatch, reconstruction error; with standard errors.

        The reconstruction error is in the units of the data, for vectors of real numbers in standard deviations of
        their columns. `annealed` estimates log p(x) anew, by annealing, for rows whose k says that their weights
        cannot be relied on: minutes for thousands of rows.
        """
        return evaluate(
            self._fitted(),
            self._rows(X, covariates, size_factors),
            particles=positive(particles, "particles"),
            log_jacobian=self.scaling_.log_jacobian,
            whole=self.scaling_.whole,
            unit=self.scaling_.scale[0] if len(self.scaling_.scale) == 1 else 1.0,
            annealed=annealed,
        )

    def gaps(self, X: Any, *, n_rows: int = 64, covariates: Any = None, size_factors: Any = None) -> Gaps:
        """Amortisation and approximation gap in nats, from a sample of `n_rows` rows whose q is refined one by one."""
        return gaps(self._fitted(), _some(self._rows(X, covariates, size_factors), positive(n_rows, "n_rows")))

    def rate_distortion(
        self,
        X: Any,
        *,
        n_rows: int = 64,
        betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0),
        covariates: Any = None,
        size_factors: Any = None,
    ) -> RateDistortion:
        """Nats of code against nats of distortion that this decoder can reach, at each beta; distortion is in the units
        of the data."""
        found = rate_distortion(
            self._fitted(), _some(self._rows(X, covariates, size_factors), positive(n_rows, "n_rows")), betas=betas
        )
        moved = tuple(d - self.scaling_.log_jacobian for d in found.distortion)
        return RateDistortion(found.betas, found.rate, moved)

    def sample_quality(self, X: Any, *, covariates: Any = None, size_factors: Any = None) -> SampleQuality:
        """Precision, recall and Frechet distance of samples against X in its principal components; see
        `SampleQuality` for what they cannot see. In a conditional model samples have the covariates of X."""
        x = self.scaling_.prepare(X)
        x = x.reshape(len(x), -1)
        drawn = self.sample(len(x), noise=True, random_state=0, covariates=covariates, size_factors=size_factors)
        return sample_quality(x, self.scaling_.to_model(drawn).reshape(len(x), -1))

    def diagnose(self, X: Any, *, covariates: Any = None, size_factors: Any = None) -> Diagnosis:
        """What is wrong, in words, with what to change: collapsed units, a weak encoder, overfitting, a likelihood that
        does not fit, a prior that codes do not fill. Judged on the held-out rows if X are the training data."""
        rows, held_out = self._rows(X, covariates, size_factors), self.held_out_rows(X)
        train = None
        if held_out is not None and len(held_out) < len(rows):
            train, rows = _some(np.delete(rows, held_out, axis=0), ROWS), rows[held_out]
        return diagnose(self._fitted(), _some(rows, ROWS), train, self.scaling_.likelihood, float(self.beta))

    @property
    def diagnosis_(self) -> Diagnosis:
        """`diagnose` of rows kept from the fit, computed when it is asked for; a loaded VAE has none."""
        self._fitted()
        if "seen_" not in vars(self):
            raise InputError("a VAE from a file holds no data. Use diagnose(X) in place of diagnosis_.")
        train, held_out = self.seen_
        same = np.array_equal(train, held_out)  # so few rows that they were not split
        return diagnose(self._fitted(), held_out, None if same else train, self.scaling_.likelihood, float(self.beta))


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, evenly spread."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
