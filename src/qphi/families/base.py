"""`q_phi`: tractable distributions that stand in for a posterior. Their inexact leaves are phi."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

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

    @property
    def support_size(self) -> int | None:
        """How many points a discrete distribution has; None for a continuous one. Draws from points carry no gradient:
        `qphi.Enumerated` and `qphi.LeaveOneOut` are the bounds that serve them."""
        return None

    def support(self) -> Float[Array, "points dim"]:
        """The points of a discrete distribution. Raises TypeError where there are none to list."""
        raise TypeError(f"{type(self).__name__} is continuous: it has no points to list. Use qphi.ELBO().")

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

    def transported(
        self, eps: Float[Array, "count dim"], *, frozen: bool = False
    ) -> tuple[Float[Array, "count dim"], Float[Array, " count"]]:
        """The draws of these noises with log q of each, as `sample_and_log_prob_many` gives them."""
        z = jax.vmap(self.transport)(eps)
        return z, (frozen_copy(self) if frozen else self).log_prob_many(z)

    def sample_and_log_prob_many(
        self, key: PRNGKeyArray, count: int, *, frozen: bool = False
    ) -> tuple[Float[Array, "count dim"], Float[Array, " count"]]:
        return self.transported(self.noise(key, count), frozen=frozen)


class Batch(eqx.Module):
    """One family member per datum, q_phi(z_i | x_i): what an encoder answers for a batch.

    `family` is a family every array of which has a leading axis over the data, except those inside its fields named in
    `common` (a flow's weights, say), which all data share. The vectorised methods put the particle axis before the data
    axis, so that a bound written for one posterior serves a batch of them.
    """

    family: AbstractFamily
    common: tuple[str, ...] = eqx.field(static=True, default=())

    @staticmethod
    def of(member: Callable[..., AbstractFamily], *rows: Array, common: tuple[str, ...]) -> Batch:
        """`member` of each row, where what it puts into the fields `common` does not depend on the row."""
        example = member(*(row[0] for row in rows))
        own = eqx.filter_vmap(lambda *row: _split(member(*row), common)[0])(*rows)
        return Batch(eqx.combine(own, _split(example, common)[1]), common)

    def split(self) -> tuple[AbstractFamily, AbstractFamily]:
        """The arrays that each datum has of its own, and the rest; None where the other has something."""
        return _split(self.family, self.common)

    def each(self, function: Callable, *arguments: Array, in_axes: int = 0, out_axes: int = 0):
        """function(member, argument, ...) for each datum; the arguments' data axis is `in_axes`."""
        own, common = _split(self.family, self.common)
        axes = (0, *[in_axes] * len(arguments))
        return eqx.filter_vmap(
            lambda own, *rest: function(eqx.combine(own, common), *rest), in_axes=axes, out_axes=out_axes
        )(own, *arguments)

    def at(self, index: Int[Array, ""] | int) -> AbstractFamily:
        """One datum's q."""
        own, common = _split(self.family, self.common)
        return eqx.combine(jax.tree.map(lambda a: a[index], own), common)

    @property
    def size(self) -> int:
        """How many data there are."""
        return jax.tree.leaves(_split(self.family, self.common)[0])[0].shape[0]

    @property
    def member(self) -> AbstractFamily:
        """One datum's q, its arrays as shapes only: to ask what the family knows, not to compute with."""
        own, common = _split(self.family, self.common)
        shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), own)
        return eqx.combine(shapes, common)

    @property
    def has_entropy(self) -> bool:
        return self.member.has_entropy

    @property
    def support_size(self) -> int | None:
        return self.member.support_size

    def support(self) -> Float[Array, "points dim"]:
        """The points of a discrete family, the same for each datum."""
        return self.member.support()

    def entropy(self) -> Float[Array, " data"]:
        """Entropy of each datum's q."""
        return self.each(lambda q: q.entropy())

    def sample_many(self, key: PRNGKeyArray, count: int) -> Float[Array, "count data dim"]:
        """`count` draws for each datum, independent of its neighbours'."""
        if isinstance(self.family, AbstractTransport):
            eps = self._noise(key, count)
            return self.each(lambda q, e: jax.vmap(q.transport)(e), eps, in_axes=1, out_axes=1)
        return self.each(lambda q, k: q.sample_many(k, count), jax.random.split(key, self.size), out_axes=1)

    def log_prob_many(self, z: Float[Array, "count data dim"]) -> Float[Array, "count data"]:
        """log q(z_i | x_i) of each draw for its own datum."""
        return self.each(lambda q, zs: q.log_prob_many(zs), z, in_axes=1, out_axes=1)

    def sample_and_log_prob_many(
        self, key: PRNGKeyArray, count: int, *, frozen: bool = False
    ) -> tuple[Float[Array, "count data dim"], Float[Array, "count data"]]:
        """As of one family, for each datum."""
        if isinstance(self.family, AbstractTransport):
            eps = self._noise(key, count)
            return self.each(lambda q, e: q.transported(e, frozen=frozen), eps, in_axes=1, out_axes=1)
        z = self.sample_many(key, count)
        return z, (frozen_copy(self) if frozen else self).log_prob_many(z)

    def _noise(self, key: PRNGKeyArray, count: int) -> Float[Array, "count data dim"]:
        size, dim = self.size, self.family.dim
        return jax.random.normal(key, (count * size * dim,)).reshape(count, size, dim)


def _split(family: AbstractFamily, common: tuple[str, ...]) -> tuple[Any, Any]:
    """The arrays that each datum has of its own, and the rest."""
    arrays, rest = eqx.partition(family, eqx.is_array)
    own = jax.tree_util.tree_map_with_path(lambda path, _: getattr(path[0], "name", None) not in common, arrays)
    own, shared = eqx.partition(arrays, own)
    return own, eqx.combine(shared, rest)
