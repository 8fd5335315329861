"""How many programs XLA compiles while some code runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"


class Count:
    """The number of programs compiled so far in the block."""

    compiled = 0


@contextmanager
def counting_compiles() -> Iterator[Count]:
    """Counts the programs that are compiled in the block."""
    count, active = Count(), True

    def listen(event: str, seconds: float, **_: object) -> None:
        if active and event == _COMPILED:
            count.compiled += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield count
    active = False  # listeners cannot be taken back one by one
