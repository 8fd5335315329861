"""`q_phi`: tractable distributions. A new family is one file here, an export, and a line in the tests' registry."""

from qphi.families.base import AbstractFamily, AbstractTransport, Batch
from qphi.families.driven import DrivenGaussian
from qphi.families.flow import AbstractFlow, AutoregressiveFlow, CouplingFlow
from qphi.families.from_numpyro import FromNumPyro, as_family
from qphi.families.gaussian import DiagonalGaussian, FullRankGaussian, StandardNormal
from qphi.families.kl import has_kl, kl_divergence, register_kl
from qphi.families.lifted import SkewLift
from qphi.families.low_rank import LowRankGaussian
from qphi.families.mixture import GaussianMixture
from qphi.families.spiked import SpikedGaussian
from qphi.families.student import StudentT

__all__ = [
    "AbstractFamily",
    "AbstractFlow",
    "AbstractTransport",
    "AutoregressiveFlow",
    "Batch",
    "CouplingFlow",
    "DiagonalGaussian",
    "DrivenGaussian",
    "FromNumPyro",
    "FullRankGaussian",
    "GaussianMixture",
    "LowRankGaussian",
    "SkewLift",
    "SpikedGaussian",
    "StandardNormal",
    "StudentT",
    "as_family",
    "has_kl",
    "kl_divergence",
    "register_kl",
]
