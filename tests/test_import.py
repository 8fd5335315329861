"""What `import qphi` brings in, which interfaces of others it uses, and which room may know of which."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qphi

SOURCE = Path(qphi.__file__).parent

# A room may import from the lines before its own, never from those after it, nor from its own line.
ORDER = """
errors status theme
files precision programs noise verdict systems
serialise data targets families importance
draws bounds
summary stopping solvers
outskirts
checks
search
modes
unseen many
assess
redraw
cover reach
auto posterior
loop
by_gradients
autoencoders minibatch
tables
estimators
inference
calibration report
cli
__main__
"""
RANK = {room: rank for rank, line in enumerate(ORDER.split("\n")) for room in line.split()}


def test_import_alone_is_cheap():
    heavy = ("jax", "sklearn", "numpyro", "scipy", "matplotlib", "numpy")
    code = f"import qphi, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_environment(), check=True)
    assert done.stdout.strip() == "[]"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(SOURCE.parent)}


def test_every_public_name_can_be_imported_and_a_wrong_one_says_so():
    for name in qphi.__all__:
        assert getattr(qphi, name).__name__ == name or name == "Status"
    assert set(qphi.__all__) <= set(dir(qphi))
    with pytest.raises(AttributeError, match="no attribute 'VEA'"):
        _ = qphi.VEA


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path, source: Path = SOURCE) -> Iterator[str]:
    """Everything that a module imports, anywhere in it, as full dotted names."""
    package = ["qphi", *path.relative_to(source).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def attributes(path: Path) -> Iterator[str]:
    """Every dotted name in a module's code, such as `jax.random.key`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node)


PRIVATE = (
    "jax._src",
    "jax.interpreters",
    "jax.example_libraries",
    "jaxlib",
    "equinox.internal",
    "eqx.internal",
)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_only_public_interfaces_of_jax_and_equinox_are_used(path):
    used = [*imports(path), *attributes(path)]
    assert not [name for name in used if f"{name}.".startswith(tuple(f"{p}." for p in PRIVATE))]


def room(name: str) -> str | None:
    """The room of a full dotted name, a folder or file directly in qphi; VAE's for `from qphi import VAE`."""
    parts = name.split(".")
    if parts[0] != "qphi" or len(parts) == 1 or parts[1] == "__version__":
        return None
    return room(qphi._HOMES[parts[1]]) if parts[1] in qphi._HOMES else parts[1]


def test_every_room_has_its_place():
    rooms = {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in modules()} - {"__init__"}
    assert rooms == set(RANK)


def test_imports_go_downstream_only():
    wrong = []
    for path in modules():
        here = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if here == "__init__":  # names everything, imports nothing before it is used
            continue
        for name in imports(path):
            there = room(name)
            if there not in (None, here) and RANK[there] >= RANK[here]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong


def test_imports_are_seen_wherever_and_however_they_are_written(tmp_path):
    (tmp_path / "bounds").mkdir()
    module = tmp_path / "bounds" / "elbo.py"
    module.write_text("def f():\n    from qphi import VAE\n    import qphi.loop\n    from ..report import page\n")
    assert {room(name) for name in imports(module, tmp_path)} == {"estimators", "loop", "report"}
    assert all(RANK[upstream] > RANK["bounds"] for upstream in ("estimators", "loop", "report"))
