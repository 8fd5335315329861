"""The ELBO of discrete latents: summed over every point, or with the score gradient."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.bounds.base import AbstractBound, Density, Estimate, Variational
from qphi.bounds.elbo import log_prior_many
from qphi.bounds.factored import FactoredDensity, kl_to_prior, knows_kl
from qphi.errors import InputError
from qphi.families import Batch

__all__ = ["Enumerated", "LeaveOneOut"]


class Enumerated(AbstractBound):
    """sum_z q(z) [log p(x, z) - log q(z)] over every point z: exact, and so is its gradient.

    Costs one density a point: for small supports. `particles` is not used; `log_weights` are those of all points, which
    are no draws. Raises TypeError when q is continuous, InputError when there are too many points to list.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        points = q.support()
        # as draws of every datum: (points, dim) -> (points, *data, dim)
        data = (q.size,) if isinstance(q, Batch) else ()
        z = jnp.broadcast_to(points.reshape(len(points), *(1 for _ in data), -1), (len(points), *data, points.shape[1]))
        log_q = q.log_prob_many(z)
        probability = jnp.exp(log_q)

        def mean(values: Float[Array, "points *data"]) -> Float[Array, "*data"]:
            return jnp.sum(probability * values, axis=0)

        if isinstance(p, FactoredDensity):
            log_likelihood, kl = p.log_likelihood_many(z), log_q - log_prior_many(p, z)
            parts, log_weights = {"log_likelihood": mean(log_likelihood), "kl": mean(kl)}, log_likelihood - kl
        else:
            log_joint = p.log_density_many(z)
            parts, log_weights = {"log_joint": mean(log_joint), "entropy": -mean(log_q)}, log_joint - log_q
        elbo = mean(log_weights)
        return Estimate(elbo, elbo, parts, log_weights)


class LeaveOneOut(AbstractBound):
    """The Monte Carlo ELBO with the score gradient of q, each draw's value measured against the mean of the others.

    With f_k = log p(x, z_k) - log q(z_k): 1 / (K - 1) sum_k (f_k - mean f) grad log q(z_k) for q, (1/K) sum_k grad log
    p(x, z_k) for p. Needs no derivative of a draw, so it serves discrete latents, and any q; far noisier than a
    pathwise gradient where there is one. The KL is exact where it is known. Raises InputError for fewer than 2
    particles.
    Sources: Kool, van Hoof & Welling (2019); Richter et al. (2020), arXiv 2010.10436.
    """

    particles: int = 4

    def __check_init__(self):
        if self.particles < 2:
            raise InputError(
                f"particles={self.particles}: leave-one-out compares draws with each other, so at least 2 are needed; "
                "4 or more are advised."
            )

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        z = jax.lax.stop_gradient(q.sample_many(key, self.particles))
        log_q = q.log_prob_many(z)
        fixed_q = jax.lax.stop_gradient(log_q)  # E_q[grad log q] = 0: only the score part is left

        def mean(values: Float[Array, "particles *data"]) -> Float[Array, "*data"]:
            others = jax.lax.stop_gradient(values - jnp.mean(values, axis=0))
            score = jnp.sum(others * log_q, axis=0) / (self.particles - 1)
            return jnp.mean(values, axis=0) + score - jax.lax.stop_gradient(score)

        if isinstance(p, FactoredDensity):
            log_likelihood, kl = p.log_likelihood_many(z), fixed_q - log_prior_many(p, z)
            log_weights = log_likelihood - kl
            exact = knows_kl(q, p.prior)
            parts = {"log_likelihood": mean(log_likelihood), "kl": kl_to_prior(q, p.prior) if exact else mean(kl)}
            elbo = parts["log_likelihood"] - parts["kl"]
        else:
            log_joint = p.log_density_many(z)
            log_weights = log_joint - fixed_q
            parts = {"log_joint": mean(log_joint), "entropy": q.entropy() if q.has_entropy else -mean(fixed_q)}
            elbo = parts["log_joint"] + parts["entropy"]
        return Estimate(elbo, elbo, parts, log_weights)
