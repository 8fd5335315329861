"""Checks of parameters that estimators share."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from qphi.errors import InputError

__all__ = ["positive_count", "seed_of"]


def positive_count(name: str, value: Any) -> int:
    """A whole number of at least 1. Raises InputError naming the parameter."""
    if not (isinstance(value, (int, np.integer)) and value >= 1):
        raise InputError(f"{name}={value!r}: a whole number of at least 1 is needed.")
    return int(value)


def seed_of(random_state: Any) -> int:
    """A seed from scikit-learn's random_state; from the system for None: global random state is never moved."""
    if random_state is None:
        return secrets.randbelow(2**31)
    if isinstance(random_state, (int, np.integer)):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
