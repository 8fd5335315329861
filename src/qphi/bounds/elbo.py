"""The evidence lower bound in its forms. All have the same value in expectation; they differ in noise.

L(q) = E_q[log p(x, z) - log q(z)] = E_q[log p(x, z)] + H[q] = E_q[log p(x|z)] - KL(q || p(z)) <= log p(x),
with equality exactly when q is the posterior, and log p(x) - L(q) = KL(q || p(z|x)).
Sources: Jordan et al. (1999); Kingma & Welling (2014), eq. 2, 3 and 7.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from qphi.bounds.base import AbstractBound, Density, Estimate, Variational
from qphi.bounds.factored import FactoredDensity, kl_to_prior, knows_kl

__all__ = [
    "ELBO",
    "ClosedFormEntropy",
    "ClosedFormKL",
    "MonteCarlo",
    "StickingTheLanding",
    "log_prior_many",
    "need_pathwise",
]

MOST_SUMMED = 64  # points of a discrete q that `ELBO` sums over by itself


class MonteCarlo(AbstractBound):
    """(1/K) sum_k [log p(x, z_k) - log q(z_k)], differentiated through everything (the total, or pathwise, gradient).

    Needs nothing in closed form. For a factored density the second part is the Monte Carlo KL.
    Source: Kingma & Welling (2014), eq. 6.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        need_pathwise(q, self)
        return _from_draws(p, *q.sample_and_log_prob_many(key, self.particles))


class StickingTheLanding(AbstractBound):
    """The Monte Carlo bound with the score of q dropped from its gradient: log q is frozen, its draws are not.

    Unbiased, since E_q[grad_phi log q_phi(z)] = 0; has no variance at all where q is the posterior. Noisier than
    `ClosedFormEntropy` far from it. Source: Roeder, Wu & Duvenaud (2017), arXiv 1703.09194.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        need_pathwise(q, self)
        return _from_draws(p, *q.sample_and_log_prob_many(key, self.particles, frozen=True))


class ClosedFormEntropy(AbstractBound):
    """(1/K) sum_k log p(x, z_k) + H[q] with the entropy exact. Quiet far from the posterior.

    Raises TypeError when q has no closed-form entropy. Source: Kucukelbir et al. (2017), eq. 6.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        need_pathwise(q, self)
        z, entropy = q.sample_many(key, self.particles), q.entropy()
        if isinstance(p, FactoredDensity):
            log_likelihood, log_prior = p.log_likelihood_many(z), log_prior_many(p, z)
            log_joint = log_likelihood + log_prior
            parts = {
                "log_likelihood": jnp.mean(log_likelihood, axis=0),
                "kl": -entropy - jnp.mean(log_prior, axis=0),
            }
        else:
            log_joint = p.log_density_many(z)
            parts = {"log_joint": jnp.mean(log_joint, axis=0), "entropy": entropy}
        elbo = jnp.mean(log_joint, axis=0) + entropy
        return Estimate(elbo, elbo, parts, log_joint - q.log_prob_many(z))


class ClosedFormKL(AbstractBound):
    """(1/K) sum_k log p(x|z_k) - KL(q || p(z)) with the KL exact: the VAE's form.

    Raises TypeError when the density does not say what its prior is, or the pair (q, prior) has no closed form.
    Source: Kingma & Welling (2014), eq. 7.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        if not isinstance(p, FactoredDensity):
            raise TypeError(
                f"ClosedFormKL needs a density that is a likelihood times a prior; {type(p).__name__} is not one. "
                "Use qphi.ClosedFormEntropy() or qphi.StickingTheLanding()."
            )
        need_pathwise(q, self)
        z = q.sample_many(key, self.particles)
        log_likelihood, kl = p.log_likelihood_many(z), kl_to_prior(q, p.prior)
        elbo = jnp.mean(log_likelihood, axis=0) - kl
        log_weights = log_likelihood + log_prior_many(p, z) - q.log_prob_many(z)
        return Estimate(elbo, elbo, {"log_likelihood": jnp.mean(log_likelihood, axis=0), "kl": kl}, log_weights)


class ELBO(AbstractBound):
    """The quietest form at hand: the KL in closed form, else the entropy in closed form, else Monte Carlo.

    For a discrete q: the sum over its points up to 64 of them, else leave-one-out with at least 4 draws.
    """

    particles: int = 1

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        return self.form(q, p)(q, p, key)

    def form(self, q: Variational, p: Density) -> AbstractBound:
        """The form that would be used for this pair."""
        if q.support_size is not None:
            from qphi.bounds.discrete import Enumerated, LeaveOneOut

            return Enumerated() if q.support_size <= MOST_SUMMED else LeaveOneOut(max(self.particles, 4))
        if isinstance(p, FactoredDensity):
            known = knows_kl(q, p.prior)
            return ClosedFormKL(self.particles) if known else MonteCarlo(self.particles)
        return ClosedFormEntropy(self.particles) if q.has_entropy else MonteCarlo(self.particles)


def _from_draws(p: Density, z: Float[Array, "particles *data dim"], log_q: Float[Array, "particles *data"]) -> Estimate:
    if isinstance(p, FactoredDensity):
        log_likelihood, kl = p.log_likelihood_many(z), log_q - log_prior_many(p, z)
        parts, log_weights = {"log_likelihood": log_likelihood, "kl": kl}, log_likelihood - kl
    else:
        log_joint = p.log_density_many(z)
        parts, log_weights = {"log_joint": log_joint, "entropy": -log_q}, log_joint - log_q
    elbo = jnp.mean(log_weights, axis=0)
    return Estimate(elbo, elbo, {k: jnp.mean(v, axis=0) for k, v in parts.items()}, log_weights)


def log_prior_many(p: FactoredDensity, z: Float[Array, "particles *data dim"]) -> Float[Array, "particles *data"]:
    """log p(z) of each draw."""
    flat = p.prior.log_prob_many(z.reshape(-1, z.shape[-1]))
    return flat.reshape(z.shape[:-1])


def need_pathwise(q: Variational, bound: AbstractBound) -> None:
    """Raises TypeError for a discrete q: its draws carry no gradient, and what is left would be wrong, silently."""
    if q.support_size is not None:
        raise TypeError(
            f"{type(bound).__name__} differentiates through draws, and a discrete q has none that carry a gradient. "
            "Use qphi.ELBO(), which sums over few points and takes leave-one-out scores over many."
        )
