"""The command line: every mistake is one line and an exit code, and the whole way from data to report."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qphi.cli import fit as fit_module
from qphi.cli import setup
from qphi.cli.duration import parse_seconds
from qphi.cli.main import main
from qphi.errors import InputError
from qphi.files import atomic_write, cache_folder, check_writable
from qphi.status import Status

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(40, 3)) @ RNG.normal(size=(3, 3))
# One set of sizes and flags for every fit here, so that it compiles once
EPOCHS, SMALL = 30, ["--latent-dim", "2", "--epochs", "30"]


def files_under(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    """An empty working directory, no cache, wide lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QPHI_CACHE", "off")
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def call(capsys):
    """Runs a command; gives its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def images(count: int = 48) -> np.ndarray:
    """Bright bars on dark ground, 6 x 6, whose place and width vary."""
    x = np.zeros((count, 6, 6), np.uint8)
    for row, start in zip(x, RNG.integers(0, 5, count), strict=True):
        row[:, start : start + 2] = 200
    return x + RNG.integers(0, 40, x.shape, dtype=np.uint8)


def fitted(folder: Path, x: np.ndarray) -> tuple[Path, Path]:
    """A run folder and the data it was fitted to, made once for all tests of this file."""
    folder.mkdir()
    np.save(folder / "x.npy", x)
    here = os.getcwd()
    os.environ["QPHI_CACHE"] = "off"
    os.chdir(folder)
    try:
        assert main(["fit", "x.npy", *SMALL, "--out", "run"]) == 0
    finally:
        os.chdir(here)
    return folder / "run", folder / "x.npy"


@pytest.fixture(scope="module")
def fitted_images(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("cli") / "images", images())


@pytest.fixture(scope="module")
def fitted_vectors(tmp_path_factory):
    return fitted(tmp_path_factory.mktemp("cli") / "vectors", VECTORS)


@pytest.fixture
def no_report(monkeypatch):
    """Drawing takes seconds; where it is not the point it is left out."""
    monkeypatch.setattr("qphi.report.write_report", lambda folder, *_: folder / "report.html")


@pytest.fixture
def run_and_data(fitted_images, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(fitted_images[0], tmp_path / "run")
    shutil.copy(fitted_images[1], tmp_path / "x.npy")
    return Path("run"), Path("x.npy")


# ------------------------------------------------------------------ help


TOOLS = ("traverse", "attribute", "arithmetic", "neighbours", "map", "diagnose")
COMMANDS = ("fit", "sample", "encode", "decode", "reconstruct", "interpolate", *TOOLS, "evaluate", "report")


def test_help_lists_the_commands(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(command in out for command in COMMANDS)
    assert call()[1] == out


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_teaches_by_examples(call, command):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"qphi {command}" in out.split("Examples")[1]


def test_help_states_the_defaults_of_the_estimator(call):
    import qphi

    vae, out = qphi.VAE(), call("fit", "--help")[1]
    defaults = {"latent-dim": vae.latent_dim, "likelihood": vae.likelihood, "beta": f"{vae.beta:g}"}
    for flag, default in defaults.items():
        assert f"[default: {default}]" in out.split(f"--{flag}")[1].split("--")[0]
    assert vae.max_epochs is None
    assert vae.max_time is None


def test_version(call):
    import qphi

    assert call("--version") == (0, f"qphi {qphi.__version__}\n", "")


def test_help_imports_nothing_heavy():
    code = "import sys, qphi.cli.main as m; m.main(['--help']); print([x for x in %r if x in sys.modules])"
    heavy = ("jax", "sklearn", "matplotlib", "equinox", "numpyro", "PIL")
    environment = os.environ | {"PYTHONPATH": str(Path(setup.__file__).parents[2])}
    command = [sys.executable, "-c", code % (heavy,)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"


# ------------------------------------------------------------------ bad input


def fails(result: tuple[int, str, str], code: int, *fragments: str) -> None:
    """Exit code; exactly one line on standard error, `error: ...`, with these fragments; nothing else."""
    got, out, err = result
    assert (got, out) == (code, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for fragment in fragments:
        assert fragment in err


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["fit", "digits", "--latentdim", "3"], ["--latentdim", "qphi fit --help"]),
        (["fit", "digits", "--latent-dim", "0"], ["--latent-dim"]),
        (["fit", "digits", "--latent-dim", "two"], ["--latent-dim", "valid integer"]),
        (["fit", "digits", "--likelihood", "poison"], ["--likelihood", "continuous-bernoulli"]),
        (["fit", "digits", "--beta", "-1"], ["--beta"]),
        (["fit", "digits", "--prior", "ladder"], ["posterior='diagonal'", "Let both be 'ladder'"]),
        (["fit", "digits", "--bound", "iwae", "--beta", "2"], ["beta=2", "bound='elbo'"]),
        (["fit", "digits", "--epochs", "0"], ["--epochs"]),
        (["fit", "digits", "--max-time", "soon"], ["--max-time soon", "1h30m"]),
        (["fit", "digits", "--max-time", "0"], ["more than 0"]),
        (["fit", "digits", "--device", "abacus"], ["--device", "cpu"]),
        (["fit"], ["SOURCE"]),
        (["fit", "digitz"], ["Did you mean digits"]),
        (["fit", "nowhere/x.npy"], ["no such file or folder", "nowhere"]),
        (["fit", "digits", "--resume"], ["no run to resume"]),
        (["fit", "digits", "--resume", "--out", "elsewhere"], ["no run to resume in elsewhere"]),
        (["fot", "digits"], ["fot", "fit"]),
        (["sample", "nowhere"], ["no run folder nowhere", "qphi fit"]),
        (["sample", "."], ["is not a run folder", "model.json"]),
        (["report", "nowhere"], ["no run folder"]),
    ],
)  # fmt: skip
def test_bad_input(call, workplace, arguments, fragments):
    fails(call(*arguments), 2, *fragments)
    assert not list(workplace.iterdir())


@pytest.mark.parametrize(
    ("x", "flags", "fragment"),
    [
        (np.zeros((0, 4)), [], "empty"),
        (np.arange(5.0), [], "needed are images"),
        (np.full((9, 4, 4), 7.0), [], "every value"),
        (np.array([[1.0, 2.0], [1.0, 3.0], [1.0, 5.0]]), [], "constant"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), [], "NaN"),
        (RNG.normal(size=(9, 4, 4)), ["--likelihood", "bernoulli"], "gaussian"),
        (RNG.normal(size=(9, 4)), ["--likelihood", "continuous-bernoulli"], "gaussian"),
    ],
)
def test_data_that_do_not_fit_leave_nothing_behind(call, workplace, x, flags, fragment):
    np.save("x.npy", x)
    fails(call("fit", "x.npy", *flags), 2, fragment)
    assert [p.name for p in workplace.iterdir()] == ["x.npy"]


def test_mixed_sizes_name_the_picture(call, workplace):
    for i, width in enumerate((5, 5, 6)):
        Image.new("L", (width, 5), i).save(f"{i}.png")
    before = files_under(workplace)
    fails(call("fit", workplace), 2, "2.png is 6 x 5 pixels")
    assert files_under(workplace) == before


@pytest.mark.parametrize("out", [[], ["--out", "qphi-runs/x"]])
def test_an_existing_folder_is_not_touched(call, workplace, out):
    np.save("x.npy", images())
    Path("qphi-runs/x").mkdir(parents=True)
    Path("qphi-runs/x/thesis.txt").write_text("years of work")
    before = files_under(workplace)
    fails(call("fit", "x.npy", *out), 2, "exists and is not empty", "--out", "--resume")
    assert files_under(workplace) == before


def test_out_that_is_a_file(call):
    Path("taken").write_text("")
    fails(call("fit", "digits", "--out", "taken"), 2, "taken is a file")


# ------------------------------------------------------------------ from data to report


def test_fit_leaves_a_run_folder(fitted_images):
    run, data = fitted_images
    names = {p.name for p in run.iterdir()}
    assert {"model.safetensors", "model.json", "metrics.csv", "run.json", "report.html"} <= names
    assert not [name for name in names if name.startswith(".")]
    record = json.loads((run / "run.json").read_text())
    assert record["source"] == str(data)
    assert record["arguments"] == {"random_state": 0, "max_epochs": EPOCHS, "latent_dim": 2}


def test_fit_says_how_it_ended(call, no_report):
    np.save("x.npy", np.round(10 * VECTORS).astype(int))
    code, out, err = call("fit", "x.npy", *SMALL, "--seed", "3")
    assert code == 0
    assert Status.MAX_STEPS.advice in out
    for words in ("held-out ELBO", "±", "nats per datum", "KL", "bits per dimension", "active units", "of 2"):
        assert words in out
    assert str(Path("qphi-runs/x/report.html")) in out
    assert f"of at most {EPOCHS}: ELBO" in err
    assert "held-out ELBO" in err
    assert "Warning" not in err


def test_sample(call, run_and_data):
    run, _ = run_and_data
    code, out, _ = call("sample", run, "-n", 5)
    assert code == 0
    assert str(run / "samples.png") in out
    samples = np.load(run / "samples.npy")
    assert samples.shape == (5, 6, 6)
    with Image.open(run / "samples.png") as picture:
        assert picture.mode == "L"
    call("sample", run, "-n", 5, "--seed", 0, "-o", "again.png")
    assert np.array_equal(np.load("again.npy"), samples)
    call("sample", run, "-n", 5, "--seed", 1, "-o", "other")
    assert not np.array_equal(np.load("other.npy"), samples)
    assert Path("other.png").is_file()


def test_encode_and_decode(call, run_and_data):
    import qphi

    run, data = run_and_data
    assert call("encode", run, data)[0] == 0
    z = np.load(run / "z.npz")
    vae = qphi.load(run)
    assert np.array_equal(z["mean"], vae.transform(np.load(data)))
    assert z["scale"].shape == z["mean"].shape == (48, 2)
    assert (z["scale"] > 0).all()
    assert call("encode", run, data, "-o", "means.npy")[0] == 0
    assert np.array_equal(np.load("means.npy"), z["mean"])
    assert call("decode", run, run / "z.npz")[0] == 0
    assert np.array_equal(np.load(run / "decoded.npy"), vae.reconstruct(np.load(data)))
    np.save("one.npy", np.zeros(2))
    assert call("decode", run, "one.npy", "-o", "one-x.npy")[0] == 0
    assert np.load("one-x.npy").shape == (1, 6, 6)


def test_reconstruct_and_interpolate(call, run_and_data):
    import qphi

    run, data = run_and_data
    x, vae = np.load(data), qphi.load(run)
    assert call("reconstruct", run, data, "-n", 18)[0] == 0
    assert np.array_equal(np.load(run / "reconstructions.npy"), vae.reconstruct(x[:18]))
    assert call("reconstruct", run, data, "-n", 4, "--nearest", "-o", "near.npy")[0] == 0
    assert np.array_equal(np.load("near.npy"), vae.reconstruct(x[:4], nearest=True))
    with Image.open(run / "reconstructions.png") as picture:
        # 18 pairs: twice two lines of 16 tiles, nine times as large, with gaps of 2
        assert picture.size == (16 * (54 + 2) - 2, 4 * (54 + 2) - 2)
    assert call("interpolate", run, data, "--between", 3, 17, "--steps", 5)[0] == 0
    assert np.array_equal(np.load(run / "interpolation.npy"), vae.interpolate(x[3], x[17], steps=5))


def test_moving_about_in_latent_space(call, run_and_data):
    import qphi

    run, data = run_and_data
    x, vae = np.load(data), qphi.load(run)
    assert call("traverse", run, "--unit", 1, "--steps", 5)[0] == 0
    assert np.array_equal(np.load(run / "unit-1.npy"), vae.traverse(1, steps=5))
    assert call("arithmetic", run, data, "--plus", 3, "--plus", 9, "--minus", 4)[0] == 0
    assert np.array_equal(np.load(run / "arithmetic.npy")[0], vae.arithmetic(x[[3, 9]], x[[4]]))
    code, out, _ = call("neighbours", run, data, "--row", 3, "-n", 2)
    places, _ = vae.neighbours(x[[3]], x, k=3)
    assert code == 0
    assert out.startswith(f"row 3: {places[0, 1]} (")
    assert np.array_equal(np.load(run / "neighbours.npy"), x[places[0]])
    labels = np.arange(len(x)) % 2
    np.savez("labelled.npz", x=x, labels=labels)
    assert call("attribute", run, "labelled.npz", "--label", 1, "--row", 2)[0] == 0
    moved = np.load(run / "attribute.npy")
    assert np.array_equal(moved[4], vae.reconstruct(x[[2]])[0])
    assert call("attribute", run, data, "--label", 1)[0] == 2
    assert call("map", run, data)[0] == 0
    with Image.open(run / "map.png") as picture:
        assert min(picture.size) > 300
    assert call("arithmetic", run, data, "--plus", 48)[0] == 2
    assert call("interpolate", run, data, "--path", "spherical", "-o", "arc.npy")[0] == 0
    assert np.array_equal(np.load("arc.npy"), vae.interpolate(x[0], x[1], path="spherical"))


def test_diagnose(call, run_and_data):
    import qphi

    run, data = run_and_data
    code, out, _ = call("diagnose", run, data)
    assert code == 0
    assert out.split() == str(qphi.load(run).diagnose(np.load(data))).split()


def test_evaluate(call, run_and_data):
    run, data = run_and_data
    code, out, _ = call("evaluate", run, data, "--particles", 8, "--rows", 10)
    assert code == 0
    for words in ("10 rows", "ELBO", "E_q[log p(x|z)]", "KL", "log p(x)", "±", "bits per dimension"):
        assert words in out
    assert "fewer than 25 weights" in out
    code, out, _ = call("evaluate", run, data, "--particles", 30, "--gaps", "--quality")
    for words in ("Pareto k", "amortisation gap", "at beta 0.3", "precision, recall", "mutual information"):
        assert words in out
    code, out, err = call("evaluate", run, data, "--particles", 8, "--rows", 10, "--json")
    figures = json.loads(out)
    assert (code, err, figures["n"], figures["latent_dim"]) == (0, "", 10, 2)
    values = {name: figures[name]["value"] for name in ("elbo", "log_likelihood", "kl", "log_evidence")}
    assert values["elbo"] == pytest.approx(values["log_likelihood"] - values["kl"])
    assert values["elbo"] <= values["log_evidence"]  # the mean of 8 log weights and the log of their mean
    assert call("evaluate", run, data, "--particles", 8, "--rows", 10, "--json")[1] == out


def test_report_is_made_again(call, run_and_data):
    run, _ = run_and_data
    (run / "report.html").unlink()
    assert call("report", run)[0] == 0
    assert (run / "report.html").stat().st_size > 10_000


def test_vectors_have_no_pictures(call, fitted_vectors):
    run, data = fitted_vectors
    for arguments in (["sample", run], ["reconstruct", run, data], ["interpolate", run, data]):
        code, out, _ = call(*arguments)
        assert code == 0
        assert "rows as an array" in out
    assert not list(run.glob("*.png"))
    assert np.load(run / "samples.npy").shape == (64, 3)


# ------------------------------------------------------------------ runs that are wrong, or cannot be written


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["interpolate", "run", "x.npy", "--between", "0", "48"], ["--between 48", "rows 0 to 47"]),
        (["interpolate", "run", "x.npy", "--between", "-1", "2"], ["--between -1"]),
        (["interpolate", "run", "x.npy", "--steps", "1"], ["--steps"]),
        (["sample", "run", "-n", "0"], ["-n"]),
        (["sample", "run", "-o", "a.jpg"], [".png or .npy"]),
        (["sample", "run", "-o", "no/folder/a.png"], ["there is no folder no/folder"]),
        (["sample", "run", "-o", "."], ["."]),
        (["encode", "run", "digits"], ["(8, 8)", "(6, 6)"]),
        (["encode", "run", "x.npy", "-o", "z.csv"], [".npz or .npy"]),
        (["encode", "run", "run"], ["is a run folder, not data"]),
        (["decode", "run", "missing.npy"], ["there is no file missing.npy"]),
        (["decode", "run", "x.npy"], ["shape (48, 6, 6)", "(n, latent_dim)"]),
        (["decode", "run", "wide.npy"], ["(3, 5)", "(n, 2)"]),
        (["evaluate", "run", "x.npy", "--particles", "0"], ["--particles"]),
        (["fit", "x.npy", "--out", "run"], ["exists and is not empty"]),
        (["fit", "x.npy", "--out", "run", "--resume", "--latent-dim", "3"], ["--latent-dim 2, not 3"]),
        (["fit", "x.npy", "--out", "run", "--resume", "--seed", "1"], ["--seed 0, not 1"]),
        (["fit", "digits", "--out", "run", "--resume"], ["was fitted to", "[48, 6, 6]", "digits"]),
        (["fit", "changed.npy", "--out", "run", "--resume"], ["other data"]),
    ],
)  # fmt: skip
def test_bad_input_with_a_run(call, workplace, run_and_data, arguments, fragments):
    np.save("wide.npy", np.zeros((3, 5)))
    np.save("changed.npy", np.load("x.npy")[::-1])
    before = files_under(workplace)
    fails(call(*arguments), 2, *fragments)
    assert files_under(workplace) == before


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_model_files_are_named(call, workplace, run_and_data, name, damage):
    path = run_and_data[0] / name
    raw = path.read_bytes()
    path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"hello", "empty": b""}[damage])
    before = files_under(workplace)
    fails(call("sample", "run"), 2, name)
    assert files_under(workplace) == before


def test_a_missing_weights_file_is_named(call, run_and_data):
    (run_and_data[0] / "model.safetensors").unlink()
    fails(call("sample", "run"), 2, "model.safetensors")


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', '{"source": 3}'])
def test_a_damaged_record_is_named(call, run_and_data, text):
    (run_and_data[0] / "run.json").write_text(text)
    fails(call("fit", "x.npy", "--out", "run", "--resume"), 2, "run.json is damaged")


def test_a_run_without_a_model_says_how_to_go_on(call, run_and_data):
    (run_and_data[0] / "model.json").unlink()
    fails(call("sample", "run"), 2, "has no model yet", "--out run --resume")


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


@pytest.mark.parametrize(
    ("arguments", "broken"), [(["sample", "run"], "numpy.save"), (["encode", "run", "x.npy"], "numpy.savez")]
)
def test_a_full_disk_leaves_nothing_half_written(call, workplace, run_and_data, monkeypatch, arguments, broken):
    before = files_under(workplace)
    monkeypatch.setattr(broken, full_disk)
    fails(call(*arguments), 1, "the disk is full", "-o")
    assert files_under(workplace) == before


@pytest.mark.parametrize("broken", ["qphi.cli.run_folder.atomic_write", "qphi.estimators.store.save_arrays"])
def test_a_fit_on_a_full_disk(call, workplace, monkeypatch, broken):
    np.save("x.npy", VECTORS)
    monkeypatch.setattr(broken, full_disk)
    code, out, err = call("fit", "x.npy", *SMALL)
    assert (code, out) == (1, "")
    assert "error: the disk is full" in err
    assert "Traceback" not in err
    assert [p.name for p in workplace.iterdir()] == ["x.npy"]


# ------------------------------------------------------------------ going on, being stopped


def test_resume_with_more_epochs(call, run_and_data, no_report):
    run, data = run_and_data
    before = json.loads((run / "model.json").read_text())["n_iter"]
    record = json.loads((run / "run.json").read_text())
    code, out, _ = call("fit", data, "--out", run, "--resume", "--epochs", 2 * EPOCHS)
    assert code == 0, out
    assert json.loads((run / "model.json").read_text())["n_iter"] > before
    again = json.loads((run / "run.json").read_text())
    assert again["arguments"] == record["arguments"] | {"max_epochs": 2 * EPOCHS}


def test_resume_before_the_first_checkpoint_begins_again(call, run_and_data, no_report):
    run, data = run_and_data
    for path in run.iterdir():
        if path.name != "run.json":
            path.unlink()
    assert call("fit", data, "--out", run, "--resume")[0] == 0
    assert (run / "model.json").is_file()


def test_ctrl_c_keeps_the_best_model(call, no_report):
    np.save("x.npy", VECTORS)

    def press_when_training_has_begun():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not pressed.is_set():
            if begun.wait(0.05):
                os.kill(os.getpid(), signal.SIGINT)
                return

    begun, pressed = threading.Event(), threading.Event()
    original = fit_module.FitDisplay.__call__

    def watched(self, progress):
        original(self, progress)
        begun.set()

    thread = threading.Thread(target=press_when_training_has_begun)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module.FitDisplay, "__call__", watched)
        thread.start()
        try:
            code, out, err = call("fit", "x.npy", *SMALL[:2], "--out", "run")
        finally:
            pressed.set()
            thread.join()
    assert "Traceback" not in err
    assert code == 130
    assert Status.INTERRUPTED.advice in out
    assert Path("run/model.json").is_file()


def test_a_fit_that_turns_not_finite_exits_with_3(call, monkeypatch, no_report):
    import qphi

    class Broken(qphi.VAE):
        def fit(self, *arguments, **options):
            super().fit(*arguments, **options)
            self.status_, self.status_text_ = Status.NOT_FINITE, "the gradient was not finite at step 7"
            return self

    monkeypatch.setattr(qphi, "VAE", Broken, raising=False)
    np.save("x.npy", VECTORS)
    code, out, _ = call("fit", "x.npy", *SMALL)
    assert code == 3
    assert "not finite at step 7" in out
    assert Status.NOT_FINITE.advice in out


# ------------------------------------------------------------------ errors in general


@pytest.mark.parametrize(
    ("error", "code", "fragment"),
    [
        (InputError("two\n lines"), 2, "error: two lines"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "no such file or folder: x"),
        (PermissionError(errno.EACCES, "denied", "x"), 1, "permission denied: x"),
        (OSError(errno.ENOSPC, "full", "x"), 1, "the disk is full: x"),
        (MemoryError("8 GiB"), 1, "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), 1, "out of memory"),
        (KeyError("x"), 1, "KeyError: 'x'. This is unexpected: run again with --debug"),
        (ValueError("from NumPy"), 1, "ValueError: from NumPy. This is unexpected"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_error_is_one_line(call, monkeypatch, error, code, fragment):
    def load(_):
        raise error

    monkeypatch.setattr("qphi.data.load", load)
    fails(call("fit", "x.npy"), code, fragment)
    got, _, err = call("fit", "x.npy", "--debug")
    assert got == code
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("1.5 H", 5400), ("2min", 120)],
)
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "5x", "-3", "5m 3", "1m2m", "1e3", "nan", "0s"])
def test_no_durations(text):
    with pytest.raises(InputError, match="--max-time"):
        parse_seconds(text)


# ------------------------------------------------------------------ files and caches


def interrupted_write(path):
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt


def test_atomic_write_replaces_or_leaves_alone(tmp_path):
    path = tmp_path / "z.npy"
    for value in (1, 2):
        with atomic_write(path) as temporary:
            np.save(temporary, np.full(3, value))
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert np.load(path).tolist() == [2, 2, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["z.npy"]


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "a") == tmp_path / "a"
    with pytest.raises(InputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="there is no folder"):
        check_writable(tmp_path / "b" / "a")


def test_cache_folder(tmp_path, monkeypatch):
    assert cache_folder() is None  # QPHI_CACHE=off
    monkeypatch.setenv("QPHI_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("QPHI_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "qphi"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "qphi"


@pytest.fixture
def jax_settings(monkeypatch):
    import jax

    settings = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    return settings


def test_compilation_cache_is_turned_on(tmp_path, monkeypatch, jax_settings):
    monkeypatch.setenv("QPHI_CACHE", str(tmp_path / "cache"))
    setup.prepare()
    assert jax_settings["jax_compilation_cache_dir"] == str(tmp_path / "cache" / "jax")
    assert jax_settings["jax_persistent_cache_min_compile_time_secs"] == 0.2
    assert (tmp_path / "cache" / "jax").is_dir()


@pytest.mark.parametrize("why", ["off", "a file is in the way", "the user has one"])
def test_compilation_cache_stays_off(tmp_path, monkeypatch, jax_settings, why):
    (tmp_path / "file").write_text("")
    if why == "a file is in the way":
        monkeypatch.setenv("QPHI_CACHE", str(tmp_path / "file" / "cache"))
    if why == "the user has one":
        monkeypatch.setenv("QPHI_CACHE", str(tmp_path))
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    setup.prepare()
    assert jax_settings == {}
