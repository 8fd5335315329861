"""How phi moves. A new solver is one file here, an export, and a line in the tests' registry."""

from qphi.solvers.base import AbstractNoisySolver, AbstractSolver, Problem, StepInfo
from qphi.solvers.gradient import StochasticGradient

__all__ = ["AbstractNoisySolver", "AbstractSolver", "Problem", "StepInfo", "StochasticGradient"]
