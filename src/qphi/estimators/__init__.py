"""scikit-learn classes over the engine."""

from qphi.estimators.semi_supervised import SemiSupervisedVAE
from qphi.estimators.vae import VAE

__all__ = ["VAE", "SemiSupervisedVAE"]
