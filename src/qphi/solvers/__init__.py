"""How phi moves. A new solver is one file here, an export, and a line in the tests' registry."""

from qphi.solvers.base import AbstractSolver, Problem, StepInfo
from qphi.solvers.gradient import StochasticGradient

__all__ = ["AbstractSolver", "Problem", "StepInfo", "StochasticGradient"]
