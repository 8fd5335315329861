"""scikit-learn classes over the engine."""

from qphi.estimators.vae import VAE

__all__ = ["VAE"]
