"""Shapes and types of every call into qphi are checked while the tests run: jaxtyping's annotations, by beartype."""

from collections.abc import Iterator

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
