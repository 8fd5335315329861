"""Discrete latents: independent categorical variables, each a one-hot block of z."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.errors import InputError
from qphi.families.base import AbstractFamily

__all__ = ["Categorical"]

_MOST_POINTS = 4096  # that `support` lists


class Categorical(AbstractFamily):
    """q(z) = prod_v softmax(logits_v)[k_v]; z is the blocks one_hot(k_v) end to end, of length variables * values.

    A distribution over points: draws carry no gradient. `qphi.Enumerated` sums over all points where they are few,
    `qphi.LeaveOneOut` takes the score gradient.
    """

    logits: Float[Array, "variables values"]

    @property
    def dim(self) -> int:
        return self.logits.shape[-2] * self.logits.shape[-1]

    @property
    def log_probabilities(self) -> Float[Array, "variables values"]:
        """log q of each value of each variable."""
        return jax.nn.log_softmax(self.logits)

    @property
    def support_size(self) -> int:
        return self.logits.shape[-1] ** self.logits.shape[-2]

    def support(self) -> Float[Array, "points dim"]:
        """Every z, the last variable moving fastest. Raises InputError above 4,096 points."""
        variables, values = self.logits.shape[-2:]
        if self.support_size > _MOST_POINTS:
            raise InputError(
                f"{variables} variables of {values} values have {self.support_size} points; at most {_MOST_POINTS} can "
                "be summed over. Use fewer variables or values, or qphi.LeaveOneOut()."
            )
        chosen = np.array(list(itertools.product(range(values), repeat=variables)))
        return jnp.asarray(np.eye(values)[chosen].reshape(len(chosen), -1), self.logits.dtype)

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        values = self.logits.shape[-1]
        chosen = jax.random.categorical(key, self.logits)
        return jax.nn.one_hot(chosen, values, dtype=self.logits.dtype).reshape(-1)

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return jnp.sum(z * self.log_probabilities.reshape(-1))

    @property
    def has_entropy(self) -> bool:
        return True

    def entropy(self) -> Float[Array, ""]:
        log_q = self.log_probabilities
        return -jnp.sum(jnp.exp(log_q) * log_q)
