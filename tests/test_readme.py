"""The README's Python runs as it stands."""

from pathlib import Path

import numpy as np
import pytest

import qphi
from pages import blocks

README = Path(__file__).parents[1] / "README.md"
BLOCKS = blocks(README)


def _block(marker: str) -> str:
    found = [block for block in BLOCKS if marker in block]
    assert len(found) == 1, marker
    return found[0]


def test_there_is_a_block_for_each_door_and_one_for_tables():
    assert len(BLOCKS) == 4


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_tables_are_filled():
    rng = np.random.default_rng(0)
    size = rng.normal(size=120)
    gaps = np.where(rng.uniform(size=120) < 0.1, np.nan, 2 * size + 0.1 * rng.normal(size=120))
    names = {"qphi": qphi, "df": {"size": size, "weight": gaps, "sex": np.where(size > 0, "male", "female")}}
    exec(_block("TableVAE").replace("random_state=0)", "random_state=0, max_epochs=5)"), names)
    filled = np.asarray(names["full"]["weight"], float)
    assert set(names["new"]["sex"]) == {"female"}
    assert np.isnan(gaps).any()
    assert np.abs(filled - 2 * size).max() < 1.5


def test_door_2_in_twenty_lines_and_trains():
    code = _block("LatentVariableModel")
    body = code.split("class Encoder")[1]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    names: dict = {}
    exec(code, names)
    trained = names["trained"]
    assert trained.status.succeeded
    # better than eight independent Poisson columns, whose maximum likelihood is at the column means
    x = np.asarray(names["x"], float)
    rate = x.mean(0)
    from scipy.stats import poisson

    independent = poisson.logpmf(x, rate).sum(1).mean()
    assert trained.evaluate(x[:500]).log_evidence.value > independent + 1.0


def test_door_1_prints_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(_block("eight_schools"), names)
    assert "mu" in repr(names["posterior"])
    assert names["draws"]["eta"].shape == (4000, 8)
    assert (tmp_path / "schools" / "posterior.json").exists()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_door_3_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(200, 6))
    names = {"X": x, "labels": np.arange(200) % 10}
    code = _block("qphi.VAE(").replace("random_state=0)", "random_state=0, max_epochs=20, hidden=(32,))")
    exec(code, names)
    assert (tmp_path / "model" / "model.safetensors").exists()
    assert names["z"].shape == (200, 16)
