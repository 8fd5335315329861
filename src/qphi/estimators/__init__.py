"""scikit-learn classes over the engine."""

from qphi.estimators.semi_supervised import SemiSupervisedVAE
from qphi.estimators.table_roles import AnomalyDetector, Imputer
from qphi.estimators.table_vae import TableVAE
from qphi.estimators.vae import VAE

__all__ = ["VAE", "AnomalyDetector", "Imputer", "SemiSupervisedVAE", "TableVAE"]
