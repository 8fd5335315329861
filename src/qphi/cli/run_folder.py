"""The folder that `qphi fit` leaves and the other commands open."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qphi.cli.setup import prepare
from qphi.errors import InputError
from qphi.files import atomic_write, check_writable

if TYPE_CHECKING:
    from qphi import VAE

__all__ = ["DataArgument", "RunArgument", "RunRecord", "check_run", "open_run", "output_path"]

RUNS = Path("qphi-runs")
RECORD = "run.json"
FORMAT = 1


def check_run(folder: Path) -> Path:
    """`folder`, if it holds a model; asked before anything is read or computed."""
    if not folder.is_dir():
        known = RUNS / folder.name
        hint = f"Did you mean {known}?" if (known / "model.json").is_file() else "`qphi fit SOURCE` makes one."
        raise InputError(f"there is no run folder {folder}. {hint}")
    if (folder / "model.json").is_file():
        return folder
    if (folder / RECORD).is_file():
        source = RunRecord.read(folder).source
        raise InputError(f"{folder} has no model yet. Go on with: qphi fit {source} --out {folder} --resume")
    raise InputError(f"{folder} is not a run folder: it has no model.json. Give one that `qphi fit` left.")


RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="The run folder that `qphi fit` left.", show_default=False, callback=check_run),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="digits, mnist, mnist-test, frey, a folder of pictures, .npy, .npz, idx; to a table's run .csv, .parquet.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class RunRecord:
    """What was asked for: `run.json`. Enough to resume the fit and to find its data again.

    `source` is a built-in name or an absolute path; `arguments` are those of `qphi.VAE`, the seed among them.
    """

    source: str
    name: str
    arguments: dict[str, Any]
    shape: list[int]
    dtype: str
    qphi: str
    format: int = FORMAT

    def write(self, folder: Path) -> None:
        """Writes `run.json`, whole or not at all."""
        with atomic_write(folder / RECORD) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Reads `run.json`; a missing or damaged one is an `InputError`."""
        path = folder / RECORD
        try:
            record = cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} is not a run folder: it has no {RECORD}. Give one that `qphi fit` left."
            ) from error
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}). Fit again into another folder with --out.") from error
        if record.format != FORMAT:
            raise InputError(f"{path} has format {record.format}; this qphi reads format {FORMAT}. Update qphi.")
        return record


def open_run(folder: Path) -> VAE:
    """The model in a run folder."""
    check_run(folder)
    prepare()
    from qphi import VAE
    from qphi.serialise import read_json

    if read_json(folder / "model.json").get("kind") == "table":
        raise InputError(
            f"{folder} holds a model of a table, and this command needs one of images or vectors. Use qphi impute, "
            "score, sample, encode, evaluate or report, or qphi.load."
        )
    return VAE.load(folder)


def output_path(wanted: Path | None, default: Path, suffixes: tuple[str, ...]) -> Path:
    """Where to write: `wanted`, with the first of `suffixes` added if it has none, otherwise `default`."""
    path = default if wanted is None else wanted
    if path.is_dir():
        return check_writable(path)
    if not path.suffix:
        path = path.with_name(path.name + suffixes[0])
    if path.suffix.lower() not in suffixes:
        raise InputError(f"cannot write {path}: the name has to end in {' or '.join(suffixes)}.")
    return check_writable(path)
