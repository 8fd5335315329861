"""`qphi infer` and `qphi check`: what they print, leave behind and end with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import qphi
from qphi.cli.main import main

MODEL = """
print("read")
import jax.numpy as jnp
import numpyro, numpyro.distributions as dist
from numpyro.distributions import constraints

def normal(y, scale=1.0):
    mu = numpyro.sample("mu", dist.Normal(0, 2))
    numpyro.sample("y", dist.Normal(mu, scale), obs=y)

def improper(y):
    numpyro.sample("free", dist.ImproperUniform(constraints.real, (), ()))
    normal(y)

def broken(y):
    numpyro.factor("nothing", jnp.log(-1.0) + numpyro.sample("x", dist.Normal(0, 1)))

def talks(y):
    print("inside")
    normal(y)

def raises(y):
    raise KeyError("inside")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPHI_CACHE", "off")
    Path("m.py").write_text(MODEL)
    Path("d.json").write_text('{"y": [0.3, -1.2, 2.0], "unused": "words"}')
    return tmp_path


def test_infer_leaves_a_posterior_and_a_page(folder, capsys):
    assert main(["infer", "m.py:normal", "--data", "d.json"]) == 0
    printed = capsys.readouterr().out
    assert "Posterior: trusted" in printed
    assert "mu" in printed
    run = folder / "qphi-runs" / "normal"
    assert {path.name for path in run.iterdir()} == {"posterior.json", "posterior.safetensors", "report.html"}
    page = (run / "report.html").read_text()
    assert page.index("Trusted: q is within") < page.index("<th>mean</th>") < page.index("data:image/png")
    assert str(folder) not in page
    assert qphi.load(run).verdict.trust == "trusted"
    assert main(["infer", "m.py:normal", "--data", "d.json"]) == 2
    assert "exists and is not empty" in capsys.readouterr().err


def test_csv_and_json_give_the_same_and_figures_for_programs(folder, capsys):
    (folder / "d.csv").write_text("y,other\n0.3,1\n-1.2,2\n2.0,3\n")
    assert main(["infer", "m.py:normal", "--data", "d.csv", "--json", "-o", "a"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main(["infer", "m.py:normal", "--data", "d.json", "--json", "-o", "b"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["table"] == second["table"]
    assert first["table"][0]["mean"] == pytest.approx(1.1 / 3.25, abs=1e-3)
    assert first["verdict"] == "trusted"


def test_what_the_model_prints_is_not_in_the_object(folder, capsys):
    assert main(["infer", "m.py:talks", "--data", "d.json", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["verdict"] == "trusted"
    assert "read" in printed.err
    assert "inside" in printed.err


def test_exit_codes_tell_unreliable_from_failed_from_bad_input(folder, capsys):
    assert main(["infer", "m.py:improper", "--data", "d.json"]) == 4
    assert "the posterior is improper" in capsys.readouterr().out
    assert main(["infer", "m.py:broken", "--data", "d.json"]) == 2
    assert "None of 100 starts has a finite log density" in capsys.readouterr().err
    assert not (folder / "qphi-runs" / "broken").exists()


def test_check_says_what_is_wrong_without_fitting(folder, capsys):
    assert main(["check", "m.py:normal", "--data", "d.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": ok") == 5
    assert "1 unconstrained coordinate; values: mu" in printed
    assert main(["check", "m.py:improper", "--data", "d.json"]) == 4
    assert "proper: log p does not fall far out along free" in capsys.readouterr().out


BAD = {
    "unwritable": (["infer", "m.py:normal", "--data", "d.json", "-o", "/proc/x"], "the folder /proc/x cannot be made"),
    "not npz": (
        ["infer", "m.py:normal", "--data", "bad.npz"],
        "bad.npz cannot be read as .npz: it is damaged",
    ),
    "no name": (["infer", "m.py"], "m.py names no model"),
    "no file": (["infer", "n.py:normal"], "there is no file n.py"),
    "no function": (
        ["infer", "m.py:normol"],
        "m.py has no function 'normol'; it has normal, improper, broken, talks",
    ),
    "no data": (["infer", "m.py:normal"], "the model needs y; no --data was given"),
    "wrong names": (["infer", "m.py:normal", "--data", "x.json"], "the model needs y; x.json has z"),
    "not json": (["infer", "m.py:normal", "--data", "bad.json"], "bad.json is not JSON"),
    "ragged": (["infer", "m.py:normal", "--data", "ragged.json"], "ragged.json: y is a ragged list"),
    "text": (["infer", "m.py:normal", "--data", "bad.csv"], "bad.csv, line 3, column y: 'two' is not a number"),
    "missing cell": (["infer", "m.py:normal", "--data", "gap.csv"], "gap.csv, line 3: 1 cells, the header has 2"),
    "nan": (["infer", "m.py:normal", "--data", "nan.csv"], "nan.csv, line 2, column y: 'nan' is not finite"),
    "kind": (["infer", "m.py:normal", "--data", "m.py"], "m.py is neither .json, .csv nor .npz"),
    "raises": (["infer", "m.py:raises", "--data", "d.json"], "The NumPyro program raised KeyError: 'inside'"),
    "syntax": (["infer", "s.py:normal"], "s.py could not be run: SyntaxError"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(folder, capsys, name):
    (folder / "x.json").write_text('{"z": [1]}')
    (folder / "bad.json").write_text('{"y": [1,')
    (folder / "ragged.json").write_text('{"y": [[1, 2], [3]]}')
    (folder / "bad.csv").write_text("y\n1\ntwo\n")
    (folder / "gap.csv").write_text("y,x\n1,2\n3\n")
    (folder / "bad.npz").write_text("not an archive")
    (folder / "nan.csv").write_text("y\nnan\n")
    (folder / "s.py").write_text("def normal(:\n")
    arguments, message = BAD[name]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said.replace("\n", " ")
    assert "Traceback" not in said
    assert not (folder / "qphi-runs").exists()
