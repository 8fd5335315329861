"""A posterior in a folder: its draws, its Gaussians and its verdict; not the model."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from qphi.draws import Pool
from qphi.errors import InputError
from qphi.families import (
    AbstractFamily,
    AutoregressiveFlow,
    CouplingFlow,
    DiagonalGaussian,
    DrivenGaussian,
    FullRankGaussian,
    GaussianMixture,
    LowRankGaussian,
    SpikedGaussian,
    StudentT,
)
from qphi.importance import ImportanceWeights
from qphi.posterior import Posterior
from qphi.precision import in_double
from qphi.serialise import load_arrays, read_json, save_arrays, write_json
from qphi.status import Status
from qphi.targets.remembered import Remembered
from qphi.verdict import Trust, Verdict

__all__ = ["RECORD", "load_posterior", "save_posterior"]

RECORD, ARRAYS = "posterior.json", "posterior.safetensors"
KEPT_DRAWS = 4000  # of a q without a pool
_FAMILIES: dict[str, type[AbstractFamily]] = {
    kind.__name__: kind
    for kind in (
        AutoregressiveFlow,
        CouplingFlow,
        DiagonalGaussian,
        DrivenGaussian,
        FullRankGaussian,
        GaussianMixture,
        LowRankGaussian,
        SpikedGaussian,
        StudentT,
    )
}


@in_double
def save_posterior(posterior: Posterior, folder: Path) -> None:
    """posterior.safetensors first, then posterior.json, which makes it a posterior; each whole or not at all.

    Raises InputError for a q that is not one of qphi's own families: its code cannot be saved.
    """
    kind = type(posterior.q).__name__
    if kind not in _FAMILIES:
        raise InputError(
            f"q is a {kind}, which cannot be written to a file; {', '.join(_FAMILIES)} can. Save draws of it instead."
        )
    pool = posterior.pool or _pool_of_q(posterior)
    parameters = {field.name: getattr(posterior.q, field.name) for field in dataclasses.fields(posterior.q)}
    verdict = posterior.verdict
    arrays: dict[str, Any] = {
        "q": parameters,
        "z": pool.z,
        "weights": pool.weights,
        "values": dict(pool.values),
        "mean_ok": verdict.mean_ok,
        "sd_ok": verdict.sd_ok,
    }
    if (folder / "model.json").exists():
        raise InputError(f"{folder} holds another model. Save the posterior into a folder of its own.")
    folder.mkdir(parents=True, exist_ok=True)
    arrays = jax.tree.map(np.asarray, arrays)
    checksum = save_arrays(folder / ARRAYS, arrays)
    write_json(
        folder / RECORD,
        {
            "kind": "posterior",
            "family": kind,
            "dim": posterior.target.dim,
            "names": {name: list(np.shape(value)[1:]) for name, value in pool.values.items()},
            "arrays": _described(arrays),
            "made_by": pool.made_by,
            "status": posterior.status.name,
            "reason": posterior.reason,
            "verdict": {
                "trust": str(verdict.trust),
                "reasons": list(verdict.reasons),
                "advice": verdict.advice,
                "numbers": {name: _number(value) for name, value in verdict.numbers.items()},
            },
            "weights": {
                field.name: _number(getattr(posterior.weights, field.name))
                for field in dataclasses.fields(posterior.weights)
            },
            "steps": posterior.steps,
            "seconds": posterior.seconds,
            "evaluations": dict(posterior.evaluations),
            "stages": dict(posterior.stages),
            "checksum": checksum,
        },
    )


@in_double
def load_posterior(folder: Path) -> Posterior:
    """What `save_posterior` wrote. Raises InputError, saying what is missing or damaged."""
    record = read_json(folder / RECORD)
    try:
        like = _shaped(record["arrays"])
        arrays = load_arrays(folder / ARRAYS, like, record["checksum"])
        arrays = jax.tree.map(np.asarray, arrays)
        names = {name: tuple(shape) for name, shape in record["names"].items()}
        values = {name: arrays["values"][name] for name in names}
        q = _FAMILIES[record["family"]](**{name: jax.numpy.asarray(a) for name, a in arrays["q"].items()})
        said = record["verdict"]
        verdict = Verdict(
            Trust(said["trust"]),
            tuple(said["reasons"]),
            said["advice"],
            arrays["mean_ok"],
            arrays["sd_ok"],
            {name: _float(value) for name, value in said["numbers"].items()},
        )
        counts = ("draws", "nan", "infinite", "zero")
        figures: dict[str, Any] = {n: v if n in counts else _float(v) for n, v in record["weights"].items()}
        weights = ImportanceWeights(**figures)
        return Posterior(
            q,
            Remembered(named_shapes=tuple(names.items()), dim=record["dim"]),
            Status[record["status"]],
            weights,
            verdict,
            Pool(arrays["z"], arrays["weights"], values, record["made_by"]),
            steps=record["steps"],
            seconds=record["seconds"],
            reason=record["reason"],
            evaluations=record["evaluations"],
            stages=record["stages"],
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / RECORD} is damaged ({error}). Restore it from a copy, or fit again.") from error


def _pool_of_q(posterior: Posterior) -> Pool:
    """Draws of q itself, for a posterior that was not corrected."""
    z = posterior.q.sample_many(jax.random.key(0), KEPT_DRAWS)
    values = {name: np.asarray(v) for name, v in jax.vmap(posterior.target.constrain)(z).items()}
    return Pool(np.asarray(z), np.full(KEPT_DRAWS, 1 / KEPT_DRAWS), values, "q")


def _described(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _described(part) for name, part in tree.items()}
    return [list(tree.shape), str(tree.dtype)]


def _shaped(described: Any) -> Any:
    if isinstance(described, dict):
        return {name: _shaped(part) for name, part in described.items()}
    shape, dtype = described
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))


def _number(value: float | int) -> float | int | str:
    """JSON has no infinity and no NaN."""
    return value if isinstance(value, int) or math.isfinite(value) else str(value)


def _float(value: float | int | str) -> float:
    return float(value)
