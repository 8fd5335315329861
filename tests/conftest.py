"""Shapes and types of every call into qphi are checked while the tests run: jaxtyping's annotations, by beartype."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

# The hook rewrites modules as they are imported, so it has to be there before anything imports qphi.
jaxtyping.install_import_hook("qphi", "typecheck.check")


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
