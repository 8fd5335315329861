"""What a command settles before JAX computes: the cache of compiled programs, how warnings look."""

from __future__ import annotations

import os
import warnings
from typing import Any

from qphi.cli.console import say_warning
from qphi.files import cache_folder

__all__ = ["prepare", "show_warnings_in_one_line"]

MIN_COMPILE_SECONDS = 0.2  # programs that compile faster are not worth a file


def prepare() -> None:
    """Turns JAX's persistent compilation cache on: the second `qphi fit` of a kind starts seconds earlier.

    The cache lies in `jax` under `qphi.files.cache_folder()`. QPHI_CACHE=off leaves it off, JAX's own
    JAX_COMPILATION_CACHE_DIR is respected, and a folder that cannot be written is passed over.
    """
    folder = cache_folder()
    if folder is None or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = folder / "jax"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)


def show_warnings_in_one_line() -> None:
    """Python's warnings as `warning: ...`, without file name and source line."""

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if "compilation cache" not in str(message):  # a full disk must not spoil a fit that needs no cache
            say_warning(str(message))

    warnings.showwarning = show
