"""`q_phi`: tractable distributions. A new family is one file here, an export, and a line in the tests' registry."""

from qphi.families.base import AbstractFamily, AbstractTransport, Batch
from qphi.families.categorical import Categorical
from qphi.families.driven import DrivenGaussian
from qphi.families.flow import AbstractFlow, AutoregressiveFlow, CouplingFlow
from qphi.families.from_numpyro import FromNumPyro, as_family
from qphi.families.gaussian import DiagonalGaussian, FullRankGaussian, StandardNormal
from qphi.families.kl import has_kl, kl_divergence, register_kl
from qphi.families.ladder import Ladder, TopDown
from qphi.families.lifted import SkewLift
from qphi.families.low_rank import LowRankGaussian
from qphi.families.mixture import GaussianMixture, Mixture
from qphi.families.spiked import SpikedGaussian
from qphi.families.student import StudentT

__all__ = [
    "AbstractFamily",
    "AbstractFlow",
    "AbstractTransport",
    "AutoregressiveFlow",
    "Batch",
    "Categorical",
    "CouplingFlow",
    "DiagonalGaussian",
    "DrivenGaussian",
    "FromNumPyro",
    "FullRankGaussian",
    "GaussianMixture",
    "Ladder",
    "LowRankGaussian",
    "Mixture",
    "SkewLift",
    "SpikedGaussian",
    "StandardNormal",
    "StudentT",
    "TopDown",
    "as_family",
    "has_kl",
    "kl_divergence",
    "register_kl",
]
