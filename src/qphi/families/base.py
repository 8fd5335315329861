"""`q_phi`: tractable distributions that stand in for a posterior. Their inexact leaves are phi."""

from __future__ import annotations

import abc
from typing import TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["AbstractFamily", "AbstractTransport", "Batch", "frozen_copy"]

Q = TypeVar("Q")


def frozen_copy(q: Q) -> Q:
    """q with parameters that no gradient reaches."""
    arrays, rest = eqx.partition(q, eqx.is_inexact_array)
    return eqx.combine(jax.lax.stop_gradient(arrays), rest)


class AbstractFamily(eqx.Module):
    """A distribution over R^dim, written for one point; this class vectorises it.

    Subclasses give `dim`, `sample` (reparameterised: z = g_phi(eps), differentiable in phi) and `log_prob`; where the
    entropy is known in closed form they override `entropy` and set `has_entropy`.
    """

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """Length of z."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """One draw z = g_phi(eps), eps drawn with `key`; its derivative with respect to phi is the pathwise one."""

    @abc.abstractmethod
    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        """log q_phi(z), nats."""

    @property
    def has_entropy(self) -> bool:
        """Whether `entropy` is known in closed form."""
        return False

    def entropy(self) -> Float[Array, ""]:
        """H[q_phi] = -E_q[log q_phi(z)], nats, in closed form. Raises TypeError where there is none."""
        raise TypeError(
            f"{type(self).__name__} has no closed-form entropy. Use qphi.MonteCarlo() or qphi.StickingTheLanding()."
        )

    def sample_many(self, key: PRNGKeyArray, count: int) -> Float[Array, "count dim"]:
        """`count` independent draws."""
        return jax.vmap(self.sample)(jax.random.split(key, count))

    def log_prob_many(self, z: Float[Array, "count dim"]) -> Float[Array, " count"]:
        """`log_prob` of each row."""
        return jax.vmap(self.log_prob)(z)

    def sample_and_log_prob_many(
        self, key: PRNGKeyArray, count: int, *, frozen: bool = False
    ) -> tuple[Float[Array, "count dim"], Float[Array, " count"]]:
        """The draws of `sample_many` with log q of each; `frozen`: the parameters of log q (not of z) are constants.

        For families whose own draws are cheaper to weigh than other points are.
        """
        z = self.sample_many(key, count)
        return z, (frozen_copy(self) if frozen else self).log_prob_many(z)


class AbstractTransport(AbstractFamily):
    """A family whose draws are a map of standard normal noise of the same length, z = g_phi(eps).

    The noise of many draws is then one flat block of random numbers, which compiles several times faster than a key
    per draw.
    """

    @abc.abstractmethod
    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """g_phi(eps)."""

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        return self.transport(jax.random.normal(key, (self.dim,)))

    def noise(self, key: PRNGKeyArray, count: int) -> Float[Array, "count dim"]:
        """The noise of `sample_many`."""
        return jax.random.normal(key, (count * self.dim,)).reshape(count, self.dim)

    def sample_many(self, key: PRNGKeyArray, count: int) -> Float[Array, "count dim"]:
        return jax.vmap(self.transport)(self.noise(key, count))


class Batch(eqx.Module):
    """One family member per datum, q_phi(z_i | x_i): what an encoder answers for a batch.

    `family` is a family every array of which has a leading axis over the data. The vectorised methods put the particle
    axis before the data axis, so that a bound written for one posterior serves a batch of them.
    """

    family: AbstractFamily

    @property
    def member(self) -> AbstractFamily:
        """One datum's q, its arrays as shapes only: to ask what the family knows, not to compute with."""
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype) if eqx.is_array(a) else a, self.family)

    @property
    def has_entropy(self) -> bool:
        return self.member.has_entropy

    def entropy(self) -> Float[Array, " data"]:
        """Entropy of each datum's q."""
        return eqx.filter_vmap(lambda q: q.entropy())(self.family)

    def sample_many(self, key: PRNGKeyArray, count: int) -> Float[Array, "count data dim"]:
        """`count` draws for each datum, independent of its neighbours'."""
        size = jax.tree.leaves(eqx.filter(self.family, eqx.is_array))[0].shape[0]
        if isinstance(self.family, AbstractTransport):
            dim = self.family.dim
            eps = jax.random.normal(key, (count * size * dim,)).reshape(count, size, dim)
            over_data = eqx.filter_vmap(lambda q, e: jax.vmap(q.transport)(e), in_axes=(0, 1), out_axes=1)
            return over_data(self.family, eps)
        keys = jax.random.split(key, size)
        return eqx.filter_vmap(lambda q, k: q.sample_many(k, count), out_axes=1)(self.family, keys)

    def log_prob_many(self, z: Float[Array, "count data dim"]) -> Float[Array, "count data"]:
        """log q(z_i | x_i) of each draw for its own datum."""
        return eqx.filter_vmap(lambda q, zs: q.log_prob_many(zs), in_axes=(0, 1), out_axes=1)(self.family, z)

    def sample_and_log_prob_many(
        self, key: PRNGKeyArray, count: int, *, frozen: bool = False
    ) -> tuple[Float[Array, "count data dim"], Float[Array, "count data"]]:
        """As of one family, for each datum."""
        z = self.sample_many(key, count)
        return z, (frozen_copy(self) if frozen else self).log_prob_many(z)
