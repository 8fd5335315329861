"""What the contract tests run over. A new class registers once, with one line here, and gets all tests of its kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from qphi.autoencoders import (
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
)
from qphi.bounds import ELBO, ClosedFormEntropy, ClosedFormKL, DReG, MonteCarlo, StickingTheLanding
from qphi.families import (
    AbstractFamily,
    AbstractFlow,
    AutoregressiveFlow,
    Batch,
    CouplingFlow,
    DiagonalGaussian,
    DrivenGaussian,
    FromNumPyro,
    FullRankGaussian,
    GaussianMixture,
    Ladder,
    LowRankGaussian,
    Mixture,
    SkewLift,
    SpikedGaussian,
    StandardNormal,
    TopDown,
)
from qphi.families import StudentT as StudentTFamily
from qphi.solvers import (
    AbstractGaussianSolver,
    BatchAndMatch,
    Laplace,
    MeanField,
    Newton,
    SteinNewton,
    StochasticGradient,
)


@dataclasses.dataclass(frozen=True)
class FamilyCase:
    """A family over R^2 as a function of its parameters; `support` is each coordinate's, `positive` or `real`.

    `no_pathwise_gradient`: parameters that a draw does not depend on smoothly, so that their gradient is zero.
    """

    build: Callable[..., AbstractFamily]
    parameters: dict[str, Any]
    support: str = "real"
    no_pathwise_gradient: tuple[str, ...] = ()


def _numpyro(law: Callable[..., dist.Distribution]) -> Callable[..., AbstractFamily]:
    return lambda **parameters: FromNumPyro(law(**parameters).to_event(1))


def _bent(kind: type[AbstractFlow]) -> Callable[..., AbstractFamily]:
    """A flow of three layers that is no Gaussian: `bend` scales what its networks answer, log scales and shifts."""
    random = np.random.default_rng(0)
    shapes = (3, 2, 2), (3, 2), (3, 2, 2, 2), (3, 2, 2)
    network = [random.uniform(0.2, 0.5, shape) for shape in shapes]

    def build(mean: Any, tril: Any, bend: Any) -> AbstractFamily:
        inside, offsets, answers, constants = (jnp.asarray(a, mean.dtype) for a in network)
        return kind(mean, tril, inside, offsets, bend[:, None, None] * answers, bend[:, None] * constants)

    return build


def _bent_ladder(answers: Any) -> TopDown:
    """Two levels of one latent: mean and log scale of the lower follow the upper by `answers`."""
    prior = TopDown((1, 1), width=2, key=jax.random.key(0))
    weights = (
        jnp.array([[0.6], [-0.4]], answers.dtype),
        answers[:, None, None] * jnp.array([[[1.0, 0.5]]], answers.dtype),
    )
    return eqx.tree_at(lambda p: (p.steps[0].weights_in, p.steps[0].weights_out), prior, weights)


_LOC_SCALE = {"loc": [0.3, -0.8], "scale": [0.7, 1.4]}

FAMILIES: dict[str, FamilyCase] = {
    "StandardNormal": FamilyCase(lambda: StandardNormal(2), {}),
    "DiagonalGaussian": FamilyCase(DiagonalGaussian, {"mean": [0.4, -1.0], "log_scale": [-0.6, 0.3]}),
    "FullRankGaussian": FamilyCase(FullRankGaussian, {"mean": [0.4, -1.0], "tril": [[0.8, 0.0], [-0.5, 0.6]]}),
    "LowRankGaussian": FamilyCase(
        LowRankGaussian, {"mean": [0.4, -1.0], "factor": [[0.8], [-0.5]], "log_scale": [-0.6, 0.3]}
    ),
    "DrivenGaussian": FamilyCase(
        lambda **parameters: DrivenGaussian(**parameters, order=jnp.array([1, 0])),
        {
            "mean": [0.4, -1.0],
            "lower": [[1.0, 0.0], [-0.5, 1.0]],
            "log_scale": [-0.6, 0.3],
            "scale_drive": [[0.0, 0.0], [0.4, -0.2]],
            "shift_drive": [[0.0, 0.0], [0.3, 0.5]],
        },
    ),
    "SpikedGaussian": FamilyCase(
        SpikedGaussian,
        {"mean": [0.4, -1.0], "log_scale": [-0.6, 0.3], "directions": [[0.6], [-0.7]], "excess": [-0.5]},
    ),
    "SkewLift": FamilyCase(
        lambda mean, log_scale: SkewLift(
            DiagonalGaussian(mean, log_scale), mean, lambda z: jax.scipy.stats.norm.logcdf(2 * z[0] - 3 * z[1])
        ),
        {"mean": [0.4, -1.0], "log_scale": [-0.6, 0.3]},
        no_pathwise_gradient=("mean", "log_scale"),
    ),
    "StudentT": FamilyCase(StudentTFamily, {"mean": [0.4, -1.0], "tril": [[0.8, 0.0], [-0.5, 0.6]], "log_df": 1.9}),
    "GaussianMixture": FamilyCase(
        GaussianMixture,
        {
            "logits": [0.2, -0.5],
            "means": [[0.4, -1.0], [-1.2, 0.5]],
            "trils": [[[0.8, 0.0], [-0.5, 0.6]], [[0.5, 0.0], [0.2, 0.9]]],
        },
        no_pathwise_gradient=("logits",),
    ),
    "CouplingFlow": FamilyCase(
        _bent(CouplingFlow), {"mean": [0.4, -1.0], "tril": [[0.8, 0.0], [-0.5, 0.6]], "bend": [0.3, 0.6]}
    ),
    "AutoregressiveFlow": FamilyCase(
        _bent(AutoregressiveFlow), {"mean": [0.4, -1.0], "tril": [[0.8, 0.0], [-0.5, 0.6]], "bend": [0.5, -0.4]}
    ),
    "Mixture": FamilyCase(
        lambda logits, means, log_scales: Mixture(logits, Batch(jax.vmap(DiagonalGaussian)(means, log_scales))),
        {"logits": [0.2, -0.5], "means": [[0.4, -1.0], [-1.2, 0.5]], "log_scales": [[-0.4, 0.1], [0.2, -0.6]]},
        no_pathwise_gradient=("logits",),
    ),
    "Ladder": FamilyCase(
        lambda mean, log_scale, answers: Ladder(_bent_ladder(answers), mean, log_scale),
        {"mean": [0.4, -1.0], "log_scale": [-0.6, 0.3], "answers": [0.8, -0.3]},
    ),
    "TopDown": FamilyCase(lambda answers: _bent_ladder(answers), {"answers": [0.8, -0.3]}),
    "numpyro Normal": FamilyCase(_numpyro(dist.Normal), _LOC_SCALE),
    "numpyro Logistic": FamilyCase(_numpyro(dist.Logistic), _LOC_SCALE),
    "numpyro StudentT": FamilyCase(_numpyro(dist.StudentT), {"df": [5.0, 9.0], **_LOC_SCALE}),
    "numpyro Gamma": FamilyCase(_numpyro(dist.Gamma), {"concentration": [0.8, 3.0], "rate": [1.3, 2.0]}, "positive"),
}


@dataclasses.dataclass(frozen=True)
class BoundCase:
    """A bound as a function of its number of particles, and what it asks of q and p."""

    build: Callable[[int], Any]
    needs_entropy: bool = False
    needs_kl: bool = False
    zero_gradient_at_posterior: bool = False  # in each draw, not only on average


BOUNDS: dict[str, BoundCase] = {
    "ELBO": BoundCase(ELBO),
    "MonteCarlo": BoundCase(MonteCarlo),
    "StickingTheLanding": BoundCase(StickingTheLanding, zero_gradient_at_posterior=True),
    "ClosedFormEntropy": BoundCase(ClosedFormEntropy, needs_entropy=True),
    "ClosedFormKL": BoundCase(ClosedFormKL, needs_kl=True),
    "DReG": BoundCase(lambda particles: DReG(1), zero_gradient_at_posterior=True),  # of one draw: the ELBO
}


@dataclasses.dataclass(frozen=True)
class SolverCase:
    """A solver set up for a small Gaussian, and the steps it needs to reach it."""

    build: Callable[[], Any]
    steps: int


SOLVERS: dict[str, SolverCase] = {
    "StochasticGradient": SolverCase(lambda: StochasticGradient(learning_rate=0.05, batch_size=3), 2000),
}


@dataclasses.dataclass(frozen=True)
class GaussianSolverCase:
    """An exact solver from Gaussian to Gaussian; the affine maps of z that its answer follows."""

    build: Callable[..., AbstractGaussianSolver[Any]]
    follows: str = "triangular"  # 'triangular' | 'diagonal'


GAUSSIAN_SOLVERS: dict[str, GaussianSolverCase] = {
    "Newton": GaussianSolverCase(Newton),
    "SteinNewton": GaussianSolverCase(SteinNewton),
    "BatchAndMatch": GaussianSolverCase(BatchAndMatch),
    "Laplace": GaussianSolverCase(Laplace),
    "MeanField": GaussianSolverCase(MeanField, follows="diagonal"),
}


@dataclasses.dataclass(frozen=True)
class LikelihoodCase:
    """A likelihood, decoder outputs to try, a row for one element of x, x's support, and if any output is allowed.

    `levels`: how many values there are where the support is 'levels' (spread over 0..1) or 'codes' (0, 1, ...).
    `nominal`: values without an average, whose `mean` is the most probable one.
    """

    likelihood: AbstractLikelihood
    support: str  # 'real' | 'binary' | 'unit' | 'counts' | 'levels' | 'codes'
    outputs: np.ndarray = dataclasses.field(default_factory=lambda: np.array([-6.0, -0.7, 0.0, 0.05, 0.11, 3.0]))
    any_output: bool = True
    levels: int = 0
    nominal: bool = False


_PAIRS = np.array([[-3.0, -2.0], [-0.7, 0.4], [0.0, 0.0], [1.5, -0.6], [2.5, 0.8]])
_THREE = np.array([[0.0, 0.0, 0.0], [4.0, -1.0, 0.5], [-2.0, 3.0, 2.9]])
_LOGISTICS = np.array([[0.3, -0.5, -4.0, 1.0, -1.0, 0.5], [2.0, 0.0, 2.1, 1.5, 3.0, -2.0]])  # two components

LIKELIHOODS: dict[str, LikelihoodCase] = {
    "Gaussian, learned": LikelihoodCase(Gaussian(start=0.8), "real"),
    "Gaussian, given": LikelihoodCase(Gaussian(0.5), "real"),
    "Gaussian, per feature": LikelihoodCase(Gaussian(start=0.8, shape=(1,)), "real"),
    "GaussianWithScale": LikelihoodCase(GaussianWithScale(), "real", _PAIRS),
    "StudentT": LikelihoodCase(StudentT(start=0.3), "real"),
    "Bernoulli": LikelihoodCase(Bernoulli(), "binary"),
    "ContinuousBernoulli": LikelihoodCase(ContinuousBernoulli(), "unit"),
    "DiscretisedLogistic": LikelihoodCase(DiscretisedLogistic(), "levels", _PAIRS, levels=256),
    "DiscretisedLogistic, mixture": LikelihoodCase(DiscretisedLogistic(2, 16), "levels", _LOGISTICS, levels=16),
    "Categorical": LikelihoodCase(Categorical(3), "codes", _THREE, levels=3, nominal=True),
    "Ordinal": LikelihoodCase(Ordinal(5, shape=(1,)), "codes", levels=5),
    "Ordinal, two grades": LikelihoodCase(Ordinal(2), "codes", levels=2),
    "Poisson": LikelihoodCase(Poisson(), "counts"),
    "NegativeBinomial": LikelihoodCase(NegativeBinomial(start=2.0, shape=(1,)), "counts"),
    "NegativeBinomial, nearly Poisson": LikelihoodCase(NegativeBinomial(start=500.0), "counts"),
    "ZeroInflatedNegativeBinomial": LikelihoodCase(ZeroInflatedNegativeBinomial(start=3.0), "counts", _PAIRS),
    "numpyro Poisson": LikelihoodCase(FromDistribution(lambda o: dist.Poisson(jnp.exp(o))), "counts", any_output=False),
    "numpyro Laplace": LikelihoodCase(FromDistribution(lambda o: dist.Laplace(o, 0.7)), "real"),
}
