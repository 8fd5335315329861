"""What is on disk: nothing but numbers and plain JSON, whole or not at all, and checked when it is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import qphi
from qphi import VAE, InputError
from qphi.serialise import FORMAT
from small import quiet_fit, same_bits, vae, vectors


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return quiet_fit(vae(max_epochs=8), vectors())


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
    names = (
        "status_",
        "status_text_",
        "n_iter_",
        "best_epoch_",
        "seed_",
        "likelihood_",
        "shape_",
        "n_features_in_",
    )
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


KEYS = (
    "parameters",
    "architecture",
    "scaling",
    "seed",
    "status",
    "status_text",
    "history",
    "sha256",
    "n_iter",
)


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
        lambda values: values["architecture"].update(network="transformer"),
        lambda values: values["architecture"].update(likelihood="cauchy"),
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
