"""What a solver is: how phi (and theta) move. `init`, `step`, `answer`; one loop drives them all."""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from qphi.bounds.objective import AbstractObjective

__all__ = ["AbstractNoisySolver", "AbstractSolver", "Layout", "Problem", "StepInfo", "blame_order"]


class Layout(eqx.Module):
    """How the trained arrays of a tree lie in one vector.

    Solvers move one vector: its update is a handful of fused operations, where a tree's is a handful per array, which
    costs seconds to compile.
    """

    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[Any, ...] = eqx.field(static=True)
    paths: tuple[str, ...] = eqx.field(static=True)

    @staticmethod
    def of(tree: PyTree) -> Layout:
        """The layout of a tree of inexact arrays (and None)."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        paths = tuple(jax.tree_util.keystr(path).lstrip(".") for path, _ in leaves)
        arrays = [leaf for _, leaf in leaves]
        return Layout(structure, tuple(a.shape for a in arrays), tuple(a.dtype for a in arrays), paths)

    def pack(self, tree: PyTree) -> Float[Array, " parameters"]:
        """The tree's numbers, one after another."""
        return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])

    def unpack(self, vector: Float[Array, " parameters"]) -> PyTree:
        """The inverse of `pack`."""
        ends = list(itertools.accumulate(map(math.prod, self.shapes)))
        starts = [0, *ends[:-1]]
        leaves = [
            vector[a:b].reshape(shape).astype(dtype)
            for a, b, shape, dtype in zip(starts, ends, self.shapes, self.dtypes, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.structure, leaves)

    def path_at(self, index: int) -> str:
        """The path of the array that the number at `index` belongs to."""
        ends = itertools.accumulate(map(math.prod, self.shapes))
        return next(path for path, end in zip(self.paths, ends, strict=True) if index < end)


class Problem(eqx.Module):
    """Everything a fit reads and never changes. An argument of the compiled code, so new data recompile nothing.

    `fixed` is the untrained rest of the model: functions, sizes, integer arrays. `train` and `held_out` hold data with
    a leading axis, or None where the objective has its data inside. `scoring` is the objective as it is computed at
    checks (with more draws, say); with data it is scored in blocks, so that memory stays bounded.
    """

    objective: AbstractObjective
    scoring: AbstractObjective
    layout: Layout
    fixed: PyTree
    train: Any
    held_out: Any
    block: int = eqx.field(static=True, default=256)  # held-out rows scored at once

    @staticmethod
    def of(
        model: PyTree,
        objective: AbstractObjective,
        scoring: AbstractObjective,
        train: Any,
        held_out: Any,
        block: int = 256,
    ) -> tuple[Problem, Float[Array, " parameters"]]:
        """A problem and its starting vector: every inexact array of the model is trained."""
        trained, fixed = eqx.partition(model, eqx.is_inexact_array)
        trained = jax.tree.map(jnp.asarray, trained)  # NumPy's float64 in a model becomes JAX's default
        layout = Layout.of(trained)
        return Problem(objective, scoring, layout, fixed, train, held_out, block), layout.pack(trained)

    def whole(self, trained: Float[Array, " parameters"]) -> PyTree:
        """The complete model or family with these numbers in it."""
        return eqx.combine(self.layout.unpack(trained), self.fixed)


class StepInfo(eqx.Module):
    """What one step reports. `fault` is 0; 1 + n when the n-th part (see `blame_order`) was not finite;
    1 + parts + i when the gradient's i-th number was not."""

    parts: dict[str, Float[Array, ""]]
    fault: Int[Array, ""]


class AbstractSolver(eqx.Module):
    """A rule that moves a trainable tree towards a higher objective. It owns its update and its state."""

    @abc.abstractmethod
    def init(self, problem: Problem, trained: Float[Array, " parameters"], key: PRNGKeyArray) -> PyTree:
        """The state before the first step: arrays only."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: PyTree, step: Int[Array, ""], key: PRNGKeyArray) -> tuple[PyTree, StepInfo]:
        """The next state. With a fault the state comes back unchanged. `key` is the run's; fold `step` into it."""

    @abc.abstractmethod
    def answer(self, state: PyTree) -> Float[Array, " parameters"]:
        """The trained numbers as they should be used now (an average of iterates, say)."""


class AbstractNoisySolver(AbstractSolver):
    """A solver of a noisy objective: it cannot know that it is done, so the loop's plateau rule tells it."""

    @abc.abstractmethod
    def refine(self, state: PyTree, answer: Float[Array, " parameters"]) -> tuple[PyTree, Bool[Array, ""]]:
        """At a plateau: a state that looks closer (smaller steps, from the best answer), and if that is used up."""

    @abc.abstractmethod
    def pace(self, state: PyTree) -> Float[Array, ""]:
        """A number that says how large steps are now, for the record (a learning rate)."""


def blame_order(names: Iterable[str]) -> list[str]:
    """The order in which parts are blamed for a fault: the ELBO last, since it is the sum of the others."""
    return sorted(names, key=lambda name: (name == "elbo", name))
