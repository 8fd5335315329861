"""Compiled programs are let go before the process has no memory maps left, and not sooner."""

import jax
import jax.numpy as jnp
import pytest

import qphi
from qphi import programs


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """Sets how many memory maps the process seems to be allowed."""

    def say(text: str) -> None:
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(programs, "_LIMIT", tmp_path / "limit")

    return say


TRACED = []


@jax.jit
def _square(x):
    TRACED.append(x.shape)  # at each compilation
    return x**2


def test_programs_are_let_go_where_few_maps_are_left(limit):
    if not programs._MAPS.is_file():
        pytest.skip("this system has no memory maps to count")
    _square(jnp.ones(3))
    limit("1000000000")
    assert not programs.make_room()
    _square(jnp.ones(3))
    assert len(TRACED) == 1
    limit("10")
    assert programs.make_room()
    assert float(_square(jnp.full(3, 2.0)).sum()) == 12
    assert len(TRACED) == 2


def test_a_system_without_such_a_limit_is_left_alone(limit, monkeypatch, tmp_path):
    limit("unlimited")
    assert not programs.make_room()
    monkeypatch.setattr(programs, "_LIMIT", tmp_path / "none")
    assert not programs.make_room()


def test_each_fit_makes_room(monkeypatch):
    seen = []
    monkeypatch.setattr("qphi.inference.make_room", lambda: seen.append("posterior"))
    monkeypatch.setattr("qphi.loop.make_room", lambda: seen.append("loop"))
    qphi.fit(lambda v: -0.5 * v["x"] ** 2, example={"x": 0.0}, key=jax.random.key(0))
    assert seen == ["posterior"]
    from small import quiet_fit, vae, vectors

    quiet_fit(vae(max_epochs=1), vectors())
    assert seen == ["posterior", "loop"]
