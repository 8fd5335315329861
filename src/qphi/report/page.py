"""The report: one HTML file that holds everything, verdict first."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import ArrayLike, NDArray

import qphi
from qphi.autoencoders.evaluation import ACTIVE
from qphi.errors import InputError
from qphi.files import atomic_write
from qphi.report import words
from qphi.report.gallery import pictures
from qphi.report.subject import SEED, Subject

__all__ = ["render", "versions", "write_report"]

ENCODED = 5000  # rows at most: enough for the map and the density
JUDGED = 512  # rows at most for the figures, whose importance weights cost the most
PARTICLES = 500  # as `evaluate` takes by itself, so that one compiled program serves both
LEFT_OUT = "figures and pictures that need them are left out"
# A path of this machine inside a sentence: what follows a slash, or a drive, that begins a word.
_ABSOLUTE = re.compile(r"(?<![\w.])(?:/|[A-Za-z]:\\)[^\s:,;'\"]+")


def write_report(run_dir: str | Path, vae: Any, x: ArrayLike | None = None, labels: ArrayLike | None = None) -> Path:
    """Write `report.html` into `run_dir` and return its path.

    Without `x` the data are those the run was made from, where `run.json` says so and they can be read again;
    if they cannot, the page leaves out what needs them and says why. `labels` (n,) colour the latent map. The
    figures are computed from at most 512 rows, held-out ones where the model can tell which those are
    (`vae.held_out_rows(x)`), the map from at most 5,000; the same ones every time.
    """
    run_dir = Path(run_dir)
    run = _read_run(run_dir)
    rows, row_labels, missing = _data(run, x, labels)
    subject, evaluation, fair = _examine(vae, rows, row_labels)
    page = render(
        name=_name(run, run_dir),
        verdict=getattr(vae, "status_text_", vae.status_.message),
        advice=vae.status_.advice,
        tone=_tone(vae.status_),
        cautions=words.cautions(vae, evaluation)
        + [f"{finding.name.capitalize()}: {finding.seen} {finding.change}" for finding in _diagnosis(vae, rows)]
        + ([missing] if missing else []),
        facts=words.summary(vae, evaluation, fair, None if rows is None else len(rows)),
        explanation=words.explanation(vae, evaluation),
        pictures=pictures(subject),
        settings=_settings(vae, run, rows),
        versions=versions(),
        table="",
        code=_code(run_dir.resolve().name, vae.image_),
    )
    path = run_dir / "report.html"
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _code(folder: str, image: bool) -> str:
    rows = "images" if image else "rows"
    also = "# also: transform, inverse_transform, reconstruct, interpolate, score_samples"
    return (
        f"import qphi\nvae = qphi.load({json.dumps(folder)})  # the folder this page lies in\n"
        f"{rows} = vae.sample(64)  {also}"
    )


def render(**facts: Any) -> str:
    """The page's HTML from what stands on it."""
    environment = Environment(
        loader=PackageLoader("qphi.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(**facts)


def _diagnosis(vae: Any, x: NDArray | None) -> Any:
    return () if x is None else vae.diagnose(x)


def _examine(vae: Any, x: NDArray | None, labels: NDArray | None) -> tuple[Subject, Any | None, bool]:
    """Encode and evaluate a fixed choice of the rows, and whether those evaluated are held-out ones."""
    if x is None:
        return Subject(vae), None, False
    held_out = _held_out(vae, x)
    fair = np.arange(len(x)) if held_out is None else held_out
    judged = fair[_choice(len(fair), JUDGED)]
    evaluation = vae.evaluate(x[judged], particles=PARTICLES)
    encoded = np.union1d(_choice(len(x), ENCODED), judged)
    x, labels = np.asarray(x[encoded]), None if labels is None else labels[encoded]
    means, scales = (np.asarray(part) for part in vae.encode(x))
    judged = np.searchsorted(encoded, judged)
    shown = np.random.default_rng(SEED).permutation(judged)[:24]
    active = means[judged].var(axis=0) > ACTIVE
    subject = Subject(vae, x, labels, means, scales, shown, np.asarray(evaluation.kl_per_unit, float), active)
    return subject, evaluation, held_out is not None


def _held_out(vae: Any, x: NDArray) -> NDArray | None:
    """Positions of the rows of `x` that were kept from training; None where the model cannot tell."""
    rows = vae.held_out_rows(x)
    return None if rows is None else np.asarray(rows)


def _choice(count: int, most: int) -> NDArray:
    """Positions of all rows, or of the same `most` of them every time, in order."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(SEED).choice(count, most, replace=False))


def _data(
    run: Mapping[str, Any], x: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray | None, NDArray | None, str]:
    """Rows and labels: those given, or those the run names; otherwise the reason why there are none."""
    if x is None:
        if not run.get("source"):
            return None, None, f"The run does not say which data it was made from: {LEFT_OUT}."
        from qphi import data  # the loaders bring in scikit-learn

        try:
            loaded = data.load(run["source"])
        except (ValueError, OSError) as error:
            reason = _ABSOLUTE.sub(lambda path: PurePath(path[0]).name, str(error))
            return None, None, f"The data could not be read again: {LEFT_OUT}. The reason: {reason}"
        x, labels = loaded.x, loaded.labels if labels is None else labels
    rows = np.asarray(x)
    if labels is None:
        return rows, None, ""
    row_labels = np.asarray(labels)
    if row_labels.shape != rows.shape[:1]:
        raise InputError(f"labels need one entry for each of the {len(rows)} rows of x; got shape {row_labels.shape}.")
    return rows, row_labels, ""


def _read_run(run_dir: Path) -> dict[str, Any]:
    """What the run folder says about itself; nothing when it holds no run.json."""
    path = run_dir / "run.json"
    if not path.exists():
        return {}
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}. Restore it, or delete it to report without it.") from error
    return run if isinstance(run, dict) else {}


def _name(run: Mapping[str, Any], run_dir: Path) -> str:
    source = run.get("source")
    return PurePath(str(source)).name if source else run_dir.resolve().name


def _tone(status: Any) -> str:
    """The colour of the verdict: fine, unfinished or broken."""
    return "good" if status.succeeded else "fair" if status.resumable else "bad"


def _settings(vae: Any, run: Mapping[str, Any], x: NDArray | None) -> list[tuple[str, str]]:
    given = vae.get_params() if hasattr(vae, "get_params") else {}
    settings = {
        "data": _name(run, Path()) if run.get("source") else None,
        "rows": None if x is None else f"{len(x):,}",
        "shape of a datum": " × ".join(map(str, vae.shape_)),
        "likelihood": vae.likelihood_,
        "latent_dim": vae.latent_dim,
        "beta": vae.beta,
        "random_state": vae.random_state,
    }
    settings |= {name: value for name, value in given.items() if name not in settings}
    return [(name, _public(value)) for name, value in settings.items() if value is not None]


def _public(value: Any) -> str:
    """A setting as text, without the paths of this machine."""
    if isinstance(value, PurePath) or (isinstance(value, str) and PurePath(value).is_absolute()):
        return PurePath(value).name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__
    return str(value)


def versions() -> str:
    """The packages whose versions decide the numbers."""
    return ", ".join([f"qphi {qphi.__version__}", *(f"{name} {metadata.version(name)}" for name in ("jax", "numpy"))])
