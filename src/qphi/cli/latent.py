"""Between data and latent space: `qphi encode`, `decode`, `interpolate`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from qphi.cli.console import error_console, examples, help_text, say
from qphi.cli.grid import write_images
from qphi.cli.run_folder import DataArgument, RunArgument, open_run, output_path
from qphi.cli.tables import SUFFIXES, interpolate_rows, is_table_run, open_table_run
from qphi.errors import InputError

__all__ = ["decode", "encode", "interpolate", "register"]

OUT = typer.Option("-o", "--out", metavar="PATH", help="Where to write.", show_default="in the run folder")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        help=help_text(encode),
        epilog=examples(
            ("qphi encode qphi-runs/digits digits", "leaves z.npz with mean and scale in the run folder"),
            ("qphi encode qphi-runs/digits new.npy -o new-z.npy", "the means alone"),
            ("qphi encode qphi-runs/people new.csv -o z.csv", "means of the rows of a table"),
        ),
    )(encode)
    app.command(
        help=help_text(decode),
        epilog=examples(
            ("qphi decode qphi-runs/digits qphi-runs/digits/z.npz", "what `qphi encode` left"),
            ("qphi decode qphi-runs/digits z.npy -o x.npy", "latent vectors of your own, (n, latent_dim)"),
        ),
    )(decode)
    app.command(
        help=help_text(interpolate),
        epilog=examples(
            ("qphi interpolate qphi-runs/digits digits --between 3 17", "from row 3 to row 17, nine steps"),
            ("qphi interpolate qphi-runs/faces faces/ --between 0 8 --steps 15 -o walk.png", "elsewhere"),
            ("qphi interpolate qphi-runs/people people.csv --between 0 8 -o walk.csv", "between rows of a table"),
        ),
    )(interpolate)


def encode(
    run: RunArgument,
    data: DataArgument,
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """Write the posterior q(z|x) of every row: its mean and its scale (standard deviation).

    Deterministic. The .npz holds mean and scale, (n, latent_dim), and labels if the data have any; a name
    that ends in .npy gets the means alone. Rows of a table can also go to a .csv or .parquet, a column each.
    """
    if is_table_run(run):
        return _encode_table(run, Path(data), out)
    path = output_path(out, run / "z.npz", (".npz", ".npy"))
    vae, rows = _open(run, data)
    with error_console().status("encoding ..."):
        means, scales = vae.encode(rows.x)
    _write_latents(path, means, scales, {} if rows.labels is None else {"labels": rows.labels})
    say(f"{len(means)} latent vectors of {means.shape[1]} in {path}")


def _encode_table(run: Path, table: Path, out: Path | None) -> None:
    """`qphi encode` of a table's run: posterior means, and scales in a .npz."""
    path = output_path(out, run / "z.npz", (".npz", ".npy", *SUFFIXES))
    model = open_table_run(run)
    from qphi.data.frames import Table
    from qphi.data.table_files import table_pieces, table_writer

    with error_console().status("encoding ..."):
        parts = [model.encode(piece) for piece in table_pieces(table, model.schema_)]
    means, scales = (np.concatenate(part) for part in zip(*parts, strict=True))
    if path.suffix.lower() in (".npz", ".npy"):
        _write_latents(path, means, scales, {})
    else:
        columns = {f"z{k}": column.astype(float) for k, column in enumerate(means.T)}
        with table_writer(path) as write:
            write(Table(columns, "csv", dict.fromkeys(columns, "float64")))
    say(f"{len(means)} latent vectors of {means.shape[1]} in {path}")


def _write_latents(path: Path, means: np.ndarray, scales: np.ndarray, more: dict[str, np.ndarray]) -> None:
    """Means alone in a .npy, means, scales and more in a .npz; whole or not at all."""
    from qphi.files import atomic_write

    with atomic_write(path) as temporary:
        if path.suffix.lower() == ".npy":
            np.save(temporary, means)
        else:
            np.savez(temporary, allow_pickle=False, mean=means, scale=scales, **more)


def decode(
    run: RunArgument,
    latents: Annotated[
        Path,
        typer.Argument(
            metavar="Z",
            help=".npy of shape (n, latent_dim), or the .npz of `qphi encode`.",
            show_default=False,
        ),
    ],
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """Write the mean of p(x|z) for every latent vector: an array, and a picture if the data are images."""
    path = output_path(out, run / "decoded.npy", (".npy", ".png"))
    z = read_latents(latents)
    vae = open_run(run)
    with error_console().status("decoding ..."):
        decoded = np.asarray(vae.inverse_transform(z))
    write_images(vae, decoded, path)


def read_latents(path: Path) -> np.ndarray:
    """Latent vectors (n, latent_dim) from a file; a single vector becomes one row."""
    from qphi.data.arrays import read_arrays

    if not path.is_file():
        raise InputError(f"there is no file {path}. Give a .npy of shape (n, latent_dim) or the .npz of `qphi encode`.")
    if path.suffix.lower() not in (".npy", ".npz"):
        raise InputError(f"latent vectors are read from .npy or .npz files, not {path}. Save them with np.save.")
    z = read_arrays(path, prefer=("mean", "z", "Z"))
    z = z[None] if z.ndim == 1 else z
    if z.ndim != 2 or z.dtype.kind not in "buif" or z.size == 0:
        raise InputError(f"{path} holds {z.dtype} entries of shape {z.shape}; needed are numbers (n, latent_dim).")
    return z


def interpolate(
    run: RunArgument,
    data: DataArgument,
    between: Annotated[
        tuple[int, int],
        typer.Option(metavar="A B", help="The two rows of DATA, counted from 0.", show_default="0 1"),
    ] = (0, 1),
    steps: Annotated[int, typer.Option(min=2, help="How many points, both ends included.")] = 9,
    by: Annotated[
        Literal["linear", "spherical", "geodesic"],
        typer.Option("--path", help="A straight line, an arc, or the way on which the decodes change least."),
    ] = "linear",
    out: Annotated[Path | None, OUT] = None,
) -> None:
    """Walk through latent space from one datum to another and decode every step. Of a table: rows, on a line."""
    if is_table_run(run):
        if by != "linear":
            raise InputError(f"--path {by}: rows of tables are joined by straight lines. Leave it out.")
        return interpolate_rows(run, Path(data), between, steps, out)
    path = output_path(out, run / "interpolation.png", (".png", ".npy"))
    vae, rows = _open(run, data)
    check_rows(rows.x, between, data, "--between")
    first, last = between
    walk = np.asarray(vae.interpolate(rows.x[first], rows.x[last], steps=steps, path=by))
    write_images(vae, walk, path, columns=steps)


def check_rows(x: np.ndarray, numbers: Iterable[int], data: str, option: str) -> None:
    """Refuses numbers of rows that are not there."""
    for row in numbers:
        if not 0 <= row < len(x):
            raise InputError(f"{option} {row}: {data} has rows 0 to {len(x) - 1}. Choose among them.")


def _open(run: Path, data: str):
    from qphi.data import load

    rows = load(data)
    vae = open_run(run)
    return vae, rows
