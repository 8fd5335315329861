"""Latent-variable models: prior, encoder, decoder, likelihood; their training and evaluation."""

from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder, GaussianEncoder
from qphi.autoencoders.evaluation import Evaluation, Figure
from qphi.autoencoders.gated import GatedMLP
from qphi.autoencoders.heads import CategoricalHead, FlowHead, FullRankHead, HeadEncoder, LadderHead, StudentTHead
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
from qphi.autoencoders.vamp import VampPrior

__all__ = [
    "MLP",
    "AbstractCounts",
    "AbstractEncoder",
    "AbstractLikelihood",
    "AbstractNetwork",
    "Bernoulli",
    "Categorical",
    "CategoricalHead",
    "ContinuousBernoulli",
    "DiscretisedLogistic",
    "Evaluation",
    "Figure",
    "FlowHead",
    "FromDistribution",
    "FullRankHead",
    "FunctionEncoder",
    "GatedMLP",
    "Gaussian",
    "GaussianEncoder",
    "GaussianWithScale",
    "HeadEncoder",
    "LadderHead",
    "LatentVariableModel",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "StudentTHead",
    "VampPrior",
    "ZeroInflatedNegativeBinomial",
    "implied_kl_weight",
]
