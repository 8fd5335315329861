"""Tables from the shell: `qphi schema`, `impute`, `score`, and what `fit` and `sample` do with a table."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.text import Text

from qphi.cli.console import error_console, examples, help_text, output_console, say
from qphi.cli.new_run import CHECKPOINT, new_record, resumed_record, run_folder
from qphi.cli.progress import FitDisplay, clock
from qphi.cli.run_folder import RunArgument, RunRecord, output_path
from qphi.cli.setup import prepare
from qphi.errors import InputError

if TYPE_CHECKING:
    from qphi import TableVAE
    from qphi.tables.synthetic import Fidelity

__all__ = [
    "SUFFIXES",
    "evaluate_table",
    "fit_table",
    "impute",
    "interpolate_rows",
    "is_table_run",
    "open_table_run",
    "reconstruct_rows",
    "register",
    "report_table",
    "sample_table",
    "schema",
    "score",
]

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".gz", ".parquet")
ENDED_NOT_FINITE, INTERRUPTED = 3, 130

TableArgument = Annotated[
    Path, typer.Argument(metavar="TABLE", help="A .csv, .tsv (also .gz) or .parquet file.", show_default=False)
]
KindOption = Annotated[
    list[str] | None,
    typer.Option("--kind", metavar="COLUMN=KIND", help="What kind a column is; can be repeated.", show_default=False),
]
KindsOption = Annotated[
    Path | None, typer.Option("--kinds", metavar="FILE", help="JSON of column: kind.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command(
        help=help_text(schema),
        epilog=examples(
            ("qphi schema people.csv", "what each column is taken for"),
            ("qphi schema people.csv --json > kinds.json", "to edit, and give back with --kinds kinds.json"),
        ),
    )(schema)
    app.command(
        help=help_text(impute),
        epilog=examples(
            ("qphi impute qphi-runs/people people.csv -o full.csv", "gaps filled; all else as it was"),
            (
                "qphi impute qphi-runs/people people.csv -o full.csv --draws 5",
                "full-1.csv to full-5.csv, one draw each",
            ),
            (
                "qphi impute qphi-runs/people people.csv -o full.csv --cells gaps.csv",
                "beside it how sure each gap's value is",
            ),
        ),
    )(impute)
    app.command(
        help=help_text(score),
        epilog=examples(("qphi score qphi-runs/people new.csv -o scores.csv", "log p and oddness of every row")),
    )(score)


def schema(
    table: TableArgument,
    kind: KindOption = None,
    kinds: KindsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON of column: kind.")] = False,
) -> None:
    """Show what kind each column of a table is taken for, its gaps and its values."""
    from qphi.data.schema import find_schema
    from qphi.data.table_files import read_table_file

    found = find_schema(read_table_file(table), merged_kinds(kind, kinds))
    say(json.dumps({c.name: c.kind for c in found.columns}, indent=1) if as_json else str(found))


def merged_kinds(kind: list[str] | None, kinds: Path | None) -> dict[str, str]:
    """The kinds of a file, with those of the flags on top."""
    from qphi.data.schema import read_kinds

    merged = read_kinds(kinds)
    for pair in kind or []:
        name, equals, value = pair.rpartition("=")
        if not equals:
            raise InputError(f"--kind {pair}: COLUMN=KIND is needed, such as age=count.")
        merged[name] = value
    return merged


def fit_table(
    source: str, folder: Path, arguments: dict[str, Any], kinds: dict[str, str], *, resume: bool = False
) -> int:
    """`qphi fit` of a table: a run folder with model, schema and report."""
    from sklearn.exceptions import ConvergenceWarning

    import qphi
    from qphi.data.table_files import choose_rows

    table, count = choose_rows(source)
    prepare()
    given = arguments | ({"kinds": kinds} if kinds else {})
    shape = (table.rows, len(table.columns))
    if resume:
        record = resumed_record(folder, source, shape, "table", given, qphi.TableVAE)
    else:
        record = new_record(source, Path(source).name.split(".")[0], shape, "table", given)
    model = qphi.TableVAE(**record.arguments)
    # a run that was killed before its first checkpoint begins again, which comes to the same
    resume = resume and (folder / CHECKPOINT).is_file()
    with run_folder(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the summary says it, with what to do
        record.write(folder)
        with FitDisplay(Path(source).name, model.max_epochs) as display:
            model.fit(table, run_dir=folder, resume=resume, watch=display)
        if model.status_.name == "NOT_FINITE":
            return ENDED_NOT_FINITE
        from qphi.report import write_table_report

        with error_console().status("drawing the report ..."):
            report = write_table_report(folder, model, table)
    colour = "green" if model.status_.succeeded else "yellow"
    output_console().print(Text(model.status_text_, style=f"bold {colour}"))
    say(str(model.schema_))
    if table.rows < count:
        say(f"rows        {table.rows:,} of {count:,}, chosen at random: as many as are kept in memory")
    say(f"time        {clock(model.seconds_)}\nrun folder  {folder}\nreport      {report}")
    say(f"next        qphi impute {folder} {source} -o full.csv")
    return INTERRUPTED if model.status_.name == "INTERRUPTED" else 0


def is_table_run(run: Path) -> bool:
    """Whether a run folder's model is one of a table."""
    from qphi.serialise import read_json

    return read_json(run / "model.json").get("kind") == "table"


def open_table_run(run: Path) -> TableVAE:
    """The table model in a run folder. Raises InputError where it is one of images or vectors."""
    if not is_table_run(run):
        raise InputError(f"{run} holds a model of images or vectors; a table's is needed. Fit one: qphi fit TABLE.csv.")
    prepare()
    from qphi import TableVAE

    return TableVAE.load(run)


def impute(
    run: RunArgument,
    table: TableArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="PATH", show_default="filled.csv")] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", min=1, metavar="M", help="M tables, each with one draw in every gap.")
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option(
            "--cells",
            metavar="PATH",
            help="A line for each gap: row, column, value, 90 % interval or probability.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same draws.")] = 0,
) -> None:
    """Fill the gaps of a table. What is there stays as it stands, to the letter.

    A gap gets its expected value or likeliest level given the row's other cells. The file may be larger than
    memory: it is read and written in pieces.
    """
    path = output_path(out, Path("filled.csv"), SUFFIXES)
    if cells is not None and draws is not None:
        raise InputError("--cells tells how sure single values are; --draws writes several. Give one of the two.")
    beside = None if cells is None else output_path(cells, cells, SUFFIXES)
    if beside is not None and beside.resolve() == path.resolve():
        raise InputError(f"--cells and --out are both {path}. Give two names.")
    model = open_table_run(run)
    from contextlib import ExitStack

    from qphi.data.table_files import table_pieces, table_writer

    paths = [path] if draws is None else [_numbered(path, k + 1) for k in range(draws)]
    rows = gaps = 0
    with ExitStack() as stack, error_console().status("imputing ..."):
        writers = [stack.enter_context(table_writer(p)) for p in paths]
        write_cells = None if beside is None else stack.enter_context(table_writer(beside))
        for piece in table_pieces(table, model.schema_):
            if write_cells is None:
                whole = model.impute_tables(piece, n_imputations=draws, random_state=seed)
            else:
                full, listed = model.impute_listed(piece, random_state=seed)
                listed.columns["row"] += rows
                write_cells(listed)
                whole = [full]
            for write, one in zip(writers, whole, strict=True):
                write(one)
            rows, gaps = rows + piece.rows, gaps + count_gaps(piece)
    say(f"{gaps} gaps of {rows} rows filled, in {', '.join(map(str, paths))}")
    if beside is not None:
        say(f"how sure each is, in {beside}")


def count_gaps(table: Any) -> int:
    """Gaps of a table."""
    from qphi.data.schema import seen_cells

    return int(sum((~seen_cells(cells)).sum() for cells in table.columns.values()))


def _numbered(path: Path, number: int) -> Path:
    stem, dot, suffix = path.name.partition(".")
    return path.with_name(f"{stem}-{number}{dot}{suffix}")


def score(
    run: RunArgument,
    table: TableArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", metavar="PATH", show_default="scores.csv")] = None,
    top: Annotated[int, typer.Option(min=1, help="How many columns to name for each row.")] = 3,
) -> None:
    """Score every row of a table: log p(x) in nats, how odd it is, and which columns make it so.

    Higher scores are odder. The file may be larger than memory: it is read and written in pieces.
    """
    path = output_path(out, Path("scores.csv"), SUFFIXES)
    model = open_table_run(run)
    from qphi.data.frames import Table
    from qphi.data.table_files import table_pieces, table_writer

    rows = 0
    with table_writer(path) as write, error_console().status("scoring ..."):
        for piece in table_pieces(table, model.schema_):
            scores = model.score_rows(piece, top=top)
            number = np.arange(rows, rows + piece.rows, dtype=float)
            dtypes = {"row": "int64", "log_p": "float64", "anomaly_score": "float64", "because_of": "str"}
            write(Table({"row": number, **scores.columns}, "csv", dtypes))
            rows += piece.rows
    say(f"{rows} rows scored in {path}")


def reconstruct_rows(run: Path, table: Path, count: int | None, out: Path | None) -> None:
    """`qphi reconstruct` of a table's run: every row, or the first `count`, as its posterior mean decodes."""
    path = output_path(out, run / "reconstructions.csv", SUFFIXES)
    model = open_table_run(run)
    from qphi.data.table_files import table_pieces, table_writer

    rows = 0
    with table_writer(path) as write, error_console().status("reconstructing ..."):
        for piece in table_pieces(table, model.schema_):
            some = piece if count is None else piece.take(slice(count - rows))
            write(model.reconstruct_table(some))
            rows += some.rows
            if rows == count:
                break
    say(f"{rows} rows in {path}")


def interpolate_rows(run: Path, table: Path, between: tuple[int, int], steps: int, out: Path | None) -> None:
    """`qphi interpolate` of a table's run: the rows on the way from one to another."""
    path = output_path(out, run / "interpolation.csv", SUFFIXES)
    model = open_table_run(run)
    from qphi.data.table_files import table_pieces, table_writer

    found, rows = {}, 0
    for piece in table_pieces(table, model.schema_):
        inside = {row: piece.take([row - rows]) for row in between if rows <= row < rows + piece.rows}
        found, rows = found | inside, rows + piece.rows
    for row in between:
        if row not in found:
            raise InputError(f"--between {row}: {table} has rows 0 to {rows - 1}. Choose among them.")
    first, last = (found[row] for row in between)
    with table_writer(path) as write:
        write(model.interpolate_table(first, last, steps))
    say(f"{steps} rows in {path}")


def sample_table(
    run: Path, count: int, seed: int, out: Path | None, given: list[str] | None, balanced: str | None = None
) -> None:
    """`qphi sample` of a table's run: new rows in a file."""
    path = output_path(out, run / "samples.csv", SUFFIXES)
    model = open_table_run(run)
    from qphi.data.table_files import table_writer

    with error_console().status("sampling ..."):
        table = model.sample_table(count, given=_given(model, given), balanced=balanced, random_state=seed)
    with table_writer(path) as write:
        write(table)
    say(f"{count} rows in {path}")


def evaluate_table(run: Path, table: Path, fresh: Path | None, target: str | None, as_json: bool) -> None:
    """`qphi evaluate` of a table's run: synthetic rows beside the rows of the fit and fresh ones."""
    model = open_table_run(run)
    from qphi.data.table_files import choose_rows

    real, new = choose_rows(table)[0], None if fresh is None else choose_rows(fresh)[0]
    with error_console().status("sampling and comparing ..."):
        found = model.evaluate(real, new, target=target)
        log_p = {"log_p": model.score(real)} | ({} if new is None else {"log_p_fresh": model.score(new)})
    say(json.dumps(log_p | found.as_dict(), indent=1) if as_json else evaluation_text(found, log_p))


def evaluation_text(found: Fidelity, log_p: dict[str, float]) -> str:
    """What `qphi evaluate` says of synthetic rows, with the columns and pairs that are least like the data."""
    worst = dict(sorted(found.columns.items(), key=lambda item: item[1])[:3])
    pairs = {f"{a}, {b}": value for (a, b), value in sorted(found.pairs.items(), key=lambda item: item[1])[:3]}
    lines = [
        ("quality", f"{found.quality:.3f}", "of synthetic rows; 1 is perfect"),
        ("  columns", f"{found.column_mean:.3f}", "least: " + _listed(worst)),
        ("  pairs", f"{found.pair_mean:.3f}", "least: " + _listed(pairs) if pairs else ""),
        ("detection AUC", f"{found.detection:.3f}", "of telling synthetic from real rows; 0.5 is perfect"),
    ]
    if "log_p_fresh" in log_p:
        lines += [
            ("nearest ratio", f"{found.nearest_ratio:.2f}", "near 1 is good, far below 1 copies rows"),
            ("membership AUC", f"{found.membership:.3f}", "of telling who was in the fit; 0.5 gives nobody away"),
        ]
    if found.use is not None:
        learned = f"{found.use.measure} on fresh rows, learned from synthetic ones; {found.use.real:.3f} from real ones"
        lines.append((f"use for {found.use.target}", f"{found.use.synthetic:.3f}", learned))
    lines.append(("log p(x)", f"{log_p['log_p']:.2f}", "nats per row of the fit"))
    if "log_p_fresh" in log_p:
        lines.append(("", f"{log_p['log_p_fresh']:.2f}", "nats per fresh row"))
    width = max(len(name) for name, _, _ in lines)
    return "\n".join(f"{name:{width}}  {figure:>8}  {words}".rstrip() for name, figure, words in lines)


def _listed(found: dict[str, float]) -> str:
    return "; ".join(f"{name} {value:.3f}" for name, value in found.items())


def report_table(run: Path) -> Path:
    """`qphi report` of a table's run, from its model and the file it was fitted to."""
    model, record = open_table_run(run), RunRecord.read(run)
    from qphi.data.table_files import choose_rows
    from qphi.report import write_table_report

    table, _ = choose_rows(record.source)
    with error_console().status("drawing ..."):
        return write_table_report(run, model, table)


def _given(model: TableVAE, pairs: list[str] | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--given {pair}: COLUMN=VALUE is needed, such as sex=female.")
        column = model.schema_[name]
        matching = [level for level in column.levels if str(level) == text or _number(text) == level]
        found[name] = matching[0] if matching else text if column.levels or column.kind == "date" else _number(text)
        if found[name] is None:
            raise InputError(f"--given {pair}: column {name!r} holds numbers. Give one.")
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
