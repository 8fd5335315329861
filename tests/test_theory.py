"""docs/theory.md runs as it stands: its asserts hold, and the figures it shows are those that its code writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from pages import blocks, digest, figures, run, sign, signature

PAGE = Path(__file__).parents[1] / "docs" / "theory.md"
MOVED = 0.05  # of a figure's ink, in cells of 20 pixels: what is let pass
REBUILD = "run `python benchmarks/theory.py` and commit the page and its figures"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder with the figures that the page writes, and the names that it leaves. Its asserts have held."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "figures").mkdir()
    return folder, run(PAGE, folder)


def test_the_page_writes_exactly_the_figures_that_it_shows(built):
    folder, _ = built
    shown = figures(PAGE)
    assert len(shown) == len(set(shown)) == 4
    assert {f"figures/{path.name}" for path in (folder / "figures").iterdir()} == set(shown)


def test_the_figures_in_the_repository_were_made_by_this_code():
    assert signature(PAGE) == digest(PAGE), f"the page's code has changed since its figures were made: {REBUILD}"


# thousands of training steps enlarge what another processor rounds otherwise: pictures of a network may differ
OF_A_NETWORK = ("latent_space", "buffer_zones")
COMPARED = [name for name in figures(PAGE) if not any(part in name for part in OF_A_NETWORK)]


@pytest.mark.parametrize("name", COMPARED)
def test_the_figures_in_the_repository_look_like_those_written(built, name):
    """Up to what another machine's arithmetic may move."""
    folder, _ = built
    made, kept = (_cells(path / name) for path in (folder, PAGE.parent))
    assert made.shape == kept.shape, REBUILD
    assert _difference(made, kept) < MOVED, REBUILD


def _cells(path: Path) -> np.ndarray:
    """How much ink there is in each cell of 20 x 20 pixels, 0 to 1."""
    with Image.open(path) as image:
        ink = 1 - np.asarray(image.convert("L"), float) / 255
    h, w = (side - side % 20 for side in ink.shape)
    return ink[:h, :w].reshape(h // 20, 20, w // 20, 20).mean(axis=(1, 3))


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    """The ink that is in another cell, as a share of all of it."""
    return float(np.abs(a - b).sum() / (a + b).sum())


@pytest.mark.parametrize("name", figures(PAGE))
def test_other_figures_are_told_apart(name):
    ink = _cells(PAGE.parent / name)
    assert _difference(ink, ink) == 0
    assert _difference(ink, np.roll(ink, 1, axis=1)) > 2 * MOVED  # by a cell
    emptied = ink.copy()
    emptied[:, : ink.shape[1] // 2] = 0  # a panel gone
    assert _difference(ink, emptied) > MOVED


def test_every_block_after_the_first_claims_something():
    assert [number for number, block in enumerate(blocks(PAGE)) if "assert " not in block] == [0]


def test_another_evidence_breaks_the_claims_of_jensens_inequality(built):
    _, names = built
    (block,) = [block for block in blocks(PAGE) if "# Jensen, for each datum" in block]
    claims = "\n".join(line for line in block.splitlines() if line.startswith("assert "))
    exec(claims, dict(names))
    for nats in (-0.5, 0.5):
        with pytest.raises(AssertionError):
            exec(claims, {**names, "log_evidence": names["log_evidence"] + nats})


def scaled(factor: float) -> Callable[[Callable], Callable]:
    return lambda function: lambda *arguments: factor * function(*arguments)


@pytest.mark.parametrize(
    ("claim", "name", "wrong"),
    [
        ("# L + KL = log p(x)", "kl", scaled(0.9)),
        ("by_quadrature", "kl_divergence", scaled(1.001)),
        (
            "# draws that the score function needs",
            "found",
            lambda found: jax.tree.map(lambda draws: 1.3 * draws, found),
        ),
        ("in_anothers", "scales", lambda scales: {name: 0.2 * values for name, values in scales.items()}),
    ],
)
def test_a_wrong_answer_breaks_its_claim(built, claim, name, wrong):
    """The block once more, up to its last assert, on top of what the page left: as it is, then with one thing wrong."""
    _, names = built
    (block,) = [block for block in blocks(PAGE) if claim in block]
    asserts = block[: block.index("\n", block.rindex("assert "))]
    exec(asserts, dict(names))
    with pytest.raises(AssertionError):
        exec(asserts, {**names, name: wrong(names[name])})


def test_a_false_claim_is_reported_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Words.\n\n```python\nx = 1\n```\n\n```python\nassert x == 1\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as raised:
        run(page, tmp_path)
    last = raised.traceback[-1]
    assert (str(last.path), last.lineno + 1) == (str(page), 9)


def test_changed_code_is_not_that_of_the_figures(tmp_path):
    page = Path(shutil.copy(PAGE, tmp_path / "theory.md"))
    sign(page, digest(page))
    signed = page.read_text()
    assert signature(page) == digest(page)
    page.write_text(signed.replace("K = 4096", "K = 4097"))
    assert signature(page) != digest(page)
    sign(page, digest(page))  # one line, however often
    assert signature(page) == digest(page)
    assert page.read_text().count("<!-- figures made by code") == 1
    page.write_text(signed.replace("The theory", "Some theory"))  # words are no code
    assert page.read_text() != signed
    assert signature(page) == digest(page)
