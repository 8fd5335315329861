"""L(theta, phi; x): bounds on the log evidence and the estimators of their gradients."""

from qphi.bounds.base import AbstractBound, Estimate
from qphi.bounds.elbo import ELBO, ClosedFormEntropy, ClosedFormKL, MonteCarlo, StickingTheLanding
from qphi.bounds.factored import FactoredDensity

__all__ = [
    "ELBO",
    "AbstractBound",
    "ClosedFormEntropy",
    "ClosedFormKL",
    "Estimate",
    "FactoredDensity",
    "MonteCarlo",
    "StickingTheLanding",
]
