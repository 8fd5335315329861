"""Normalising flows: a Gaussian bent by invertible layers, each an affine map whose coefficients a network gives."""

from __future__ import annotations

import abc
import math
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from qphi.errors import InputError
from qphi.families.base import AbstractTransport, frozen_copy
from qphi.families.gaussian import FullRankGaussian

__all__ = ["AbstractFlow", "AutoregressiveFlow", "CouplingFlow"]

_LOG_2PI = math.log(2 * math.pi)
_STEEPEST = 3.0  # |log scale| of one layer stays below this, so that no draw overflows while the network learns

F = TypeVar("F", bound="AbstractFlow")


class AbstractFlow(AbstractTransport):
    """z = mean + C f_L(... f_1(eps)), C lower triangular, eps ~ N(0, I): every f is the identity at the start.

    A layer orders the coordinates and moves each by those of lower order, y_i = x_i exp(s_i(x)) + t_i(x), so that its
    Jacobian is triangular in that order:

        log q(z) = log N(eps; 0, I) - sum_layers sum_i s_i - log |det C|.

    (r, t) come from one masked hidden layer, W_out silu(W_in x + b_in) + b_out, and s = 3 tanh(r / 3). Coordinates of
    order 0 stay where they are. A subclass says what the orders are. Fits what is smooth and of one piece: modes far
    apart stay with a mixture, and tails are those of the Gaussian, stretched. Sources: Dinh, Sohl-Dickstein & Bengio
    (2017); Kingma et al. (2016); Germain et al. (2015) for masks.
    """

    mean: Float[Array, " dim"]
    tril: Float[Array, "dim dim"]
    weights_in: Float[Array, "layers width dim"]
    bias_in: Float[Array, "layers width"]
    weights_out: Float[Array, "layers 2 dim width"]
    bias_out: Float[Array, "layers 2 dim"]

    @classmethod
    def around(
        cls: type[F],
        mean: Float[Array, " dim"],
        tril: Float[Array, "dim dim"],
        *,
        key: PRNGKeyArray,
        layers: int = 6,
        width: int = 32,
    ) -> F:
        """A flow that is N(mean, tril tril') exactly, with hidden units drawn with `key`.

        Raises InputError in one dimension, where affine layers have nothing to condition on.
        """
        dim = mean.shape[-1]
        if dim < 2 or layers < 1 or width < 1:
            raise InputError(
                f"A flow of affine layers needs 2 dimensions and a layer and a hidden unit at least, got dim={dim}, "
                f"layers={layers}, width={width}. In one dimension use qphi.StudentT or qphi.GaussianMixture."
            )
        weights_key, bias_key = jax.random.split(key)
        return cls(
            mean,
            tril,
            jax.random.normal(weights_key, (layers, width, dim), mean.dtype) / math.sqrt(dim),
            jax.random.normal(bias_key, (layers, width), mean.dtype),
            jnp.zeros((layers, 2, dim, width), mean.dtype),
            jnp.zeros((layers, 2, dim), mean.dtype),
        )

    @abc.abstractmethod
    def orders(self) -> Int[np.ndarray, "layers dim"]:
        """Each layer's order of the coordinates, counted from 0 without gaps; equals do not see each other."""

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    @property
    def base(self) -> FullRankGaussian:
        """The Gaussian that is bent."""
        return FullRankGaussian(self.mean, self.tril)

    def transport(self, eps: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self._forward(eps)[0]

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        u = jax.scipy.linalg.solve_triangular(jnp.tril(self.tril), z - self.mean, lower=True)
        orders = self.orders()

        def undo(carry, layer):
            y, total = carry
            order, *network = layer

            def next_order(k, found):
                x, log_scale = found
                s, t = _coefficients(x, *network)
                here = order == k
                return jnp.where(here, (y - t) * jnp.exp(-s), x), jnp.where(here, s, log_scale)

            # what is not known yet is 0, which no later coordinate's coefficients depend on
            start = jnp.where(order == 0, y, 0.0), jnp.zeros_like(y)
            x, log_scale = jax.lax.fori_loop(1, int(orders.max()) + 1, next_order, start)
            return (x, total + jnp.sum(log_scale)), None

        (eps, total), _ = jax.lax.scan(
            undo, (u, jnp.zeros((), u.dtype)), (jnp.asarray(orders), *self._masked()), reverse=True
        )
        return self._log_prob_of(eps, total)

    def transported(
        self, eps: Float[Array, "count dim"], *, frozen: bool = False
    ) -> tuple[Float[Array, "count dim"], Float[Array, " count"]]:
        z, log_q = jax.vmap(self._forward)(eps)
        if not frozen:
            return z, log_q
        # log q with its parameters constant, as a function of z: its gradient there is that in eps through the
        # inverse Jacobian, and eps is known (Vaitl et al. 2024)
        constant = frozen_copy(self)

        def at(eps: Float[Array, " dim"], z: Float[Array, " dim"]) -> Float[Array, ""]:
            jacobian = jax.lax.stop_gradient(jax.jacfwd(constant.transport)(eps))
            moved = jnp.linalg.solve(jacobian, z - jax.lax.stop_gradient(z))
            return constant._forward(eps + moved)[1]

        return z, jax.vmap(at)(eps, z)

    def _forward(self, eps: Float[Array, " dim"]) -> tuple[Float[Array, " dim"], Float[Array, ""]]:
        """z and log q(z) of one noise."""

        def bend(carry, network):
            x, total = carry
            s, t = _coefficients(x, *network)
            return (x * jnp.exp(s) + t, total + jnp.sum(s)), None

        eps = eps.astype(self.mean.dtype)
        (u, total), _ = jax.lax.scan(bend, (eps, jnp.zeros((), eps.dtype)), self._masked())
        return self.mean + jnp.tril(self.tril) @ u, self._log_prob_of(eps, total)

    def _log_prob_of(self, eps: Float[Array, " dim"], log_scales: Float[Array, ""]) -> Float[Array, ""]:
        log_det = jnp.sum(jnp.log(jnp.abs(jnp.diagonal(self.tril))))
        return -0.5 * jnp.sum(eps**2) - 0.5 * self.dim * _LOG_2PI - log_scales - log_det

    def _masked(self) -> tuple[Array, Array, Array, Array]:
        """The networks with zeros where a coordinate must not be seen."""
        orders, width = self.orders(), self.bias_in.shape[-1]
        # a hidden unit of degree k sees the coordinates up to order k and is seen by those above
        degree = np.arange(width) * int(orders.max()) // width
        sees = orders[:, None, :] <= degree[:, None]
        seen = degree < orders[:, :, None]
        return (
            jnp.where(sees, self.weights_in, 0.0),
            self.bias_in,
            jnp.where(seen[:, None], self.weights_out, 0.0),
            jnp.where(orders[:, None] > 0, self.bias_out, 0.0),
        )


class CouplingFlow(AbstractFlow):
    """In each layer one half of the coordinates moves the other; draws and densities cost the same.

    The halves of a pair of layers swap, and from pair to pair they are divided by another binary digit of the
    coordinate's number, so that any two coordinates are in different halves after log2(dim) pairs. Source: RealNVP,
    Dinh, Sohl-Dickstein & Bengio (2017), eq. 4 and 5.
    """

    def orders(self) -> Int[np.ndarray, "layers dim"]:
        layer, number = np.arange(self.bias_in.shape[0])[:, None], np.arange(self.dim)
        digits = (self.dim - 1).bit_length()
        return (number >> (layer // 2 % digits)) + layer & 1


class AutoregressiveFlow(AbstractFlow):
    """In each layer every coordinate is moved by all before it; the next layer goes through them backwards.

    More is possible in one layer than in a coupling (the funnel x = exp(v / 2) u is one layer). A draw and its own
    density are one pass; the density elsewhere takes dim passes one after another. Source: inverse autoregressive
    flow, Kingma et al. (2016).
    """

    def orders(self) -> Int[np.ndarray, "layers dim"]:
        forwards = np.arange(self.dim)
        return np.array([forwards[:: -1 if layer % 2 else 1] for layer in range(self.bias_in.shape[0])])


def _coefficients(
    x: Float[Array, " dim"],
    weights_in: Float[Array, "width dim"],
    bias_in: Float[Array, " width"],
    weights_out: Float[Array, "2 dim width"],
    bias_out: Float[Array, "2 dim"],
) -> tuple[Float[Array, " dim"], Float[Array, " dim"]]:
    """Log scales and shifts."""
    r, t = weights_out @ jax.nn.silu(weights_in @ x + bias_in) + bias_out
    return _STEEPEST * jnp.tanh(r / _STEEPEST), t
