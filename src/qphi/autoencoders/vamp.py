"""The VampPrior: the encoder's own answers to learned inputs, mixed."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from qphi.autoencoders.encoders import AbstractEncoder
from qphi.families import Mixture

__all__ = ["VampPrior"]


class VampPrior(eqx.Module):
    """p(z) = (1/K) sum_k q_phi(z | u_k): a `Mixture` of the encoder's posteriors of K pseudo-inputs u, which are
    trained.

    The best prior for the ELBO is the average posterior of the data; this is that average over K stand-ins. The
    pseudo-inputs should start at data (with a little noise), so a model file may show training rows: do not use it
    where they must stay private. Source: Tomczak & Welling (2018), arXiv 1705.07120, eq. 9.
    """

    pseudo_inputs: Float[Array, "components ..."]
    dim: int = eqx.field(static=True)

    def given(self, encoder: AbstractEncoder) -> Mixture:
        """The prior that this encoder makes of the pseudo-inputs."""
        return Mixture(jnp.zeros(self.pseudo_inputs.shape[0]), encoder.batch(self.pseudo_inputs))
