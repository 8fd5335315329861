"""Shapes and types of every call into qphi are checked while the tests run: jaxtyping's annotations, by beartype.

Most of the tests' time is compilation, so that a program that several of them need is compiled once, in one process:
JAX finds it in a folder that is as old as the run. Workers and commands inherit the folder; JAX reads these names when
it is imported. They are compiled without the dearest optimisations, in three quarters of the time.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

_COMPILED = None
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _COMPILED = tempfile.mkdtemp(prefix="qphi-compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# The hook rewrites modules as they are imported, so it has to be there before anything imports qphi.
jaxtyping.install_import_hook("qphi", "typecheck.check")


def pytest_unconfigure() -> None:
    if _COMPILED is not None:
        shutil.rmtree(_COMPILED, ignore_errors=True)


@pytest.fixture
def wrong_types() -> Iterator[None]:
    """For tests that give wrong types on purpose: qphi's own checks have to answer, not the tests' type checker."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def other() -> Any:
    """A fit of the small vectors from another seed."""
    from small import quiet_fit, vae, vectors

    return quiet_fit(vae(max_epochs=8, random_state=1), vectors())


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, as `fit` leaves it: not to be changed."""
    from small import quiet_fit, vae, vectors

    folder = tmp_path_factory.mktemp("saved") / "run"
    quiet_fit(vae(max_epochs=8), vectors(), run_dir=folder)
    return folder


@pytest.fixture
def run(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved`, to damage."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


@pytest.fixture(scope="session")
def fitted_table() -> Any:
    """A fit of the small table."""
    from qphi import TableVAE
    from small_table import QUICK, quiet, table

    return quiet(TableVAE(particles=2, **QUICK), table())


@pytest.fixture(scope="session")
def dated() -> Any:
    """A fit of days and grades, and its rows."""
    from qphi import TableVAE
    from small_table import days_and_grades, quiet

    x = days_and_grades()
    return quiet(TableVAE(hidden=(8,), max_epochs=20, random_state=0), x), x
