"""qphi: variational inference, from a log density to a deep generative model.

Three doors, one engine: `qphi.fit(model, data, key=key)` for a posterior or a latent-variable model of your own, and
`qphi.VAE().fit(X)` for a generative model of images or vectors. Everything here is imported when it is first used, so
that `import qphi` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qphi import solvers as solvers
    from qphi.autoencoders import LatentVariableModel as LatentVariableModel
    from qphi.autoencoders import VampPrior as VampPrior
    from qphi.bounds import ELBO as ELBO
    from qphi.bounds import IWAE as IWAE
    from qphi.bounds import ClosedFormEntropy as ClosedFormEntropy
    from qphi.bounds import ClosedFormKL as ClosedFormKL
    from qphi.bounds import DReG as DReG
    from qphi.bounds import Enumerated as Enumerated
    from qphi.bounds import LeaveOneOut as LeaveOneOut
    from qphi.bounds import MonteCarlo as MonteCarlo
    from qphi.bounds import StickingTheLanding as StickingTheLanding
    from qphi.calibration import Calibration as Calibration
    from qphi.calibration import calibrate as calibrate
    from qphi.errors import InputError as InputError
    from qphi.estimators import VAE as VAE
    from qphi.estimators import AnomalyDetector as AnomalyDetector
    from qphi.estimators import Imputer as Imputer
    from qphi.estimators import SemiSupervisedVAE as SemiSupervisedVAE
    from qphi.estimators import TableVAE as TableVAE
    from qphi.families import AutoregressiveFlow as AutoregressiveFlow
    from qphi.families import Categorical as Categorical
    from qphi.families import CouplingFlow as CouplingFlow
    from qphi.families import DiagonalGaussian as DiagonalGaussian
    from qphi.families import DrivenGaussian as DrivenGaussian
    from qphi.families import FullRankGaussian as FullRankGaussian
    from qphi.families import GaussianMixture as GaussianMixture
    from qphi.families import Ladder as Ladder
    from qphi.families import LowRankGaussian as LowRankGaussian
    from qphi.families import Mixture as Mixture
    from qphi.families import SkewLift as SkewLift
    from qphi.families import StandardNormal as StandardNormal
    from qphi.families import StudentT as StudentT
    from qphi.families import TopDown as TopDown
    from qphi.inference import Trained as Trained
    from qphi.inference import fit as fit
    from qphi.inference import load as load
    from qphi.posterior import Posterior as Posterior
    from qphi.status import Status as Status
    from qphi.targets import LogDensity as LogDensity
    from qphi.verdict import Trust as Trust
    from qphi.verdict import UnreliableError as UnreliableError
    from qphi.verdict import Verdict as Verdict

__version__ = "0.1.0"

_HOMES = {
    "AnomalyDetector": "qphi.estimators",
    "AutoregressiveFlow": "qphi.families",
    "CouplingFlow": "qphi.families",
    "ELBO": "qphi.bounds",
    "Calibration": "qphi.calibration",
    "ClosedFormEntropy": "qphi.bounds",
    "ClosedFormKL": "qphi.bounds",
    "DiagonalGaussian": "qphi.families",
    "DrivenGaussian": "qphi.families",
    "FullRankGaussian": "qphi.families",
    "GaussianMixture": "qphi.families",
    "Imputer": "qphi.estimators",
    "InputError": "qphi.errors",
    "LatentVariableModel": "qphi.autoencoders",
    "LogDensity": "qphi.targets",
    "LowRankGaussian": "qphi.families",
    "IWAE": "qphi.bounds",
    "DReG": "qphi.bounds",
    "Enumerated": "qphi.bounds",
    "LeaveOneOut": "qphi.bounds",
    "MonteCarlo": "qphi.bounds",
    "Posterior": "qphi.posterior",
    "SkewLift": "qphi.families",
    "Categorical": "qphi.families",
    "Ladder": "qphi.families",
    "Mixture": "qphi.families",
    "TopDown": "qphi.families",
    "SemiSupervisedVAE": "qphi.estimators",
    "StandardNormal": "qphi.families",
    "Status": "qphi.status",
    "StickingTheLanding": "qphi.bounds",
    "StudentT": "qphi.families",
    "TableVAE": "qphi.estimators",
    "Trained": "qphi.inference",
    "Trust": "qphi.verdict",
    "UnreliableError": "qphi.verdict",
    "VAE": "qphi.estimators",
    "VampPrior": "qphi.autoencoders",
    "Verdict": "qphi.verdict",
    "calibrate": "qphi.calibration",
    "fit": "qphi.inference",
    "load": "qphi.inference",
}

__all__ = sorted(_HOMES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "solvers":  # so that `import qphi` is enough for qphi.solvers.Laplace()
        return importlib.import_module("qphi.solvers")
    if name not in _HOMES:
        raise AttributeError(f"module 'qphi' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), "solvers", *__all__]
