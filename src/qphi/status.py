"""Every way a fit can end, in words, with what to do about it."""

from __future__ import annotations

import enum

__all__ = ["Status"]


class Status(enum.IntEnum):
    """How a fit ended. An integer, so that it lives in compiled code; words for people.

    `RUNNING` is the only state that can be advanced. `MAX_STEPS`, `MAX_TIME` and `INTERRUPTED` keep the best
    answer so far and can be resumed.
    """

    RUNNING = 0
    CONVERGED = 1
    MAX_STEPS = 2
    MAX_TIME = 3
    INTERRUPTED = 4
    NOT_FINITE = 5

    @property
    def succeeded(self) -> bool:
        """True only for a fit that stopped because there was nothing more to gain."""
        return self is Status.CONVERGED

    @property
    def resumable(self) -> bool:
        """True when going on with the same run can still improve it."""
        return self in (Status.MAX_STEPS, Status.MAX_TIME, Status.INTERRUPTED, Status.RUNNING)

    @property
    def message(self) -> str:
        """One sentence: what happened."""
        return _MESSAGES[self][0]

    @property
    def advice(self) -> str:
        """One sentence: what to do about it; empty when there is nothing to do."""
        return _MESSAGES[self][1]


_MESSAGES: dict[Status, tuple[str, str]] = {
    Status.RUNNING: ("still running", ""),
    Status.CONVERGED: ("converged: the ELBO has stopped rising", ""),
    Status.MAX_STEPS: (
        "stopped at the step budget before the ELBO stopped rising",
        "resume the run, or allow more epochs (steps).",
    ),
    Status.MAX_TIME: (
        "stopped at the time budget before the ELBO stopped rising",
        "resume the run, or allow more time.",
    ),
    Status.INTERRUPTED: ("interrupted; the best model so far is kept", "resume the run to go on."),
    Status.NOT_FINITE: (
        "stopped by a value that is not finite; the last finite answer is kept",
        "check the data for extreme values and the model for log(0), 0/0 or overflow; a smaller learning rate, "
        "or float64, helps when the densities are merely stiff.",
    ),
}
