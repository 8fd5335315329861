"""Pages of Markdown whose Python runs: their blocks, in order, in one namespace."""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

__all__ = ["blocks", "digest", "figures", "run", "sign", "signature"]

_BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_FIGURE = re.compile(r"!\[[^\]]*\]\(([^)\s]+)\)")
_SIGNATURE = re.compile(r"^<!-- figures made by code ([0-9a-f]+) -->\n?", flags=re.MULTILINE)


def blocks(page: Path) -> list[str]:
    """The page's Python, block by block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def figures(page: Path) -> list[str]:
    """The pictures that the page shows, as it names them."""
    return _FIGURE.findall(page.read_text(encoding="utf-8"))


def digest(page: Path) -> str:
    """A short name for all of the page's Python: another one as soon as a character of it changes."""
    return hashlib.sha256("\0".join(blocks(page)).encode()).hexdigest()[:16]


def signature(page: Path) -> str | None:
    """The `digest` of the code that made the page's figures, as its last line has it."""
    found = _SIGNATURE.findall(page.read_text(encoding="utf-8"))
    return found[-1] if found else None


def sign(page: Path, code: str) -> None:
    """Writes down that the page's figures were made by `code`, the `digest` of the page at the time."""
    text = _SIGNATURE.sub("", page.read_text(encoding="utf-8")).rstrip("\n")
    page.write_text(f"{text}\n\n<!-- figures made by code {code} -->\n", encoding="utf-8")


def run(page: Path, folder: Path) -> dict[str, Any]:
    """Runs the blocks with `folder` as the working directory, where they write their figures; gives the namespace.

    Whatever a block raises comes through, with the page and the line of the page in its traceback.
    """
    text, names = page.read_text(encoding="utf-8"), {"__name__": page.stem}
    with contextlib.chdir(folder):
        for match in _BLOCK.finditer(text):
            above = "\n" * text.count("\n", 0, match.start(1))
            exec(compile(above + match[1], str(page), "exec", dont_inherit=True), names)
    return names
