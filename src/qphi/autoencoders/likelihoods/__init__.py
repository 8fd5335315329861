"""Likelihoods p_theta(x|z): what the decoder's outputs mean."""

from qphi.autoencoders.likelihoods.base import AbstractLikelihood, FromDistribution
from qphi.autoencoders.likelihoods.binary import Bernoulli, ContinuousBernoulli
from qphi.autoencoders.likelihoods.counts import (
    AbstractCounts,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from qphi.autoencoders.likelihoods.levels import Categorical, DiscretisedLogistic, Ordinal
from qphi.autoencoders.likelihoods.named import named
from qphi.autoencoders.likelihoods.real import Gaussian, GaussianWithScale, StudentT, implied_kl_weight

__all__ = [
    "AbstractCounts",
    "AbstractLikelihood",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "FromDistribution",
    "Gaussian",
    "GaussianWithScale",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "implied_kl_weight",
    "named",
]
