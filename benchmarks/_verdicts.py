"""When an answer is right, and how often verdicts are wrong about it."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

__all__ = ["is_right", "summary"]

MEAN, FACTOR = 0.3, 1.5


def is_right(mean_error: float, sd_error: float) -> bool:
    """Every mean within 0.3 known sds, and every sd within a factor of 1.5 (`sd_error` is of its logarithm)."""
    return bool(mean_error <= MEAN and sd_error <= math.log(FACTOR))


def summary(rows: list[dict[str, Any]]) -> str:
    """Counts of right fits, silent failures and false alarms, with the names of where they were."""
    answers = [row for row in rows if row["right"]]
    silent = [row for row in rows if row["usable"] and not row["right"]]
    alarms = [row for row in answers if not row["usable"]]
    return (
        f"Right: {len(answers)} of {len(rows)} fits. Silent failures: {len(silent)}{_named(silent)}. "
        f"False alarms: {len(alarms)} of {len(answers)} right answers{_named(alarms)}."
    )


def _named(rows: list[dict[str, Any]]) -> str:
    counts = Counter(row["name"] for row in rows)
    return f" ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else ""
