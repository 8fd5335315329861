"""`qphi.data.load`: what each source gives, and what each mistake is answered with."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from PIL import Image

from qphi.data import Dataset, builtin, load
from qphi.data.idx import write_idx
from qphi.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)


def picture(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


# ------------------------------------------------------------------ built in


def test_digits():
    data = load("digits")
    assert (data.x.shape, data.name, data.labels.shape) == ((1797, 8, 8), "digits", (1797,))
    assert (data.x.min(), data.x.max()) == (0, 16)


@pytest.fixture
def mnist_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QPHI_DATA", str(tmp_path))
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.mark.parametrize("names", [("mnist_{}-images-idx3-ubyte.xz", "mnist_{}-labels-idx1-ubyte.gz"),
                                   ("{}-images-idx3-ubyte", "{}-labels-idx1-ubyte"),
                                   ("{}-images.idx3-ubyte", "{}-labels.idx1-ubyte")])  # fmt: skip
@pytest.mark.parametrize(("source", "part"), [("mnist", "train"), ("mnist-test", "t10k")])
def test_mnist_from_qphi_data(mnist_folder, names, source, part):
    x = RNG.integers(0, 256, (3, 28, 28), dtype=np.uint8)
    write_idx(mnist_folder / names[0].format(part), x)
    write_idx(mnist_folder / names[1].format(part), np.arange(3, dtype=np.uint8))
    data = load(source)
    assert data.x.dtype == np.uint8
    assert np.array_equal(data.x, x)
    assert data.labels.tolist() == [0, 1, 2]


def test_mnist_offline_says_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv("QPHI_DATA", raising=False)
    monkeypatch.setenv("QPHI_CACHE", "off")

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    with pytest.raises(InputError, match=r"could not be fetched .* \(no route to host\). Set QPHI_DATA"):
        load("mnist")


def test_mnist_is_fetched_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("QPHI_DATA", raising=False)
    monkeypatch.setenv("QPHI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(builtin, "_TRAIN_ROWS", 3)
    flat = RNG.integers(0, 256, (5, 784)).astype(float)
    calls = []

    def fetch(*_, **__):
        calls.append(1)
        return flat, np.array(["1", "2", "3", "4", "5"], dtype=object)

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    train, test = load("mnist"), load("mnist-test")
    assert len(calls) == 1
    assert train.x.dtype == np.uint8
    assert train.x.shape == (3, 28, 28)
    assert test.labels.tolist() == [4, 5]
    assert np.array_equal(np.concatenate([train.x, test.x]).reshape(5, -1), flat)
    (tmp_path / "cache" / "mnist.npz").write_bytes(b"damaged")
    assert np.array_equal(load("mnist").x, train.x)
    assert len(calls) == 2


def test_frey_needs_qphi_data(mnist_folder, monkeypatch):
    frames = RNG.integers(0, 256, (3, 28, 20), dtype=np.uint8)
    np.savez(mnist_folder / "frey_faces.npz", images=frames)
    assert np.array_equal(load("frey").x, frames)
    monkeypatch.delenv("QPHI_DATA")
    with pytest.raises(InputError, match="set QPHI_DATA"):
        load("frey")


# ------------------------------------------------------------------ folders of pictures


def test_grey_folder_is_sorted_and_keeps_bytes(tmp_path):
    others = [RNG.integers(0, 256, (4, 5), dtype=np.uint8) for _ in range(3)]
    for name, pixels in zip(["b.png", "a.png", "c.PNG"], others, strict=True):
        picture(tmp_path / name, pixels, format="PNG")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._a.png").write_bytes(b"what macOS leaves")
    data = load(tmp_path)
    assert isinstance(data, Dataset)
    assert data.x.dtype == np.uint8
    assert np.array_equal(data.x, np.stack([others[1], others[0], others[2]]))
    assert data.name == tmp_path.name
    assert data.labels is None


def test_subfolders_are_classes(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.jpg"):
        picture(tmp_path / name, GREY)
    data = load(str(tmp_path) + "/")
    assert data.x.shape == (3, 4, 5)
    assert data.labels.tolist() == ["cat", "cat", "dog"]


def test_one_colour_picture_makes_all_colour(tmp_path):
    picture(tmp_path / "a.png", COLOUR)
    picture(tmp_path / "b.png", GREY)
    x = load(tmp_path).x
    assert np.array_equal(x[0], COLOUR)
    assert np.array_equal(x[1], np.repeat(GREY[:, :, None], 3, axis=2))


def test_transparent_pictures_lie_on_white(tmp_path):
    half = np.dstack([COLOUR, np.full((4, 5), 255, np.uint8)])
    half[0, 0] = (10, 20, 30, 0)
    picture(tmp_path / "a.png", half)
    x = load(tmp_path).x[0]
    assert x[0, 0].tolist() == [255, 255, 255]
    assert np.array_equal(x[1:], COLOUR[1:])


def test_transparent_grey_stays_grey(tmp_path):
    picture(tmp_path / "a.png", np.dstack([GREY, np.full((4, 5), 255, np.uint8)]))
    assert np.array_equal(load(tmp_path).x[0], GREY)


def test_16_bits_and_1_bit(tmp_path):
    deep = RNG.integers(0, 65536, (4, 5), dtype=np.uint16)
    picture(tmp_path / "deep" / "a.png", deep)
    assert np.array_equal(load(tmp_path / "deep").x[0], deep)
    Image.fromarray(GREY).convert("1").save(tmp_path / "bit.png")
    (tmp_path / "bits").mkdir()
    (tmp_path / "bit.png").rename(tmp_path / "bits" / "a.png")
    assert set(np.unique(load(tmp_path / "bits").x)) <= {0, 255}


def test_palette_becomes_colour(tmp_path):
    (tmp_path / "p").mkdir()
    Image.fromarray(COLOUR).convert("P").save(tmp_path / "p" / "a.png")
    assert load(tmp_path / "p").x.shape == (1, 4, 5, 3)


def test_camera_rotation_is_carried_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by a quarter to the right
    Image.fromarray(GREY).save(tmp_path / "a.jpg", exif=exif)
    assert load(tmp_path).x.shape == (1, 5, 4)


def test_mixed_sizes_name_the_odd_one(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.png", GREY)
    picture(tmp_path / "odd.png", GREY[:3])
    with pytest.raises(InputError, match=r"odd.png is 5 x 3 pixels, 3 others in .* are 5 x 4"):
        load(tmp_path)


def test_mixed_depths_name_the_odd_one(tmp_path):
    picture(tmp_path / "a.png", GREY)
    picture(tmp_path / "b.png", GREY)
    picture(tmp_path / "c.png", GREY.astype(np.uint16))
    with pytest.raises(InputError, match=r"c.png has 16 bits a channel, others have 8"):
        load(tmp_path)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_unreadable_picture_is_named(tmp_path, damage):
    picture(tmp_path / "good.png", np.tile(COLOUR, (20, 20, 1)))
    raw = (tmp_path / "good.png").read_bytes()
    damaged = {"text": b"no picture", "cut": raw[: len(raw) // 2], "empty": b""}[damage]
    (tmp_path / "bad.png").write_bytes(damaged)
    with pytest.raises(InputError, match=r"cannot read the picture .*bad.png"):
        load(tmp_path)


def test_folder_without_pictures(tmp_path):
    with pytest.raises(InputError, match="it is empty"):
        load(tmp_path)
    (tmp_path / "a.bmp").write_bytes(b"")
    with pytest.raises(InputError, match=r"no PNG or JPEG .*1 \.bmp"):
        load(tmp_path)


def test_single_picture_and_run_folder_are_refused(tmp_path):
    picture(tmp_path / "a.png", GREY)
    with pytest.raises(InputError, match="single picture"):
        load(tmp_path / "a.png")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="is a run folder, not data"):
        load(tmp_path)


# ------------------------------------------------------------------ NumPy and idx files


@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 5), (6, 4, 5, 3)])
@pytest.mark.parametrize("dtype", ["u1", "f4", "f8", "i8", "?"])
def test_npy(tmp_path, shape, dtype):
    x = RNG.integers(0, 2, shape).astype(dtype)
    np.save(tmp_path / "my data.npy", x)
    data = load(tmp_path / "my data.npy")
    assert data.x.dtype == x.dtype
    assert np.array_equal(data.x, x)
    assert data.name == "my-data"


def test_npz_with_one_array_and_labels(tmp_path):
    x = RNG.normal(size=(6, 3))
    np.savez(tmp_path / "a.npz", anything=x, y=np.arange(6))
    data = load(tmp_path / "a.npz")
    assert np.array_equal(data.x, x)
    assert data.labels.tolist() == list(range(6))


@pytest.mark.parametrize("name", ["x", "X", "data", "images"])
def test_npz_prefers_known_names(tmp_path, name):
    np.savez(tmp_path / "a.npz", **{name: np.ones((6, 3)), "other": np.zeros((2, 2))})
    assert load(tmp_path / "a.npz").x.shape == (6, 3)


def test_npz_member_is_picked_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", first=np.ones((6, 3)), second=np.zeros((2, 2)))
    data = load(f"{tmp_path}/a.npz:second")
    assert (data.x.shape, data.name) == ((2, 2), "a-second")
    with pytest.raises(InputError, match=r"several arrays: first, second. Pick one .*a\.npz:first"):
        load(tmp_path / "a.npz")
    with pytest.raises(InputError, match="has no array 'third'; it has first, second"):
        load(f"{tmp_path}/a.npz:third")


def test_idx_with_its_labels(tmp_path):
    x = RNG.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    write_idx(tmp_path / "my-images-idx3-ubyte.gz", x)
    write_idx(tmp_path / "my-labels-idx1-ubyte", np.arange(3, dtype=np.uint8))
    data = load(tmp_path / "my-images-idx3-ubyte.gz")
    assert np.array_equal(data.x, x)
    assert data.labels.tolist() == [0, 1, 2]
    assert data.name == "my-images"


class Trap:
    """Unpickling one of these is seen."""

    def __reduce__(self):
        return (print, ("unpickled!",))


def test_objects_are_never_unpickled(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "b.npz", x=np.array([Trap()], dtype=object))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(InputError, match="never unpickles"):
            load(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_damaged_numpy_files_are_named(tmp_path, name, damage):
    path = tmp_path / name
    (np.save if name == "a.npy" else np.savez)(path, RNG.normal(size=(50, 3)))
    raw = path.read_bytes()
    path.write_bytes({"cut": raw[: len(raw) // 2], "text": b"hello", "empty": b""}[damage])
    with pytest.raises(InputError, match=f"{name}"):
        load(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(5), r"shape \(5,\); needed are images"),
        (np.zeros((2, 2, 2, 2, 2)), "needed are images"),
        (np.zeros((0, 3)), "is empty"),
        (np.array([["a", "b"]]), "real numbers are needed"),
        (np.zeros((2, 3), complex), "real numbers are needed"),
        (np.zeros((2, 3), [("a", "f4")]), "real numbers are needed"),
        (np.zeros((2, 3, 32, 32)), "channels first"),
    ],
)
def test_arrays_that_are_no_data(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        load(tmp_path / "a.npy")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet", "a.TSV"])
def test_tables_are_for_other_commands(tmp_path, name):
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="`qphi fit` takes it"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", "Did you mean digits"),
        ("nothing-like-it", "Built in: digits, mnist, mnist-test, frey"),
        ("no/such/folder/x.npy", r"no such file or folder: .* \(no is not there\)"),
        ("x.csv", "no such file"),
    ],
)
def test_unknown_sources(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        load(source)


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot tell what .* Readable are"):
        load(tmp_path / "a.pkl")


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
def test_sparse_archives_have_their_zeros(form, tmp_path):
    x = np.random.default_rng(0).poisson(0.3, (6, 4))
    scipy.sparse.save_npz(tmp_path / "a.npz", getattr(scipy.sparse, f"{form}_array")(x))
    np.testing.assert_array_equal(load(tmp_path / "a.npz").x, x)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.ones(3), "indices": np.arange(3), "indptr": np.arange(4)}, "cannot read the sparse matrix"),
        ({"data": np.ones((1, 3)), "offsets": [0], "shape": (3, 3), "format": b"dia"}, "format 'dia'"),
        ({"data": np.ones(3), "indices": np.arange(3), "indptr": np.arange(4), "shape": (2, 3)}, "cannot read"),
    ],
    ids=["no shape", "another format", "damaged"],
)
def test_sparse_archives_that_cannot_be_read_say_how_to_save_them(arrays, message, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=f"{message}.*save_npz"):
        load(tmp_path / "a.npz")
