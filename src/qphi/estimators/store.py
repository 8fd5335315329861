"""The files of a run folder: model, checkpoint, metrics."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np

from qphi.autoencoders.build import Architecture, build
from qphi.data.given import Given
from qphi.data.scaling import Scaling
from qphi.errors import InputError
from qphi.estimators.options import OPTIONS, plain
from qphi.files import atomic_write
from qphi.loop import Run
from qphi.serialise import load_arrays, read_json, save_arrays, write_json
from qphi.status import Status

if TYPE_CHECKING:
    from qphi.estimators.vae import VAE

__all__ = [
    "LABELLED",
    "Checkpoint",
    "damaged",
    "fingerprint",
    "per_datum",
    "read_checkpoint",
    "read_model",
    "read_values",
    "write_checkpoint",
    "write_metrics",
    "write_model",
]

PLAIN, LABELLED = "vae", "semi-supervised vae"  # kinds of models
_PARAMETERS = ("latent_dim", "likelihood", "beta", "network", "hidden", "max_epochs", "max_time", "device", *OPTIONS)


def write_model(folder: Path, vae: VAE) -> None:
    """model.safetensors first, then model.json, which makes it a model; each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    checksum = save_arrays(folder / "model.safetensors", eqx.filter(vae.model_, eqx.is_array))
    parameters = {name: plain(getattr(vae, name)) for name in _PARAMETERS}
    parameters["hidden"] = [int(width) for width in parameters["hidden"]]
    parameters["likelihood"] = vae.likelihood if isinstance(vae.likelihood, str) else None
    write_json(
        folder / "model.json",
        {
            "kind": PLAIN,
            "parameters": parameters,
            "architecture": vae.architecture_.to_json(),
            "scaling": vae.scaling_.to_json(),
            "given": vae.given_.to_json(),
            "seed": vae.seed_,
            "data": vae.fingerprint_,
            "status": vae.status_.name,
            "status_text": vae.status_text_,
            "seconds": vae.seconds_,
            "n_iter": vae.n_iter_,
            "best_epoch": vae.best_epoch_,
            "history": vae.history_,
            "sha256": checksum,
        },
    )


def read_model(folder: Path, cls: type[VAE], own: dict[str, Any] | None = None) -> VAE:
    """The inverse of `write_model`, without running anything from the file. `own` holds the user's parts."""
    values, own = read_values(folder, PLAIN), own or {}
    try:
        missing = sorted(set(values["architecture"]["own"]) ^ set(own))
    except (KeyError, TypeError) as error:
        raise damaged(folder, error) from None
    if missing:
        raise InputError(
            f"the model in {folder} and the parts given differ in {', '.join(missing)}. Files hold no code: give the "
            f"parts that were your own, as in VAE.load(path, {missing[0]}=...), and only those."
        )
    try:
        parameters: dict[str, Any] = {
            name: tuple(v) if name == "hidden" else v for name, v in values["parameters"].items()
        }
        vae = cls(random_state=values["seed"], **parameters | own)
        vae.architecture_ = Architecture.from_json(values["architecture"])
        vae.scaling_ = Scaling.from_json(values["scaling"])
        vae.given_ = Given.from_json(values["given"])
        vae.seed_, vae.status_ = values["seed"], Status[values["status"]]
        vae.status_text_, vae.seconds_ = values["status_text"], values["seconds"]
        vae.n_iter_, vae.best_epoch_ = values["n_iter"], values["best_epoch"]
        vae.history_, checksum = values["history"], values["sha256"]
        vae.fingerprint_ = values["data"]
        key = jax.random.key(0)
        skeleton = eqx.filter_eval_shape(build, vae.architecture_, key, own=own)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, error) from None
    vae.model_ = load_arrays(folder / "model.safetensors", skeleton, checksum)
    vae._describe()
    return vae


def read_values(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The JSON file of a model of this kind, or of any. Raises InputError for another one."""
    values = read_json(folder / "model.json")
    found = values.get("kind")
    if kind is not None and found != kind:
        raise InputError(f"{folder} holds a model of kind {found!r}, not {kind!r}. qphi.load reads every kind.")
    return values


def damaged(folder: Path, error: Exception) -> InputError:
    """The error for a JSON file that lacks something."""
    return InputError(f"{folder / 'model.json'} is damaged: {error!r}. Restore it from a copy, or fit again.")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A run on disk, and what it was a run of."""

    folder: Path
    seed: int
    settings: dict[str, Any]
    history: dict[str, list[float]]
    seconds: float
    arrays: str  # the name of the file beside
    checksum: str

    def check(self, settings: dict[str, Any], random_state: Any) -> None:
        """Raises InputError unless data and settings are those that the run was started with."""
        wanted = _plain(settings)
        for name, words in (
            ("data", "other data"),
            ("architecture", "another architecture"),
            ("scaling", "another likelihood or range of the data"),
            ("beta", "another beta"),
            ("training", "another bound or way to train"),
            ("given", "other covariates or size factors"),
        ):
            if self.settings.get(name) != wanted.get(name):
                raise InputError(
                    f"the run in {self.folder} was started with {words}, so it cannot go on with these. "
                    "Resume with what it was started with, or fit into a new folder."
                )
        if isinstance(random_state, (int, np.integer)) and random_state != self.seed:
            raise InputError(
                f"the run in {self.folder} was started with seed {self.seed}, not {random_state}. "
                f"Resume with random_state={self.seed} or None, or fit into a new folder."
            )

    def run(self, like: Run) -> Run:
        """The saved run."""
        return load_arrays(self.folder / self.arrays, like, self.checksum)


def write_checkpoint(
    folder: Path,
    run: Run,
    seed: int,
    settings: dict[str, Any],
    history: dict[str, list[float]],
    seconds: float,
) -> None:
    """The run's arrays in a file of their own, then the JSON that names it, then the old arrays go.

    Killed at any moment, it leaves the old checkpoint or the new one, never a mixture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = f"checkpoint-{int(run.step)}.safetensors"
    checksum = save_arrays(folder / arrays, run)
    write_json(
        folder / "checkpoint.json",
        {
            "seed": seed,
            "settings": _plain(settings),
            "history": {k: [float(x) for x in v] for k, v in history.items()},
            "seconds": seconds,
            "arrays": arrays,
            "sha256": checksum,
        },
    )
    for old in folder.glob("checkpoint-*.safetensors"):
        if old.name != arrays:
            old.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in a run folder. Raises InputError when there is none, or it is damaged."""
    values = read_json(folder / "checkpoint.json")
    try:
        names = ("seed", "settings", "history", "seconds", "arrays", "sha256")
        return Checkpoint(folder, *(values[name] for name in names))
    except KeyError as error:
        raise InputError(f"{folder / 'checkpoint.json'} is damaged: it has no {error}. Fit again.") from None


def write_metrics(folder: Path, history: dict[str, list[float]]) -> None:
    """metrics.csv: a row per check."""
    with atomic_write(folder / "metrics.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(history)
        writer.writerows(zip(*history.values(), strict=True))


def per_datum(history: dict[str, list[float]], log_jacobian: float, steps_per_epoch: int) -> dict[str, list[float]]:
    """A loop's history in the units of the data, under the names that users see; all nats per datum."""

    def shifted(name: str) -> list[float]:
        return [value + log_jacobian for value in history[name]]

    return {
        "step": [int(s) for s in history["step"]],
        "epoch": [s / steps_per_epoch for s in history["step"]],
        "seconds": list(history["seconds"]),
        "elbo_per_datum": shifted("elbo"),
        "held_out_elbo_per_datum": shifted("held_out_elbo"),
        "log_likelihood_per_datum": shifted("held_out_log_likelihood"),
        "kl_per_datum": list(history["held_out_kl"]),
        "best_objective_per_datum": shifted("best"),
        "learning_rate": list(history["learning_rate"]),
    }


def fingerprint(x: Any) -> str:
    """A hash of an array's shape, type and bytes: to tell that a run goes on with the data it was started with."""
    x = np.ascontiguousarray(x)
    x = x.astype(np.float64) if x.dtype == object else x  # the bytes of objects are addresses
    return hashlib.sha256(f"{x.shape}{x.dtype}".encode() + x.tobytes()).hexdigest()


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    import json

    return json.loads(json.dumps(settings))
