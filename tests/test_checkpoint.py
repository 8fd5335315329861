"""A run folder that is resumed: refused where it does not belong, whole whatever interrupts the writing."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from qphi import VAE, InputError
from qphi.estimators import store
from qphi.files import atomic_write
from small import quiet_fit, same_bits, vae, vectors

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

    def interrupted() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text() == "old"
    assert not hidden_files(tmp_path)


def test_killed_between_the_files_of_a_checkpoint_the_old_one_is_whole(run, monkeypatch):
    """The arrays of a later checkpoint are on disk, its JSON is not: the fit goes on from the earlier one."""
    expected = quiet_fit(vae(max_epochs=16), vectors())

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        quiet_fit(vae(max_epochs=16), vectors(), run_dir=run, resume=True)
    monkeypatch.undo()
    assert len(list(run.glob("checkpoint-*.safetensors"))) == 2
    resumed = quiet_fit(vae(max_epochs=16), vectors(), run_dir=run, resume=True)
    assert same_bits(resumed.model_, expected.model_)
    assert resumed.history_["step"] == expected.history_["step"]
    assert len(list(run.glob("checkpoint-*.safetensors"))) == 1
