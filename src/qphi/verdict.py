"""Whether to trust a posterior: one word for all of it, one for each mean and sd, and the reasons."""

from __future__ import annotations

import dataclasses
import enum

import numpy as np
from jaxtyping import Bool

__all__ = ["Trust", "UnreliableError", "Verdict"]


class Trust(enum.StrEnum):
    """From best to worst.

    `TRUSTED`: every check of the fit was passed. `CORRECTED`: the fit was found wanting, and draws made from it by
    importance weights or Markov chains passed theirs. `UNRELIABLE`: something did not pass, or the budget ended first.
    `FAILED`: there is no answer. No check that starts from a fit can see a mode that nothing has visited.
    """

    TRUSTED = "trusted"
    CORRECTED = "corrected"
    UNRELIABLE = "unreliable"
    FAILED = "failed"

    @property
    def usable(self) -> bool:
        """Whether sds and intervals can be read without asking for them twice."""
        return self in (Trust.TRUSTED, Trust.CORRECTED)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What was found, in words and numbers.

    `reasons`: why, one sentence each. `advice`: what to do, empty when nothing needs to be done. `mean_ok`, `sd_ok`:
    for each named value, an array of its shape: whether that mean (sd) can be believed. `numbers`: the figures behind.
    """

    trust: Trust
    reasons: tuple[str, ...] = ()
    advice: str = ""
    mean_ok: dict[str, Bool[np.ndarray, "..."]] = dataclasses.field(default_factory=dict)
    sd_ok: dict[str, Bool[np.ndarray, "..."]] = dataclasses.field(default_factory=dict)
    numbers: dict[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.trust}: {'; '.join(self.reasons)}" if self.reasons else str(self.trust)


class UnreliableError(ValueError):
    """Sds or intervals were read from a posterior whose verdict says not to."""
