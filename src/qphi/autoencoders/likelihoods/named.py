"""Likelihoods by the names that `VAE(likelihood=...)` takes."""

from __future__ import annotations

from jaxtyping import Array, Float

from qphi.autoencoders.likelihoods.base import AbstractLikelihood
from qphi.autoencoders.likelihoods.binary import Bernoulli, ContinuousBernoulli
from qphi.autoencoders.likelihoods.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from qphi.autoencoders.likelihoods.levels import Categorical, DiscretisedLogistic, Ordinal
from qphi.autoencoders.likelihoods.real import Gaussian, GaussianWithScale, StudentT

__all__ = ["named"]

COMPONENTS = 5  # logistic components a pixel: ten buy little more (Salimans et al. 2017 use 5 as well)


def named(
    name: str, shape: tuple[int, ...], *, levels: int = 256, scale: float | Float[Array, ""] = 1.0
) -> AbstractLikelihood:
    """A fresh likelihood of data of this shape. Learned noise scales start at `scale`; `levels` of coded data.

    Raises KeyError for a name that is none.
    """
    makers = {
        "gaussian": lambda: Gaussian(start=scale),
        "gaussian-per-feature": lambda: Gaussian(start=scale, shape=shape),
        "gaussian-output-scale": GaussianWithScale,
        "student-t": lambda: StudentT(start=scale),
        "bernoulli": Bernoulli,
        "continuous-bernoulli": ContinuousBernoulli,
        "discretised-logistic": lambda: DiscretisedLogistic(levels=levels),
        "discretised-logistic-mixture": lambda: DiscretisedLogistic(COMPONENTS, levels),
        "categorical": lambda: Categorical(levels),
        "ordinal": lambda: Ordinal(levels, shape=shape),
        "poisson": Poisson,
        "negative-binomial": lambda: NegativeBinomial(shape=shape),
        "zero-inflated-negative-binomial": lambda: ZeroInflatedNegativeBinomial(shape=shape),
    }
    return makers[name]()
