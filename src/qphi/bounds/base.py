"""What a bound is, and what it returns."""

from __future__ import annotations

import abc
from typing import Protocol, runtime_checkable

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

__all__ = ["AbstractBound", "Density", "Estimate", "Variational"]


@runtime_checkable
class Variational(Protocol):
    """What a bound asks of q: one family, or a `Batch` of them (then every result has a trailing data axis)."""

    @property
    def has_entropy(self) -> bool: ...
    def entropy(self) -> Float[Array, "*data"]: ...
    @property
    def support_size(self) -> int | None: ...
    def support(self) -> Float[Array, "points dim"]: ...
    def sample_many(self, key: PRNGKeyArray, count: int) -> Float[Array, "particles *data dim"]: ...
    def log_prob_many(self, z: Float[Array, "particles *data dim"]) -> Float[Array, "particles *data"]: ...
    def sample_and_log_prob_many(
        self, key: PRNGKeyArray, count: int, *, frozen: bool = False
    ) -> tuple[Float[Array, "particles *data dim"], Float[Array, "particles *data"]]: ...


@runtime_checkable
class Density(Protocol):
    """What a bound asks of p: the log joint log p(x, z) of each draw, for each datum."""

    def log_density_many(self, z: Float[Array, "particles *data dim"]) -> Float[Array, "particles *data"]: ...


class Estimate(eqx.Module):
    """A bound's answer, for one posterior (`*data` empty) or for each of a batch of data.

    `surrogate` has the value of what is maximised and, as its gradient, the bound's gradient estimator.
    `elbo` is the evidence lower bound in nats, higher is better, whatever is maximised. `parts` holds the two terms
    it consists of: `log_likelihood` - `kl`, or `log_joint` + `entropy`. `log_weights` are log p(x, z) - log q(z) of
    the draws.
    """

    surrogate: Float[Array, "*data"]
    elbo: Float[Array, "*data"]
    parts: dict[str, Float[Array, "*data"]]
    log_weights: Float[Array, "particles *data"]


class AbstractBound(eqx.Module):
    """A lower bound on log p(x) and the estimator of its gradient: one q against one log density."""

    particles: eqx.AbstractVar[int]

    @abc.abstractmethod
    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        """The bound, from `particles` draws of q made with `key`."""
