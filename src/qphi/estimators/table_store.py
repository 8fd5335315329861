"""The files of a table's model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from qphi.data.codec import TableCodec
from qphi.errors import InputError
from qphi.serialise import load_arrays, read_json, save_arrays, write_json
from qphi.status import Status
from qphi.tables.anomalies import Typical
from qphi.tables.build import TableArchitecture, skeleton
from qphi.tables.widths import Widths

if TYPE_CHECKING:
    from qphi.estimators.table_vae import TableVAE

__all__ = ["KIND", "read_table_model", "write_table_model"]

KIND = "table"
_PARAMETERS = ("latent_dim", "kinds", "hidden", "particles", "missing", "max_epochs", "max_time")


def write_table_model(folder: Path, model: TableVAE) -> None:
    """model.safetensors first, then model.json, which makes it a model; each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    checksum = save_arrays(folder / "model.safetensors", eqx.filter(model.model_, eqx.is_array))
    parameters = {name: getattr(model, name) for name in _PARAMETERS}
    parameters["hidden"] = [int(width) for width in parameters["hidden"]]
    write_json(
        folder / "model.json",
        {
            "kind": KIND,
            "parameters": parameters,
            "architecture": model.architecture_.to_json(),
            "codec": model.codec_.to_json(),
            "typical": model.typical_.to_json(),
            "widths": model.widths_.to_json(),
            "names": [str(name) for name in getattr(model, "feature_names_in_", [])],
            "seed": model.seed_,
            "status": model.status_.name,
            "status_text": model.status_text_,
            "seconds": model.seconds_,
            "n_iter": model.n_iter_,
            "history": model.history_,
            "sha256": checksum,
        },
    )


def read_table_model(folder: Path, cls: type[TableVAE]) -> TableVAE:
    """The inverse of `write_table_model`, without running anything from the file."""
    values = read_json(folder / "model.json")
    try:
        if values["kind"] != KIND:
            raise InputError(f"{folder} holds a model of another kind: {values['kind']}. Read it with qphi.load.")
        parameters: dict[str, Any] = {**values["parameters"], "hidden": tuple(values["parameters"]["hidden"])}
        model = cls(random_state=values["seed"], **parameters)
        model.architecture_ = TableArchitecture.from_json(values["architecture"])
        model.codec_ = TableCodec.from_json(values["codec"])
        model._typical, model._reference = Typical.from_json(values["typical"]), None
        model._widths, model._unseen = Widths.from_json(values["widths"]) if "widths" in values else Widths(), None
        model.schema_ = model.codec_.schema
        model.seed_, model.status_ = values["seed"], Status[values["status"]]
        model.status_text_, model.seconds_ = values["status_text"], values["seconds"]
        model.n_iter_, model.history_ = values["n_iter"], values["history"]
        model.n_features_in_ = len(model.schema_.columns)
        if values["names"]:
            model.feature_names_in_ = np.array(values["names"], object)
        model._n_features_out = model.architecture_.latent_dim
        like = eqx.filter_eval_shape(skeleton, model.architecture_, jax.random.key(0))
        checksum = values["sha256"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / 'model.json'} is damaged: {error!r}. Restore it, or fit again.") from None
    model.model_ = load_arrays(folder / "model.safetensors", like, checksum)
    return model
