"""What is on disk: nothing but numbers and plain JSON, whole or not at all, and checked when it is read."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
from small import quiet_fit, same_bits, vae, vectors

import qphi
from qphi import VAE, InputError
from qphi.estimators import store
from qphi.files import atomic_write
from qphi.serialise import FORMAT


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=8), vectors())


@pytest.fixture(scope="module")
def other() -> VAE:
    return quiet_fit(vae(max_epochs=8, random_state=1), vectors())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A run folder, as `fit` leaves it."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    quiet_fit(vae(max_epochs=8), vectors(), run_dir=folder)
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


# ---------------------------------------------------------------- what is kept


def test_a_loaded_model_gives_the_same_bits(saved):
    first, loaded = quiet_fit(vae(max_epochs=8), vectors()), qphi.load(saved)
    x = vectors()[:50]
    for use in (
        lambda m: m.encode(x),
        lambda m: m.score_samples(x),
        lambda m: m.sample(20),
        lambda m: m.reconstruct(x),
        lambda m: m.interpolate(x[0], x[1]),
        lambda m: m.model_,
    ):
        assert same_bits(use(first), use(loaded))
    assert loaded.evaluate(x).elbo == first.evaluate(x).elbo


def test_a_loaded_model_knows_how_it_was_fitted(saved, fitted):
    loaded = qphi.load(str(saved))
    names = ("status_", "status_text_", "n_iter_", "best_epoch_", "seed_", "likelihood_", "shape_", "n_features_in_")
    for name in names:
        assert getattr(loaded, name) == getattr(fitted, name), name
    assert {**loaded.history_, "seconds": 0} == {**fitted.history_, "seconds": 0}
    assert loaded.get_params() == fitted.get_params()


def test_a_model_saved_twice_is_the_same_file(fitted, tmp_path):
    fitted.save(tmp_path / "a")
    qphi.load(tmp_path / "a").save(tmp_path / "b")
    for name in ("model.safetensors", "model.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_no_training_row_is_in_any_file(saved):
    x = vectors()
    rows = [x, x.astype(np.float32), vae_scaled(saved, x)]
    contents = b"".join(path.read_bytes() for path in saved.iterdir())
    assert len(list(saved.iterdir())) == 5
    for kind in rows:
        assert not [i for i, row in enumerate(kind) if row.tobytes() in contents]
    numbers = contents.decode("latin1")
    assert not [row for row in x if f"{row[0]:.7g}" in numbers and f"{row[2]:.7g}" in numbers]


def vae_scaled(saved: Path, x: np.ndarray) -> np.ndarray:
    return qphi.load(saved).scaling_.prepare(x)


def test_the_search_for_rows_would_find_one(saved, run):
    x = vae_scaled(saved, vectors())
    (run / "leak.bin").write_bytes(b"..." + x[17].tobytes())
    contents = b"".join(path.read_bytes() for path in run.iterdir())
    assert [i for i, row in enumerate(x) if row.tobytes() in contents] == [17]


def test_there_is_no_pickle_in_any_file(saved):
    from safetensors.numpy import load_file

    for path in saved.iterdir():
        if path.suffix == ".safetensors":
            assert all(array.dtype.kind in "fiu" for array in load_file(path).values())
        else:
            assert path.suffix in (".json", ".csv")
            path.read_text(encoding="utf-8")


def test_metrics_have_a_row_for_each_check(saved, fitted):
    lines = (saved / "metrics.csv").read_text().splitlines()
    assert lines[0].split(",") == list(fitted.history_)
    assert len(lines) == 1 + len(fitted.history_["step"])


# ---------------------------------------------------------------- damage


def test_not_a_folder_of_ours(tmp_path):
    refused(tmp_path, "model.json", "missing", "not a qphi folder")


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        qphi.load(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_cut_off_arrays(run, keep):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(run, str(path), "damaged", "copy")


def test_one_bit_turned_over(run):
    path = run / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    refused(run, str(path), "damaged", "checksum")


def test_missing_arrays(run):
    (run / "model.safetensors").unlink()
    refused(run, "model.safetensors", "missing")


def test_arrays_of_another_fit(run, other):
    other.save(run.parent / "other")
    shutil.copy(run.parent / "other" / "model.safetensors", run)
    refused(run, "model.safetensors", "another fit")


def test_arrays_of_another_architecture(run):
    edit(run, lambda values: values["architecture"].update(latent_dim=3))
    refused(run, "model.safetensors", "does not belong to this model")
    edit(run, lambda values: values["architecture"].update(hidden=[16, 16]))
    refused(run, "model.safetensors", "does not hold this model")


def edit(run: Path, change) -> None:
    path = run / "model.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


KEYS = ("parameters", "architecture", "scaling", "seed", "status", "status_text", "history", "sha256", "n_iter")


@pytest.mark.parametrize("key", KEYS)
def test_a_key_that_is_missing(run, key):
    edit(run, lambda values: values.pop(key))
    refused(run, "model.json", "damaged", key)


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(status="FINE"),
        lambda values: values.update(scaling=7),
        lambda values: values["scaling"].update(mystery=1),
        lambda values: values["architecture"].update(network="transformer", likelihood="poisson"),
        lambda values: values["parameters"].update(learning_speed=9),
        lambda values: values.update(architecture=[1]),
    ],
)
def test_values_that_make_no_sense(run, change):
    edit(run, change)
    refused(run, "model.json", "damaged")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"a": 1}', "\x80"])
def test_json_that_is_not_ours(run, text):
    (run / "model.json").write_bytes(text.encode("latin1"))
    refused(run, "model.json")


def test_a_newer_format(run):
    edit(run, lambda values: values.update(format=FORMAT + 1, qphi="9.9"))
    refused(run, "model.json", f"format {FORMAT + 1}", "qphi 9.9", "newer qphi")


# ---------------------------------------------------------------- resuming


def resume_refused(model: VAE, x, folder: Path, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        model.fit(x, run_dir=folder, resume=True)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_nothing_to_resume(tmp_path):
    resume_refused(vae(), vectors(), tmp_path, "checkpoint.json", "missing")


def test_a_run_of_other_data_or_settings_is_not_resumed(run):
    x = vectors()
    x[0, 0] += 1e-9
    resume_refused(vae(), x, run, str(run), "other data")
    resume_refused(vae(latent_dim=3), vectors(), run, "another architecture")
    resume_refused(vae(hidden=(17,)), vectors(), run, "another architecture")
    resume_refused(vae(beta=2), vectors(), run, "another beta")
    resume_refused(vae(random_state=3), vectors(), run, "seed 0, not 3")


def test_resume_without_a_folder_is_no_silent_new_fit():
    with pytest.raises(InputError, match="run_dir"):
        vae().fit(vectors(), resume=True)


@pytest.mark.parametrize("position", [-40, -4000])
def test_a_damaged_checkpoint_is_not_resumed(run, position):
    (path,) = run.glob("checkpoint-*.safetensors")
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    resume_refused(vae(), vectors(), run, path.name, "damaged")


def test_a_checkpoint_without_its_arrays_is_not_resumed(run):
    (path,) = run.glob("checkpoint-*.safetensors")
    path.unlink()
    resume_refused(vae(), vectors(), run, path.name, "missing")


@pytest.mark.parametrize("key", ["seed", "settings", "history", "seconds", "arrays", "sha256"])
def test_a_checkpoint_with_a_key_missing_is_not_resumed(run, key):
    values = json.loads((run / "checkpoint.json").read_text())
    del values[key]
    (run / "checkpoint.json").write_text(json.dumps(values))
    resume_refused(vae(), vectors(), run, "checkpoint.json", key)


def test_a_refused_resume_leaves_no_mixture_of_two_fits(run):
    model = quiet_fit(vae(max_epochs=8), vectors())
    before = model.transform(vectors())
    resume_refused(vae(), vectors(1), run, "other data")
    assert np.array_equal(model.transform(vectors()), before)


# ---------------------------------------------------------------- writing that fails


def hidden_files(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_an_interrupted_save_leaves_the_old_model_whole(run, other, monkeypatch, broken):
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space left"):
        other.save(run)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_full_disk_is_an_os_error_and_leaves_nothing_behind(run, other, monkeypatch):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))  # the system itself refuses longer files
    try:
        with pytest.raises(OSError, match="File too large"):
            other.save(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert not hidden_files(tmp_path)


def test_killed_between_the_files_of_a_checkpoint_the_old_one_is_whole(run, monkeypatch):
    """The arrays of a later checkpoint are on disk, its JSON is not: the fit goes on from the earlier one."""
    expected = quiet_fit(vae(max_epochs=16), vectors())

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(store, "write_json", killed)
        quiet_fit(vae(max_epochs=16), vectors(), run_dir=run, resume=True)
    assert len(list(run.glob("checkpoint-*.safetensors"))) == 2
    resumed = quiet_fit(vae(max_epochs=16), vectors(), run_dir=run, resume=True)
    assert same_bits(resumed.model_, expected.model_)
    assert resumed.history_["step"] == expected.history_["step"]
    assert len(list(run.glob("checkpoint-*.safetensors"))) == 1
