"""idx files: what is written comes back, and damage is named."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from qphi.data.idx import is_idx_name, read_idx, write_idx
from qphi.errors import InputError


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_round_trip(tmp_path, dtype, packing):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / f"x-idx3-ubyte{packing}"
    write_idx(path, array)
    back = read_idx(path)
    assert back.dtype == array.dtype
    assert back.dtype.isnative
    assert np.array_equal(back, array)


def test_reads_the_published_layout(tmp_path):
    """Two labels, as yann.lecun.com describes the format: 00 00 08 01, the size, the bytes."""
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(b"\x00\x00\x08\x01" + struct.pack(">I", 2) + b"\x05\x09")
    assert read_idx(path).tolist() == [5, 9]


def test_result_can_be_written_to(tmp_path):
    write_idx(tmp_path / "x-ubyte", np.zeros((2, 2), np.uint8))
    read_idx(tmp_path / "x-ubyte")[0, 0] = 1


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "begins with nothing"),
        (b"PK\x03\x04", "not an idx file: it begins with 50 4b 03 04"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x00", "not an idx file"),
        (b"\x00\x00\x08\x00", "not an idx file"),
        (b"\x00\x00\x08\x03\x00\x00", "cut off within its header of 16 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abc", r"cut off: .* says 5 entries of uint8 \(5 bytes\), but 3"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x02abc", "too long"),
    ],
)
def test_damage_is_named(tmp_path, raw, message):
    path = tmp_path / "x-ubyte"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=message) as error:
        read_idx(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("packing", [".gz", ".xz"])
@pytest.mark.parametrize("damage", ["cut", "not packed"])
def test_damaged_packing_is_named(tmp_path, packing, damage):
    path = tmp_path / f"x-ubyte{packing}"
    write_idx(path, np.random.default_rng(0).integers(0, 255, (20, 20)).astype(np.uint8))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] if damage == "cut" else b"hello, this is text")
    with pytest.raises(InputError, match="cannot be unpacked"):
        read_idx(path)


def test_flipped_bits_in_gzip_are_seen(tmp_path):
    path = tmp_path / "x-ubyte.gz"
    raw = bytearray(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x03abc"))
    raw[12] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(InputError):
        read_idx(path)


def test_types_without_a_code_are_refused(tmp_path):
    with pytest.raises(InputError, match="not int64"):
        write_idx(tmp_path / "x-ubyte", np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train-images-idx3-ubyte", True),
        ("train-images.idx3-ubyte.gz", True),
        ("mnist_train-images-idx3-ubyte.xz", True),
        ("x.idx3", True),
        ("x.npy", False),
        ("ubyte.png", False),
    ],
)
def test_names(name, expected):
    assert is_idx_name(name) is expected
