"""Beginning a run or going on with one: its folder, its arguments, and nothing left by a failure."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qphi.cli.run_folder import RECORD, RunRecord
from qphi.errors import InputError

__all__ = ["CHECKPOINT", "check_folder", "new_record", "resumed_record", "run_folder"]

SEED = 0
CHECKPOINT = "checkpoint.json"  # written by the estimators' `fit`
_BUDGETS = ("max_epochs", "max_time")  # may change when a run is resumed; everything else is part of the run


def check_folder(folder: Path, resume: bool, *, resumable: bool = True) -> None:
    """Refuses a folder that holds other things, or nothing to resume. Nothing in it is touched."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; the run needs a folder. Choose another with --out.")
    if resume:
        if not (folder / RECORD).is_file():
            raise InputError(f"there is no run to resume in {folder}. Leave --resume away, or name the run with --out.")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"the folder {folder} exists and is not empty. Write elsewhere with --out"
            + (", or go on with the run in it with --resume." if resumable else ", or remove it first.")
        )


def new_record(source: str, name: str, shape: tuple[int, ...], dtype: str, given: dict[str, Any]) -> RunRecord:
    """What `run.json` will say of a fit that begins; `given` are arguments of the estimator."""
    from qphi import __version__

    arguments = {"random_state": SEED} | given
    return RunRecord(
        source=_lasting(source),
        name=name,
        arguments=arguments,
        shape=list(shape),
        dtype=dtype,
        qphi=__version__,
    )


def resumed_record(
    folder: Path, source: str, shape: tuple[int, ...], dtype: str, given: dict[str, Any], estimator: type
) -> RunRecord:
    """The record of the run in `folder`, with new budgets; anything else that differs is refused."""
    record = RunRecord.read(folder)
    found = (list(shape), dtype)
    if (record.shape, record.dtype) != found:
        raise InputError(
            f"the run in {folder} was fitted to {record.source} of shape {record.shape} ({record.dtype}); "
            f"{source} has {found[0]} ({found[1]}). Resume with the same data, or start anew with --out."
        )
    fresh = {"random_state": SEED} | _defaults(estimator)
    for name, value in given.items():
        before = record.arguments.get(name, fresh.get(name))
        if name not in _BUDGETS and value != before:
            flag = {"random_state": "--seed"}.get(name, "--" + name.replace("_", "-"))
            raise InputError(
                f"the run in {folder} was fitted with {flag} {before}, not {value}. Resume without {flag}, "
                "or start anew with --out."
            )
    budgets = {name: given[name] for name in _BUDGETS if name in given}
    kept = {name: value for name, value in record.arguments.items() if not (budgets and name in _BUDGETS)}
    return RunRecord(**{**record.__dict__, "arguments": kept | budgets})


def _defaults(estimator: type) -> dict[str, Any]:
    parameters = inspect.signature(estimator).parameters.values()
    return {p.name: p.default for p in parameters if p.default not in (p.empty, None)}


def _lasting(source: str) -> str:
    """The source in a form that holds in another working directory too."""
    from qphi.data import builtin_names

    if source in builtin_names():
        return source
    stem, colon, member = source.rpartition(":")
    if colon and not Path(source).expanduser().exists():
        return f"{Path(stem).expanduser().resolve()}:{member}"
    return str(Path(source).expanduser().resolve())


@contextmanager
def run_folder(folder: Path) -> Iterator[None]:
    """Makes the folder; takes away again what was made if the fit fails before it has saved anything."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    was_empty = not (folder.exists() and any(folder.iterdir()))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = error.strerror or error
        raise InputError(f"the folder {folder} cannot be made ({why}). Choose another with --out.") from error
    try:
        yield
    except BaseException:
        kept = [path for path in folder.rglob("*") if path.is_file() and path.name not in (RECORD, "metrics.csv")]
        if was_empty and not kept:
            for path in list(folder.iterdir()):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for parent in made:
                parent.rmdir()
        raise
