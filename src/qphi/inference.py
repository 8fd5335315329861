"""`fit`: one verb for every door."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from qphi.auto import EFFORTS, Inference, infer
from qphi.autoencoders.evaluation import Evaluation, evaluate
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import hold_out, plan
from qphi.bounds import ELBO, AbstractBound, StickingTheLanding
from qphi.by_gradients import CHECK_EVERY, FAMILIES, FLOWS, fit_flow, fit_posterior, named_family
from qphi.draws import Pool
from qphi.errors import InputError
from qphi.families import (
    AbstractFamily,
    AbstractFlow,
    DrivenGaussian,
    FullRankGaussian,
    GaussianMixture,
    SpikedGaussian,
)
from qphi.loop import Progress
from qphi.minibatch import fit_minibatches
from qphi.noise import checked_key
from qphi.posterior import Posterior
from qphi.posterior.files import RECORD, load_posterior
from qphi.precision import double
from qphi.programs import make_room
from qphi.serialise import read_json
from qphi.solvers import AbstractExactSolver, AbstractNoisySolver, StochasticGradient
from qphi.solvers.exact import MOST_DENSE, Spiked
from qphi.status import Status
from qphi.targets import AbstractTarget, SubsampledTarget, as_target, finite_start
from qphi.targets.oracle import Oracle

__all__ = ["Trained", "fit", "load"]

START_SCALE = 0.1  # narrower than a posterior on the unconstrained scale usually is: grows safely
PARTICLES, FLOW_PARTICLES = 16, 128  # per step, door 1


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A latent-variable model after training, with how the fit ended."""

    model: LatentVariableModel
    status: Status
    reason: str
    history: dict[str, list[float]]  # per check; nats per datum
    seconds: float
    steps: int

    @property
    def held_out_elbo_per_datum(self) -> float:
        """The held-out ELBO of `model`, nats per datum, whatever beta it was trained with."""
        steps = self.history["step"]
        if self.history["best_step"][-1] not in steps:  # no check was finite
            return float("nan")
        return self.history["held_out_elbo"][steps.index(self.history["best_step"][-1])]

    def evaluate(self, x: Any, *, particles: int = 500) -> Evaluation:
        """ELBO with its parts, importance-weighted log p(x), active units; nats per datum, with standard errors."""
        return evaluate(self.model, _rows(x), particles=particles)

    def __repr__(self) -> str:
        return (
            f"Trained({self.reason}; held-out ELBO {self.held_out_elbo_per_datum:.3f} nats per datum; "
            f"{self.steps} steps, {self.seconds:.1f} s)"
        )


def fit(
    model: Any,
    *args: Any,
    key: PRNGKeyArray,
    family: str | AbstractFamily | None = None,
    effort: str = "standard",
    bound: AbstractBound | None = None,
    particles: int | None = None,
    solver: AbstractNoisySolver | AbstractExactSolver | None = None,
    supports: dict | None = None,
    example: dict | None = None,
    beta: float = 1.0,
    max_steps: int | None = None,
    max_epochs: float | None = None,
    max_time: float | None = None,
    watch: Callable[[Progress], None] | None = None,
    **kwargs: Any,
) -> Any:
    """Fit q_phi to a model, and theta with it where the model has parameters of its own.

    A `LatentVariableModel` and its data give a `Trained` model (autoencoding variational Bayes: theta and phi
    together). A NumPyro program with its arguments, a PyMC model, a JAX log density with `example=` (and `supports=`),
    or a target gives a `Posterior`.

    key: a `jax.random.key`; the same key gives the same bits.

    For a posterior, nothing else is needed: starts, family and stop are found, the result is checked and, where it
    falls short, corrected (see `Posterior.verdict`); in double precision whatever JAX is set to. effort: 'quick' (no
    correction by Markov chains), 'standard' or 'thorough'. solver: one of `qphi.solvers` that fits the Gaussians in
    place of `Newton()`: `SteinNewton()`, `BatchAndMatch()`, `MeanField()`, `Laplace()`, or `Pathfinder()` for those of
    the climbs.

    With any of the following the fit is as you say, by stochastic gradients and without correction: family:
    'mean-field', 'low-rank', 'full-rank', 'student-t', 'coupling-flow' or 'autoregressive-flow' (around the Gaussian
    of an automatic fit), or a family to start from; bound: what is climbed, `ELBO(particles)` unless given, for flows
    `StickingTheLanding(particles)`; solver: a `StochasticGradient`; max_steps: a budget.

    A NumPyro program with a subsampled plate is fitted by minibatches: steps see as many rows as it asks for, the
    verdict all of them; family: full rank unless named.

    max_epochs (data), max_time (seconds): budgets; without them a fit stops by itself. watch: told of the progress of
    stochastic gradients a few times a second.

    Raises InputError (a ValueError) or TypeError, before any work, for what cannot be fitted.
    """
    checked_key(key)
    if max_time is not None and not (isinstance(max_time, int | float) and 0 < max_time < math.inf):
        raise InputError(f"max_time={max_time!r}; a number of seconds above 0 is needed, or None for no limit.")
    if bound is not None and not isinstance(bound, AbstractBound):
        raise TypeError(f"bound is a {type(bound).__name__}; a bound is needed, such as qphi.ELBO(particles=16).")
    if bound is not None and particles is not None:
        raise InputError("bound and particles were both given; a bound has its own. Give bound=ELBO(particles=...).")
    if solver is not None and not isinstance(solver, AbstractNoisySolver | AbstractExactSolver):
        raise TypeError(f"solver is a {type(solver).__name__}; one of qphi.solvers is needed, such as Laplace().")
    exact = solver if isinstance(solver, AbstractExactSolver) else None
    noisy = solver if isinstance(solver, AbstractNoisySolver) else None
    if isinstance(model, LatentVariableModel):
        _refuse("a latent-variable model, which stochastic gradients train", solver=exact)
        _refuse("a latent-variable model", family=family, effort=effort != "standard", supports=supports,
                example=example, max_steps=max_steps, **kwargs)  # fmt: skip
        bound = bound or ELBO(1 if particles is None else particles)
        return _fit_model(model, args, key, bound, noisy, beta, max_epochs, max_time, watch)
    _refuse("a posterior", beta=beta != 1.0, max_epochs=max_epochs)
    if effort not in EFFORTS:
        raise InputError(f"effort={effort!r} is not known. Use {', '.join(map(repr, EFFORTS))}.")
    if not (family is None or isinstance(family, AbstractFamily) or family in (*FAMILIES, *FLOWS)):
        known = ", ".join(map(repr, (*FAMILIES, *FLOWS)))
        raise InputError(f"family={family!r:.60} is not known. Use one of {known}, or a qphi family.")
    with double():
        target = as_target(model, *args, supports=supports, example=example, **kwargs)
        if isinstance(target, SubsampledTarget):
            _refuse("minibatches", effort=effort != "standard", solver=exact)
            return fit_minibatches(target, key, family, bound=bound, particles=particles, solver=noisy,
                                   max_steps=max_steps, max_time=max_time, watch=watch)  # fmt: skip
        by_hand = family is not None or bound is not None or particles is not None or noisy is not None
        if exact is not None:
            _refuse("an exact solver", family=family, bound=bound, particles=particles, max_steps=max_steps)
            if target.dim > MOST_DENSE:
                raise InputError(
                    f"{type(exact).__name__} fits full-rank Gaussians, of at most {MOST_DENSE} dimensions; the "
                    f"target has {target.dim}. Leave solver out, or give a StochasticGradient."
                )
        if not by_hand and max_steps is None:
            _refuse("an automatic fit", watch=watch)
            return _infer(target, key, effort, max_time, exact)
        _refuse("stochastic gradients, which a family, bound, solver or budget asked for",
                effort=effort != "standard")  # fmt: skip
        if isinstance(family, AbstractFlow) or (isinstance(family, str) and family in FLOWS):
            bound = bound or StickingTheLanding(FLOW_PARTICLES if particles is None else particles)
            return fit_flow(target, key, family, bound, noisy, max_steps, max_time, watch)
        bound = bound or ELBO(PARTICLES if particles is None else particles)
        noisy = noisy or StochasticGradient(learning_rate=0.05, average_over=CHECK_EVERY, refinements=3)
        start_key, key = jax.random.split(key)
        if isinstance(family, AbstractFamily):
            q = family
        else:
            q = named_family(family or "mean-field", finite_start(target, start_key), START_SCALE, start_key)
        return fit_posterior(target, key, q, bound, noisy, max_steps, max_time, watch)


def load(path: str | Path) -> Any:
    """What `save`, `qphi fit` or `qphi infer` left in the folder `path`: a `VAE`, a `SemiSupervisedVAE`, a `TableVAE`
    or a `Posterior`.

    A posterior comes without its model: it has its draws, its moments and its verdict. Raises InputError for a folder
    that is not there or not qphi's, and for damaged files.
    """
    if not Path(path).is_dir():
        raise InputError(f"There is no folder {path}. Give one that `save`, `qphi fit` or `qphi infer` left.")
    if (Path(path) / RECORD).is_file():
        return load_posterior(Path(path))
    from qphi.estimators import VAE, SemiSupervisedVAE, TableVAE, store

    kinds: dict[Any, Any] = {"table": TableVAE, store.LABELLED: SemiSupervisedVAE}
    return kinds.get(read_json(Path(path) / "model.json").get("kind"), VAE).load(path)


def _infer(
    target: AbstractTarget, key: PRNGKeyArray, effort: str, max_time: float | None, solver: AbstractExactSolver | None
) -> Posterior:
    make_room()
    began = time.monotonic()
    deadline = math.inf if max_time is None else began + max_time
    found = infer(Oracle(target), key, effort=EFFORTS[effort], deadline=deadline, solver=solver)
    late = time.monotonic() >= deadline
    return Posterior(
        _family_of(found),
        target,
        Status.MAX_TIME if late else Status.CONVERGED,
        found.importance,
        found.verdict,
        Pool(found.z, found.weights, found.values, found.made_by),
        steps=found.solver_steps,
        seconds=time.monotonic() - began,
        evaluations=found.evaluations,
        stages=found.stages,
    )


def _family_of(found: Inference) -> AbstractFamily:
    if found.warp is not None:
        return DrivenGaussian(**{name: jnp.asarray(a) for name, a in vars(found.warp).items()})
    parts = found.parts
    heaviest = parts[int(np.argmax(found.shares))]
    if isinstance(heaviest, Spiked):  # of several, only the heaviest: in many dimensions shares are not known
        excess = jnp.asarray(heaviest.spikes - 1)
        mean, scale, directions = (jnp.asarray(getattr(heaviest, n)) for n in ("mean", "scale", "directions"))
        return SpikedGaussian(mean, jnp.log(scale), directions, excess)
    if len(parts) == 1:  # to put arrays there compiles nothing, which jnp.asarray does
        return FullRankGaussian(*(jax.device_put(getattr(parts[0], name)) for name in ("mean", "tril")))
    means, trils = (jnp.asarray(np.array([getattr(q, name) for q in parts])) for name in ("mean", "tril"))
    return GaussianMixture(jnp.log(found.shares), means, trils)


def _fit_model(
    model: LatentVariableModel,
    args: tuple,
    key: PRNGKeyArray,
    bound: AbstractBound,
    solver: AbstractNoisySolver | None,
    beta: float,
    max_epochs: float | None,
    max_time: float | None,
    watch: Callable[[Progress], None] | None,
) -> Trained:
    if len(args) != 1:
        raise TypeError(f"A latent-variable model is fitted to one array of data, got {len(args)}. Call fit(model, x).")
    x = _rows(args[0])
    split_key, run_key = jax.random.split(key)
    train, held_out = hold_out(len(x), split_key)
    training = plan(model, x[train], x[held_out], run_key, bound=bound, beta=beta, solver=solver)
    _try_shapes(model, x)
    result = training.drive(training.start(), max_epochs=max_epochs, max_time=max_time, watch=watch)
    return Trained(
        training.whole(result.answer),
        result.status,
        result.reason,
        result.history,
        result.seconds,
        int(result.run.step),
    )


def _rows(x: Any) -> np.ndarray:
    x = np.asarray(x)
    if x.ndim < 1 or x.size == 0 or (not np.issubdtype(x.dtype, np.number) and x.dtype != bool):
        raise InputError(f"x has shape {x.shape} and dtype {x.dtype}; numbers with one row per datum are needed.")
    x = x.astype(np.float32)
    if not np.isfinite(x).all():
        raise InputError(f"x has {np.sum(~np.isfinite(x))} values that are NaN or infinity. Remove or fill them.")
    return x


def _try_shapes(model: LatentVariableModel, x: np.ndarray) -> None:
    """Walk one datum through the model without computing anything, and name the part that does not fit."""

    def posterior_sample(model, xs: Array):
        return model.posterior(xs).sample_many(jax.random.key(0), 1)

    datum = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    try:
        z = eqx.filter_eval_shape(posterior_sample, model, datum)
    except Exception as error:
        raise InputError(f"The encoder failed on a datum of shape {x.shape[1:]}: {_line(error)}") from error
    if z.shape[-1] != model.latent_dim:
        raise InputError(f"The encoder gives {z.shape[-1]} latents, the prior has {model.latent_dim}. Make them agree.")
    try:
        outputs = eqx.filter_eval_shape(lambda m, z: m.decode(z[0]), model, z)
    except Exception as error:
        raise InputError(f"The decoder failed on {model.latent_dim} latents: {_line(error)}") from error
    shapes = {leaf.shape[1:] for leaf in jax.tree.leaves(outputs)}
    try:
        mean = eqx.filter_eval_shape(lambda m, o: jax.vmap(m.likelihood.mean)(o), model, outputs)
        eqx.filter_eval_shape(lambda m, o, xs: jax.vmap(m.likelihood.log_prob)(o, xs), model, outputs, datum)
    except Exception as error:
        raise InputError(f"The likelihood failed on decoder outputs of shape {shapes}: {_line(error)}") from error
    if mean.shape[1:] != x.shape[1:]:
        # broadcasting would sum the wrong number of terms, silently
        raise InputError(f"The model's x has shape {mean.shape[1:]}, the data's has {x.shape[1:]}. Make them agree.")


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]


def _refuse(what: str, **given: Any) -> None:
    unused = [name for name, value in given.items() if value is not None and value is not False]
    if unused:
        raise TypeError(f"{', '.join(unused)} has no effect on {what}. Leave it out.")
