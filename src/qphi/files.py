"""Writing files so that they are there whole or not at all, and where the caches live."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from qphi.errors import InputError

__all__ = ["atomic_write", "cache_folder", "check_writable"]


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it takes the name `path`, on any error it is removed.

    The temporary name keeps the suffix (NumPy and Pillow choose the format by it) and begins with a dot. It
    stands in the same folder because `os.replace` is atomic only within one file system. A reader, or a power
    cut, therefore sees the old file or the new one, never half of one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "z.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     [p.name for p in Path(folder).iterdir()]
    ['z.txt']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as written:  # the bytes reach the disk before the name does
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: str | Path) -> Path:
    """`path`, if a file of this name can be made; asked before any long computation."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, but a file has to be written there. Give a file name.")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}. Make it first, or write elsewhere.")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {path.parent} is read-only. Write elsewhere.")
    return path


def cache_folder() -> Path | None:
    """Where qphi keeps what it can make again; None with QPHI_CACHE=off.

    `$XDG_CACHE_HOME/qphi`, otherwise `~/.cache/qphi`; QPHI_CACHE may also name another folder.
    """
    wanted = os.environ.get("QPHI_CACHE", "")
    if wanted.lower() in ("off", "0", "no", "none"):
        return None
    if wanted:
        return Path(wanted).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "qphi"
    except RuntimeError:  # no home folder
        return None
