"""Latent-variable models: prior, encoder, decoder, likelihood; their training and evaluation."""

from qphi.autoencoders.encoders import AbstractEncoder, FunctionEncoder, GaussianEncoder
from qphi.autoencoders.evaluation import Evaluation, Figure
from qphi.autoencoders.gated import GatedMLP
from qphi.autoencoders.heads import CategoricalHead, FlowHead, FullRankHead, HeadEncoder, LadderHead, StudentTHead
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
from qphi.autoencoders.vamp import VampPrior

__all__ = [
    "MLP",
    "AbstractEncoder",
    "AbstractLikelihood",
    "AbstractNetwork",
    "Bernoulli",
    "CategoricalHead",
    "ContinuousBernoulli",
    "Evaluation",
    "Figure",
    "FlowHead",
    "FromDistribution",
    "FullRankHead",
    "FunctionEncoder",
    "GatedMLP",
    "Gaussian",
    "GaussianEncoder",
    "HeadEncoder",
    "LadderHead",
    "LatentVariableModel",
    "StudentTHead",
    "VampPrior",
    "implied_kl_weight",
]
