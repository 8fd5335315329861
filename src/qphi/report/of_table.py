"""The page of a table's model: verdict, schema, gaps, columns and pairs against samples, the map, the oddest rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from numpy.typing import NDArray

from qphi import theme
from qphi.data.csv_text import cell_text
from qphi.data.frames import Table, read_table
from qphi.data.schema import NUMERIC, Column, seen_cells
from qphi.files import atomic_write
from qphi.report.gallery import Picture, picture
from qphi.report.page import render, versions
from qphi.tables.synthetic import fidelity

__all__ = ["write_table_report"]

ROWS = 2000  # compared and drawn at most
SHOWN_COLUMNS = 24
SHOWN_BARS = 12
ODDEST = 12


def write_table_report(folder: Path, model: Any, x: Any) -> Path:
    """Write `report.html` of a fitted `TableVAE` and its table into `folder` and return its path."""
    table = read_table(x)
    rows = np.sort(np.random.default_rng(0).permutation(table.rows)[:ROWS])
    some = table.take(rows)
    made = model.sample_table(len(rows), random_state=0)
    found = fidelity(model.codec_, some, made)
    status = model.status_
    page = render(
        name=folder.resolve().name,
        verdict=model.status_text_,
        advice=status.advice,
        tone="good" if status.succeeded else "fair" if status.resumable else "bad",
        cautions=_cautions(model, found),
        facts=[
            ("rows", f"{table.rows:,}", f"{len(model.schema_.modelled)} of {len(table.columns)} columns modelled"),
            ("missing", f"{100 * _missing(table):.1f} %", "of all cells"),
            ("log p(x)", f"{model.score(some):.2f}", "nats per row, in the units of the data"),
            ("quality", f"{found.quality:.3f}", "of samples: columns and pairs as in the data, 1 is perfect"),
            ("detection", f"{found.detection:.3f}", "AUC of telling samples from data; 0.5 is perfect"),
            ("time", f"{model.seconds_:.1f} s", f"{model.n_iter_:,} steps"),
        ],
        explanation="Numbers are modelled on the scale of normal scores, whole numbers and values with probability of "
        "their own as intervals there, categories by a softmax; gaps are left out of the bound. The figures are of "
        f"{len(rows):,} rows, most of them training rows.",
        table_title="Schema",
        table=Markup(_schema(model.schema_) + _oddest(model, some, rows)),
        pictures=_pictures(model, some, made),
        settings=[(name, str(value)) for name, value in model.get_params().items() if value is not None]
        + [
            ("latent_dim", str(model.architecture_.latent_dim)),
            ("components of p(z)", str(model.architecture_.components)),
        ],
        code=f"import qphi\nmodel = qphi.load({folder.resolve().name!r})  # the folder this page lies in\n"
        "full = model.impute(df)  # also: sample(1000, given={...}), anomaly_score, explain, transform",
        versions=versions(),
    )
    path = folder / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _missing(table: Table) -> float:
    return float(np.mean([np.mean(~seen_cells(cells)) for cells in table.columns.values()]))


def _cautions(model: Any, found: Any) -> list[str]:
    left_out = [c.name for c in model.schema_.columns if c.kind in ("id", "text")]
    poor = sorted((value, name) for name, value in found.columns.items() if value < 0.9)
    lines = [f"Left out of the model: {', '.join(left_out)}."] if left_out else []
    if poor:
        lines.append("Modelled least well: " + ", ".join(f"{name} ({value:.2f})" for value, name in poor[:5]) + ".")
    return lines


def _schema(schema: Any) -> str:
    head = "<tr><th>column</th><th>kind</th><th>missing</th><th>values</th></tr>"
    body = "".join(
        f"<tr><td>{escape(c.name)}</td><td>{c.kind}</td><td>{100 * c.missing / max(schema.rows, 1):.1f} %</td>"
        f"<td>{escape(c.words)}</td></tr>"
        for c in schema.columns
    )
    return f"<table>{head}{body}</table>"


def _oddest(model: Any, table: Table, rows: NDArray) -> str:
    scores = model.anomaly_score(table)
    order = np.argsort(-scores, kind="stable")[:ODDEST]
    odd = table.take(order)
    body = ""
    for row, score, reasons in zip(rows[order], scores[order], model.explain(odd), strict=True):
        place = int(np.flatnonzero(rows[order] == row)[0])
        because = ", ".join(
            f"{escape(name)} = {escape(_shown(odd.columns[name][place], model.schema_[name].dtype))} ({nats:.1f})"
            for name, nats in reasons
        )
        body += f"<tr><td>{row}</td><td>{score:.1f}</td><td>{because}</td></tr>"
    return (
        "</section><section><h2>The oddest rows</h2><table><tr><th>row</th><th>oddness</th>"
        f"<th>because of (nats of each cell, given the others)</th></tr>{body}</table>"
    )


def _shown(value: Any, dtype: str = "") -> str:
    whole = dtype.lower().startswith(("int", "uint"))
    return f"{value:.4g}" if isinstance(value, float) and not whole else cell_text(value, dtype)


def _pictures(model: Any, table: Table, made: Table) -> list[Picture]:
    columns = model.schema_.modelled[:SHOWN_COLUMNS]
    shown = [
        picture(
            "Columns",
            _marginals(columns, table, made),
            "Data (grey; cells that are not missing) and as many samples of the model (blue).",
        ),
        picture(
            "Latent map",
            _map(model, table),
            "Posterior means of the rows along the two directions in which they differ most, coloured by the column "
            "that these tell most about.",
        ),
    ]
    numeric = [c.name for c in model.schema_.modelled if c.kind in NUMERIC and c.kind not in ("ordinal", "date")]
    if len(numeric) > 1:
        caption = "Correlations of the numeric columns: data, samples, and their difference."
        shown.insert(1, picture("Pairs", _correlations(numeric[:SHOWN_COLUMNS], table, made), caption))
    if _missing(table):
        shown.append(picture("Gaps", _gaps(table), "Share of missing cells in each column."))
    return shown


def _marginals(columns: tuple[Column, ...], table: Table, made: Table) -> Figure:
    across = min(4, len(columns))
    down = -(-len(columns) // across)
    drawn = theme.figure(9.0, 1.9 * down + 0.3)
    for place, column in enumerate(columns):
        plot = theme.style(drawn.add_subplot(down, across, place + 1), title=column.name)
        plot.set_yticks([])
        pair = [t.columns[column.name] for t in (table, made)]
        pair = [cells[seen_cells(cells)] for cells in pair]
        if column.levels:
            levels = list(column.levels[:SHOWN_BARS])
            places = np.arange(len(levels))
            for cells, shift, colour in zip(pair, (-0.2, 0.2), ("#b4bdc6", theme.ACCENT), strict=True):
                plot.bar(places + shift, [np.mean(cells == level) for level in levels], 0.4, color=colour)
            plot.set_xticks(places, [_shown(level)[:9] for level in levels], rotation=40, ha="right", fontsize=6)
        else:
            numbers = [c.astype("int64").astype(float) if c.dtype.kind == "M" else c.astype(float) for c in pair]
            low, high = np.quantile(numbers[0], [0.005, 0.995])
            edges = np.linspace(low, high if high > low else low + 1, 31)
            plot.hist(numbers[0], edges, density=True, color="#b4bdc6")
            plot.hist(numbers[1], edges, density=True, histtype="step", color=theme.ACCENT, lw=1.4)
            plot.tick_params(labelsize=6)
            if column.kind == "date":
                plot.set_xticks([])
    return drawn


def _correlations(names: list[str], table: Table, made: Table) -> Figure:
    both = [_correlation(t, names) for t in (table, made)]
    drawn = theme.figure(9.0, 3.2)
    for place, (values, title) in enumerate(
        zip([*both, both[1] - both[0]], ["data", "samples", "difference"], strict=True)
    ):
        plot = theme.style(drawn.add_subplot(1, 3, place + 1), title=title, grid=None)
        plot.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
        plot.set_xticks([])
        if place == 0 and len(names) <= 24:
            plot.set_yticks(range(len(names)), [name[:14] for name in names], fontsize=6)
        else:
            plot.set_yticks([])
    return drawn


def _correlation(table: Table, names: list[str]) -> NDArray:
    x = np.stack([table.columns[name].astype(float) for name in names], axis=1)
    masked = np.ma.masked_invalid(x)
    return np.ma.corrcoef(masked, rowvar=False).filled(0.0)


def _map(model: Any, table: Table) -> Figure:
    means = model.transform(table)
    centred = means - means.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    at = centred @ directions[:2].T if directions.shape[0] > 1 else np.c_[centred, np.zeros(len(centred))]
    column, colours = _telling(model, table, at)
    drawn = theme.figure(6.5, 4.6)
    plot = theme.style(
        drawn.add_subplot(), x="first direction", y="second direction", title=f"coloured by {column.name}"
    )
    if column.levels:
        for number, level in enumerate(column.levels[: len(theme.CLASSES)]):
            mine = colours == number
            plot.plot(*at[mine].T, ".", ms=4, color=theme.CLASSES[number], label=_shown(level)[:16])
        plot.legend(frameon=False, fontsize=theme.SIZE - 2, markerscale=2)
    else:
        shade = plot.scatter(*at.T, c=colours, s=6, cmap="viridis")
        drawn.colorbar(shade, ax=plot)
    return drawn


def _telling(model: Any, table: Table, at: NDArray) -> tuple[Column, NDArray]:
    """The column whose values differ most along the map: by variance explained by a linear fit of its numbers."""
    x = model.codec_.transform(table).x[..., 2].astype(float)
    design = np.c_[at, np.ones(len(at))]
    best, explained = 0, -1.0
    for j in range(x.shape[1]):
        seen = ~np.isnan(x[:, j])
        if seen.sum() < 5 or np.std(x[seen, j]) == 0:
            continue
        fitted = design[seen] @ np.linalg.lstsq(design[seen], x[seen, j], rcond=None)[0]
        share = float(np.var(fitted) / np.var(x[seen, j]))
        if share > explained:
            best, explained = j, share
    column = model.schema_.modelled[best]
    if column.kind == "ordinal":
        return column, np.array(
            [column.levels.index(v) if v in column.levels else -1 for v in table.columns[column.name].tolist()]
        )
    return column, x[:, best]


def _gaps(table: Table) -> Figure:
    shares = {name: float(np.mean(~seen_cells(cells))) for name, cells in table.columns.items()}
    shares = {name: share for name, share in sorted(shares.items(), key=lambda pair: -pair[1]) if share}
    shares = dict(list(shares.items())[:30])
    drawn = theme.figure(9.0, 0.6 + 0.22 * len(shares))
    plot = theme.style(drawn.add_subplot(), x="missing, %")
    plot.barh(range(len(shares)), [100 * s for s in shares.values()], color=theme.ACCENT)
    plot.set_yticks(range(len(shares)), [name[:24] for name in shares], fontsize=7)
    plot.invert_yaxis()
    return drawn
