"""An objective assembles bounds over data and says what a solver climbs."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.bounds.base import AbstractBound
from qphi.targets import AbstractTarget

__all__ = ["AbstractObjective", "PosteriorObjective", "Scores"]


class Scores(eqx.Module):
    """An objective's answer.

    `surrogate` is differentiated. `items` are the objective's values, nats, one per datum (or per draw, where there is
    one posterior only); their mean is the objective, their scatter its noise. `parts` are the ELBO and its two terms,
    nats, averaged over items: `elbo` is always the lower bound itself, also when the objective weights it differently.
    """

    surrogate: Float[Array, ""]
    items: Float[Array, " items"]
    parts: dict[str, Float[Array, ""]]


class AbstractObjective(eqx.Module):
    """What is maximised over a trainable tree. Values are per item: step sizes do not depend on their number."""

    part_names: ClassVar[tuple[str, ...]]  # keys of `Scores.parts`, the ELBO first

    @abc.abstractmethod
    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        """The objective on a batch. `step` is given while training (it sets a warm-up), None when scoring."""


class PosteriorObjective(AbstractObjective):
    """The ELBO of one family against one target: door 1. The items are draws; `batch` is how many, or None."""

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_joint", "entropy")
    target: AbstractTarget
    bound: AbstractBound

    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        estimate = self.bound(trainable, self.target, key)
        parts = {"elbo": jnp.mean(estimate.elbo), **{k: jnp.mean(v) for k, v in estimate.parts.items()}}
        return Scores(estimate.surrogate, estimate.log_weights, parts)
