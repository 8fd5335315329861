"""Latent-variable models: prior, encoder, decoder, likelihood; their training and evaluation."""

from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder, GaussianEncoder
from qphi.autoencoders.evaluation import Evaluation, Figure
from qphi.autoencoders.likelihoods import (
    AbstractCounts,
    AbstractLikelihood,
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    DiscretisedLogistic,
    FromDistribution,
    Gaussian,
    GaussianWithScale,
    NegativeBinomial,
    Ordinal,
    Poisson,
    StudentT,
    ZeroInflatedNegativeBinomial,
    implied_kl_weight,
)
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, AbstractNetwork

__all__ = [
    "MLP",
    "AbstractCounts",
    "AbstractEncoder",
    "AbstractLikelihood",
    "AbstractNetwork",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Evaluation",
    "Figure",
    "FromDistribution",
    "FunctionEncoder",
    "Gaussian",
    "GaussianEncoder",
    "GaussianWithScale",
    "LatentVariableModel",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "implied_kl_weight",
]
