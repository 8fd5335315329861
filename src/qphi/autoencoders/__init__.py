"""Latent-variable models: prior, encoder, decoder, likelihood; their training and evaluation."""

from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder, GaussianEncoder
from qphi.autoencoders.evaluation import Evaluation, Figure
from qphi.autoencoders.likelihoods import (
    AbstractLikelihood,
    Bernoulli,
    ContinuousBernoulli,
    FromDistribution,
    Gaussian,
    implied_kl_weight,
)
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.networks import MLP, AbstractNetwork

__all__ = [
    "MLP",
    "AbstractEncoder",
    "AbstractLikelihood",
    "AbstractNetwork",
    "Bernoulli",
    "ContinuousBernoulli",
    "Evaluation",
    "Figure",
    "FromDistribution",
    "FunctionEncoder",
    "Gaussian",
    "GaussianEncoder",
    "LatentVariableModel",
    "implied_kl_weight",
]
