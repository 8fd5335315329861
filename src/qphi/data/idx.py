"""The idx format of MNIST: a big-endian array behind a header of 4 + 4 ndim bytes, plain, gzipped or xz."""

from __future__ import annotations

import gzip
import lzma
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from qphi.errors import InputError

__all__ = ["is_idx_name", "read_idx", "write_idx"]

# Third byte of the magic number (http://yann.lecun.com/exdb/mnist): the type of the entries.
_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(ubyte|\.idx\d?)(\.gz|\.xz)?$", re.IGNORECASE)


def is_idx_name(name: str) -> bool:
    """Whether a file of this name holds an idx array.

    >>> is_idx_name("train-images-idx3-ubyte.gz"), is_idx_name("train.npy")
    (True, False)
    """
    return _NAME.search(name) is not None


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an idx file, in native byte order. `.gz` and `.xz` are unpacked on the way."""
    path = Path(path)
    raw = _unpack(path)
    if len(raw) < 4 or raw[0] != 0 or raw[1] != 0 or raw[2] not in _TYPES or raw[3] == 0:
        raise InputError(
            f"{path} is not an idx file: it begins with {raw[:4].hex(' ') or 'nothing'}, an idx file with "
            "00 00, a type byte and the number of axes. Download it again, or give the file another name."
        )
    axes, start = raw[3], 4 + 4 * raw[3]
    if len(raw) < start:
        raise InputError(f"{path} is cut off within its header of {start} bytes ({len(raw)} are there). Copy it again.")
    shape = struct.unpack(f">{axes}I", raw[4:start])
    dtype = np.dtype(_TYPES[raw[2]])
    needed = math.prod(shape) * dtype.itemsize
    if len(raw) - start != needed:
        what = "cut off" if len(raw) - start < needed else "too long"
        raise InputError(
            f"{path} is {what}: its header says {' x '.join(map(str, shape))} entries of {dtype.name} "
            f"({needed} bytes), but {len(raw) - start} bytes follow. Copy or download it again."
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def write_idx(path: str | Path, array: np.ndarray) -> None:
    """Writes an idx file; `.gz` or `.xz` at the end of the name packs it."""
    path, big_endian = Path(path), array.astype(array.dtype.newbyteorder(">"))
    code = next((code for code, name in _TYPES.items() if np.dtype(name) == big_endian.dtype), None)
    if code is None:
        raise InputError(f"idx files hold 8-, 16-, 32-bit integers and floats, not {array.dtype}. Convert the array.")
    raw = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + big_endian.tobytes()
    pack = {".gz": gzip.compress, ".xz": lzma.compress}.get(path.suffix.lower(), bytes)
    path.write_bytes(pack(raw))


def _unpack(path: Path) -> bytes:
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} cannot be unpacked: {error}. Copy or download it again.") from error
