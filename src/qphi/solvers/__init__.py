"""How phi moves: noisy solvers (stochastic gradients) and exact ones (on fixed draws). A new one is one file here, an
export, and a line in the tests' registry."""

from qphi.solvers.base import AbstractNoisySolver, AbstractSolver, Problem, StepInfo
from qphi.solvers.exact import AbstractExactSolver, AbstractGaussianSolver
from qphi.solvers.gradient import Cosine, StochasticGradient
from qphi.solvers.laplace import Laplace
from qphi.solvers.match import BatchAndMatch
from qphi.solvers.mean_field import MeanField
from qphi.solvers.newton import Newton, SteinNewton
from qphi.solvers.pathfinder import Pathfinder

__all__ = [
    "AbstractExactSolver",
    "AbstractGaussianSolver",
    "AbstractNoisySolver",
    "AbstractSolver",
    "BatchAndMatch",
    "Cosine",
    "Laplace",
    "MeanField",
    "Newton",
    "Pathfinder",
    "Problem",
    "SteinNewton",
    "StepInfo",
    "StochasticGradient",
]
