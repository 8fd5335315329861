"""What a table's model climbs: an importance-weighted bound on the observed cells, with more gaps made on the way."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from qphi.bounds.base import AbstractBound
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.tables.mask import UNKNOWN
from qphi.tables.rows import is_seen

__all__ = ["TableObjective"]

_HIDING = 7  # folded into a step's key: which cells it hides


class TableObjective(AbstractObjective):
    """mean_i w_i bound(x_i restricted to its observed cells), nats per row.

    A row is (columns + 1, 3): the last one holds its weight. While training, a share `hide` of the rows has a random
    share of its cells hidden from encoder and likelihood alike: every such term is a bound too, on the hidden row's own
    log p, and the encoder learns every pattern of gaps, also where the training data have none.
    """

    part_names: ClassVar[tuple[str, ...]] = ("elbo", "log_likelihood", "kl")
    bound: AbstractBound
    hide: Float[Array, ""]

    def score(self, trainable: PyTree, batch: Any, key: PRNGKeyArray, step: Int[Array, ""] | None = None) -> Scores:
        xs, weight = batch[:, :-1], batch[:, -1, 0]
        if step is not None:
            # one call for all: each takes a while to compile
            u = jax.random.uniform(jax.random.fold_in(key, _HIDING), (len(xs), xs.shape[1] + 2))
            hidden = (u[:, :1] < self.hide) & (u[:, 2:] < u[:, 1:2])
            unknown = jnp.array([jnp.nan, UNKNOWN, jnp.nan])  # hidden by us: says nothing of why data are missing
            xs = jnp.where((hidden & is_seen(xs))[..., None], unknown, xs)
        estimate = self.bound(trainable.posterior(xs), trainable.observe(xs), key)
        items = weight * estimate.surrogate
        parts = {"elbo": jnp.mean(weight * estimate.elbo)}
        parts |= {name: jnp.mean(weight * value) for name, value in estimate.parts.items()}
        return Scores(jnp.mean(items), items, parts)
