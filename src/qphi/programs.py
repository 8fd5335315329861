"""Room for compiled programs: Linux gives a process so many memory maps, and JAX keeps what it has compiled."""

from __future__ import annotations

from pathlib import Path

import jax

__all__ = ["make_room"]

_LIMIT, _MAPS = Path("/proc/sys/vm/max_map_count"), Path("/proc/self/maps")
_SHARE = 0.5  # of the maps: what a fit compiles has to fit into the rest


def make_room() -> bool:
    """Let JAX forget its compiled programs where they hold half of the memory maps that this process can have.

    A program of the CPU holds several maps, and is kept for as long as the process lives; where there are none left
    (65,530 on Linux, unless it is told otherwise), the compiler aborts the process: data of another shape need other
    programs, so that a search over many settings can come that far. What is still needed is compiled again. Returns
    whether that was so; nothing is done where the system has no such limit to be read.
    """
    try:
        limit = int(_LIMIT.read_text())
        with _MAPS.open("rb") as lines:
            held = sum(1 for _ in lines)
    except (OSError, ValueError):
        return False
    if held < _SHARE * limit:
        return False
    jax.clear_caches()
    return True
