"""Importance-weighted bounds: several draws together bound log p(x) more tightly than their average does.

L_K = E[log (1/K) sum_k w_k] <= log p(x), w_k = p(x, z_k) / q(z_k), z_k ~ q. L_1 is the ELBO; L_K rises with K and tends
to log p(x), the faster the smaller Var(log w): where that is of order d, K has to be exponential in d.
VR-IWAE: L_K^(alpha) = 1 / (1 - alpha) E[log (1/K) sum_k w_k^(1 - alpha)], from L_K (alpha = 0) to the ELBO (alpha to
1). Both are bounds on log p(x). Sources: Burda, Grosse & Salakhutdinov (2016), eq. 8; Daudel, Benton, Shi & Doucet
(2023), arXiv 2210.06226, eq. 6.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from qphi.bounds.base import AbstractBound, Density, Estimate, Variational
from qphi.bounds.elbo import log_prior_many, need_pathwise
from qphi.bounds.factored import FactoredDensity
from qphi.errors import InputError

__all__ = ["IWAE", "DReG", "importance_weighted"]


class _ImportanceWeighted(AbstractBound):
    particles: int = 8
    alpha: float = 0.0

    def __check_init__(self):
        if self.particles < 1 or not 0 <= self.alpha < 1:
            raise InputError(
                f"particles={self.particles} and alpha={self.alpha}; at least one particle and 0 <= alpha < 1 are "
                "needed. alpha = 0 is the importance-weighted bound; for alpha = 1, the ELBO, use qphi.ELBO()."
            )


class IWAE(_ImportanceWeighted):
    """L_K (or L_K^(alpha)), differentiated through everything.

    The gradient to the encoder drowns as K grows: its signal-to-noise ratio falls as 1 / sqrt(K) (Rainforth et al.
    2018), which `DReG` cures. That to the decoder is sum_k v_k grad log p(x, z_k), v the normalised w^(1 - alpha).
    `elbo` of the answer is the ELBO of the same draws, `surrogate` has the value of L_K. Raises InputError unless
    0 <= alpha < 1, TypeError for a discrete q.
    """

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        need_pathwise(q, self)
        z, log_q = q.sample_and_log_prob_many(key, self.particles)
        terms = _terms(p, z)
        log_weights = sum(terms.values()) - log_q
        value = importance_weighted(log_weights, self.alpha)
        return Estimate(value, jnp.mean(log_weights, axis=0), _parts(terms, log_q), log_weights)


class DReG(_ImportanceWeighted):
    """L_K (or L_K^(alpha)) with the doubly reparameterised gradient, whose signal-to-noise ratio does not fall with K.

    v_k = w_k^(1 - alpha) / sum w^(1 - alpha). To the parameters of p, a learned prior among them: sum_k v_k grad log
    p(x, z_k), as for `IWAE`. To those of q, through the draws only: sum_k c_k (d log w_k / d z_k) (d z_k / d phi), with
    c_k = alpha v_k + (1 - alpha) v_k^2. Unbiased for the same bound. One draw sticks the landing.

    `backward`: how many of the draws are carried back, chosen by v for each datum; fewer cost less and add their own
    noise, and the gradient stays unbiased (Burda, Grosse & Salakhutdinov 2016, section 3, for one). None carries all.

    Costs one more pass back through p, none forwards. Raises InputError unless 0 <= alpha < 1 and 1 <= backward <=
    particles, TypeError for a discrete q. Sources: Tucker, Lawson, Gu & Maddison (2019), arXiv 1810.04152, eq. 8; arXiv
    2210.06226, theorem 2, for alpha.
    """

    backward: int | None = None

    def __check_init__(self):
        if self.backward is not None and not 1 <= self.backward <= self.particles:
            raise InputError(
                f"backward={self.backward} of particles={self.particles}: at least one draw has to be carried back, "
                "and no more than there are. None carries all."
            )

    def __call__(self, q: Variational, p: Density, key: PRNGKeyArray) -> Estimate:
        need_pathwise(q, self)
        z, log_q = q.sample_and_log_prob_many(key, self.particles, frozen=True)
        back = _with_slope(p, z) if self.backward is None else None
        terms = jax.lax.stop_gradient(_terms(p, z)) if back is None else back[0]
        log_weights = sum(terms.values()) - log_q
        value = jax.lax.stop_gradient(importance_weighted(log_weights, self.alpha))
        v = jax.nn.softmax(jax.lax.stop_gradient((1 - self.alpha) * log_weights), axis=0)
        draws, log_q_of_draws, share = z, log_q, v
        if self.backward is not None:
            rows = _systematic(jax.random.fold_in(key, 1), v, self.backward)
            log_q_of_draws, v = (jnp.take_along_axis(values, rows, axis=0) for values in (log_q, v))
            draws, share = jnp.take_along_axis(z, rows[..., None], axis=0), 1 / self.backward
        _, log_p, slope = _with_slope(p, draws) if back is None else back
        through_draws = jnp.sum(slope * (draws - jax.lax.stop_gradient(draws)), axis=-1) - log_q_of_draws
        c = share * (self.alpha + (1 - self.alpha) * v)
        gradients = jnp.sum(share * log_p + c * through_draws, axis=0)
        surrogate = value + gradients - jax.lax.stop_gradient(gradients)
        parts = _parts(terms, log_q)
        if isinstance(p, FactoredDensity):  # a weight on the KL wants its gradient through the draws too
            parts["kl"] = jnp.mean(log_q - log_prior_many(p, z), axis=0)
        return Estimate(surrogate, jnp.mean(log_weights, axis=0), parts, log_weights)


def importance_weighted(log_weights: Float[Array, "particles *data"], alpha: float = 0.0) -> Float[Array, "*data"]:
    """1 / (1 - alpha) log (1/K) sum_k w_k^(1 - alpha), nats, for 0 <= alpha < 1."""
    total = jax.nn.logsumexp((1 - alpha) * log_weights, axis=0)
    return (total - math.log(log_weights.shape[0])) / (1 - alpha)


def _with_slope(p: Density, z: Float[Array, "particles *data dim"]):
    """The terms of log p at fixed draws and their sum, which carries the gradient to p, and its slope in z, as
    numbers, which carries that to q."""
    terms, pull_back = jax.vjp(lambda z: _terms(p, z), jax.lax.stop_gradient(z))
    slope = jax.lax.stop_gradient(pull_back(jax.tree.map(jnp.ones_like, terms))[0])
    return terms, sum(terms.values()), slope


def _systematic(key: PRNGKeyArray, v: Float[Array, "particles *data"], count: int) -> Int[Array, "count *data"]:
    """For each datum the numbers of `count` particles, chosen by v with one uniform number."""
    ends = jnp.cumsum(v, axis=0)
    at = (jax.random.uniform(key, v.shape[1:]) + jnp.arange(count).reshape(-1, *[1] * (v.ndim - 1))) / count
    return jnp.sum(at[:, None] >= ends[None, :-1], axis=1)


def _terms(p: Density, z: Float[Array, "particles *data dim"]) -> dict[str, Float[Array, "particles *data"]]:
    """What log p(x, z) consists of."""
    if isinstance(p, FactoredDensity):
        return {"log_likelihood": p.log_likelihood_many(z), "log_prior": log_prior_many(p, z)}
    return {"log_joint": p.log_density_many(z)}


def _parts(
    terms: dict[str, Float[Array, "particles *data"]], log_q: Float[Array, "particles *data"]
) -> dict[str, Float[Array, "*data"]]:
    """The two parts of the ELBO of these draws."""
    if "log_joint" in terms:
        parts = {"log_joint": terms["log_joint"], "entropy": -log_q}
    else:
        parts = {"log_likelihood": terms["log_likelihood"], "kl": log_q - terms["log_prior"]}
    return {name: jnp.mean(values, axis=0) for name, values in parts.items()}
