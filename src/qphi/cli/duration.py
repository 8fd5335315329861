"""Times as people write them."""

from __future__ import annotations

import re

from qphi.errors import InputError

__all__ = ["parse_seconds"]

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s|)\s*")


def parse_seconds(text: str) -> float:
    """A time as people write it, in seconds.

    >>> parse_seconds("90"), parse_seconds("90s"), parse_seconds("5m"), parse_seconds("1h30m")
    (90.0, 90.0, 300.0, 5400.0)
    """
    parts = list(_DURATION.finditer(text.strip().lower()))
    whole = "".join(part.group(0) for part in parts) == text.strip().lower()
    units = [part.group(2) for part in parts]
    if not parts or not whole or ("" in units and len(units) > 1) or len(set(units)) < len(units):
        raise InputError(f"--max-time {text} is not a time. Write it as 90, 90s, 5m, 1h or 1h30m.")
    seconds = sum(float(part.group(1)) * _UNITS[part.group(2)] for part in parts)
    if seconds <= 0:
        raise InputError(f"--max-time {text} leaves no time to fit. Give more than 0 seconds.")
    return seconds
