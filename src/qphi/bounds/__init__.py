"""L(theta, phi; x): bounds on the log evidence and the estimators of their gradients."""

from qphi.bounds.base import AbstractBound, Estimate
from qphi.bounds.discrete import Enumerated, LeaveOneOut
from qphi.bounds.elbo import ELBO, ClosedFormEntropy, ClosedFormKL, MonteCarlo, StickingTheLanding
from qphi.bounds.factored import FactoredDensity
from qphi.bounds.importance import IWAE, DReG, importance_weighted

__all__ = [
    "ELBO",
    "IWAE",
    "AbstractBound",
    "ClosedFormEntropy",
    "ClosedFormKL",
    "DReG",
    "Enumerated",
    "Estimate",
    "FactoredDensity",
    "LeaveOneOut",
    "MonteCarlo",
    "StickingTheLanding",
    "importance_weighted",
]
