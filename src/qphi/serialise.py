"""Files of arrays: safetensors beside JSON, versioned, checked, never pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from qphi.errors import InputError
from qphi.files import atomic_write

__all__ = ["FORMAT", "load_arrays", "read_json", "save_arrays", "write_json"]

FORMAT = 1  # raised when files change; `read_json` refuses what is newer


def save_arrays(path: Path, tree: PyTree) -> str:
    """Write every array of the tree under the path by which it is reached, whole or not at all.

    Returns their checksum, for the JSON file beside: it tells damage, and arrays of another fit.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in _named(tree).items()}
    # safetensors stores no zero-dimensional view of a larger buffer: copy
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in arrays.items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(arrays))  # `save_file` would hide a full disk in an error of its own
    return _checksum(arrays)


def load_arrays(path: Path, like: PyTree, checksum: str) -> PyTree:
    """The tree `like` with its arrays (or their shapes) replaced by the file's. Raises InputError, saying why not."""
    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing: this is not a whole qphi folder. Fit again, or restore it.") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}). Restore it from a copy, or fit again.") from None
    wanted = _named(like)
    missing, extra = sorted(wanted.keys() - arrays.keys()), sorted(arrays.keys() - wanted.keys())
    if missing or extra:
        raise InputError(
            f"{path} does not hold this model: {_few('missing', missing)}{_few('unexpected', extra)}"
            "its JSON file and its arrays are from different fits. Restore both from one copy, or fit again."
        )
    for name, leaf in wanted.items():
        if arrays[name].shape != leaf.shape or arrays[name].dtype != leaf.dtype:
            raise InputError(
                f"{path}: {name} is {arrays[name].dtype}{arrays[name].shape}, needed is {leaf.dtype}{leaf.shape}. "
                "The file does not belong to this model. Restore both files from one copy, or fit again."
            )
    if _checksum({name: arrays[name] for name in wanted}) != checksum:
        raise InputError(
            f"{path} is damaged, or from another fit than the JSON file beside it: its checksum differs. "
            "Restore both from one copy, or fit again."
        )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    filled = [jnp.asarray(arrays[jax.tree_util.keystr(p)]) if _is_array(leaf) else leaf for p, leaf in leaves]
    return jax.tree_util.tree_unflatten(structure, filled)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object with the format number and qphi's version in it, whole or not at all."""
    from qphi import __version__

    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps({"format": FORMAT, "qphi": __version__, **values}, indent=1) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote. Raises InputError for a missing, damaged or newer file."""
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing: {path.parent} is not a qphi folder. Give a folder that `fit` left."
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}). Restore it from a copy, or fit again.") from None
    if not isinstance(values, dict) or not isinstance(values.get("format"), int):
        raise InputError(f"{path} has no format number: it is not qphi's. Give a folder that `fit` left.")
    if values["format"] > FORMAT:
        raise InputError(
            f"{path} has format {values['format']}, written by qphi {values.get('qphi')}; this version reads up to "
            f"{FORMAT}. Install a newer qphi."
        )
    return values


def _named(tree: PyTree) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if _is_array(leaf)}


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays.values():
        digest.update(array.tobytes())
    return digest.hexdigest()


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _few(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}; " if names else ""
