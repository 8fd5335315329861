"""The error that a person can put right."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """What was given cannot be used; the message is one line that says what to give instead.

    It names what was given, what is needed and what to do, in this order. The command line shows the message
    alone, without a traceback, so it has to stand by itself. It is a `ValueError`: code that catches those
    still works.
    """
