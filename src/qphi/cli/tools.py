"""Moving about in latent space: `qphi traverse`, `attribute`, `arithmetic`, `neighbours`, `map`; `qphi diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from qphi.cli.console import error_console, examples, help_text, say
from qphi.cli.grid import write_images
from qphi.cli.latent import check_rows
from qphi.cli.run_folder import DataArgument, RunArgument, open_run, output_path
from qphi.errors import InputError

__all__ = ["arithmetic", "attribute", "diagnose", "latent_map", "neighbours", "register", "traverse"]

OUT = typer.Option("-o", "--out", metavar="PATH", help="Where to write.", show_default="in the run folder")
MOST_MAPPED = 5000
Out = Annotated[Path | None, OUT]
RowOption = typer.Option(metavar="ROW", help="A row of DATA, counted from 0; may be given several times.")


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    run = "qphi-runs/digits"
    for command, name, example in (
        (traverse, "traverse", (f"qphi traverse {run} --unit 2", "one row of pictures, unit 2 from -3 to 3")),
        (attribute, "attribute", (f"qphi attribute {run} digits --label 8 --row 3", "row 3, less and more of an 8")),
        (arithmetic, "arithmetic", (f"qphi arithmetic {run} digits --plus 3 --plus 9 --minus 4", "3 + 9 - 4")),
        (neighbours, "neighbours", (f"qphi neighbours {run} digits --row 3 --row 17", "each with its five nearest")),
        (latent_map, "map", (f"qphi map {run} digits", "all codes, coloured by label")),
        (diagnose, "diagnose", (f"qphi diagnose {run} digits", "faults in words, with what to change")),
    ):
        app.command(name, help=help_text(command), epilog=examples(example))(command)


def traverse(
    run: RunArgument,
    unit: Annotated[int, typer.Option(min=0, help="Which latent unit moves.")] = 0,
    steps: Annotated[int, typer.Option(min=2, help="How many places.")] = 9,
    span: Annotated[float, typer.Option(help="How far to both sides, in standard deviations of the prior.")] = 3.0,
    out: Out = None,
) -> None:
    """Decode places along one latent unit, the others at 0."""
    path = output_path(out, run / f"unit-{unit}.png", (".png", ".npy"))
    vae = open_run(run)
    write_images(vae, vae.traverse(unit, steps=steps, span=span), path, columns=steps)


def attribute(
    run: RunArgument,
    data: DataArgument,
    label: Annotated[str, typer.Option(help="The label whose direction is taken, against all other rows.")],
    row: Annotated[int, typer.Option(min=0, help="The row of DATA to move.")] = 0,
    out: Out = None,
) -> None:
    """Move a row along the direction of a label: mean code of its rows less that of the others, -1 to 1 times."""
    path = output_path(out, run / "attribute.png", (".png", ".npy"))
    from qphi.data import load

    rows = load(data)
    if rows.labels is None:
        raise InputError(f"{data} has no labels to take a direction from. Give an .npz with an array named labels.")
    check_rows(rows.x, [row], data, "--row")
    vae = open_run(run)
    vector = vae.attribute_vector(rows.x, rows.labels.astype(str) == label)
    strengths = np.linspace(-1, 1, 9)
    write_images(vae, vae.shift(rows.x[row], vector, strengths=strengths), path, columns=len(strengths))


def arithmetic(
    run: RunArgument,
    data: DataArgument,
    plus: Annotated[list[int], RowOption],
    minus: Annotated[list[int] | None, RowOption] = None,
    out: Out = None,
) -> None:
    """Decode a sum of codes: rows to add and rows to take away."""
    path = output_path(out, run / "arithmetic.png", (".png", ".npy"))
    from qphi.data import load

    x, minus = load(data).x, minus or []
    check_rows(x, [*plus, *minus], data, "--plus or --minus")
    vae = open_run(run)
    write_images(vae, vae.arithmetic(x[plus], x[minus])[None], path)


def neighbours(
    run: RunArgument,
    data: DataArgument,
    row: Annotated[list[int], RowOption],
    count: Annotated[int, typer.Option("-n", "--count", min=1, help="Neighbours of each row.")] = 5,
    out: Out = None,
) -> None:
    """Find the rows whose codes lie nearest; the picture has each row first in its line."""
    path = output_path(out, run / "neighbours.png", (".png", ".npy"))
    from qphi.data import load

    x = load(data).x
    check_rows(x, row, data, "--row")
    vae = open_run(run)
    places, distances = vae.neighbours(x[row], x, k=min(count + 1, len(x)))
    for number, near, away in zip(row, places, distances, strict=True):
        others = [f"{p} ({d:.2f})" for p, d in zip(near, away, strict=True) if p != number][:count]
        say(f"row {number}: {', '.join(others)}")
    if vae.image_:
        write_images(vae, x[places.ravel()], path, columns=places.shape[1])


def latent_map(run: RunArgument, data: DataArgument, out: Out = None) -> None:
    """Draw the codes of DATA on the two latent units that say most, each datum with its buffer zone."""
    path = output_path(out, run / "map.png", (".png",))
    from qphi.data import load

    rows = load(data)
    vae = open_run(run)
    from qphi import theme
    from qphi.files import atomic_write
    from qphi.report.latent_map import latent_map as draw

    chosen = np.linspace(0, len(rows.x) - 1, min(len(rows.x), MOST_MAPPED)).round().astype(int)
    with error_console().status("encoding ..."):
        means, scales = vae.encode(rows.x[chosen])
    kl = np.mean(0.5 * (means**2 + scales**2 - 2 * np.log(scales) - 1), axis=0)
    axes = tuple(int(unit) for unit in np.argsort(-kl, kind="stable")[:2])
    drawn = draw(means, scales, axes, None if rows.labels is None else rows.labels[chosen])
    with atomic_write(path) as temporary:
        temporary.write_bytes(theme.png(drawn))
    say(f"a map of {len(chosen)} codes in {path}")


def diagnose(run: RunArgument, data: DataArgument) -> None:
    """Say in words what is wrong with the model: collapsed units, a weak encoder, overfitting, a likelihood that does
    not fit, codes that do not fill the prior; each with what to change."""
    from qphi.data import load

    x = load(data).x
    vae = open_run(run)
    with error_console().status("judging ..."):
        found = vae.diagnose(x)
    say(str(found))
