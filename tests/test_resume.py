"""A `VAE`'s fit stopped in every way and resumed, watched, and run again: the same bits, compiled once."""

from __future__ import annotations

import signal
import threading
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import qphi
from qphi import Status
from small import quiet_fit, same_bits, vae, vectors

# ---------------------------------------------------------------- through the files on disk


def outcome(model) -> tuple:
    """Everything that a fit computed; not the seconds it took."""
    history = {name: np.array(values) for name, values in model.history_.items() if name != "seconds"}
    return (
        model.model_,
        history,
        model.n_iter_,
        model.best_epoch_,
        model.status_,
        model.transform(vectors()[:5]),
    )


@pytest.fixture(scope="module")
def uninterrupted():
    return outcome(vae().fit(vectors()))  # no warning: it converges


def ask_to_stop(after: int):
    """A watcher that presses Ctrl-C at its visit number `after`."""
    seen = []

    def watch(progress):
        seen.append(progress)
        if len(seen) == after:
            signal.raise_signal(signal.SIGINT)

    return watch


def test_a_full_fit_goes_through_its_refinements(uninterrupted):
    _, history, steps, best_epoch, status, _ = uninterrupted
    assert status is Status.CONVERGED
    assert len(np.unique(history["learning_rate"])) == 3
    assert steps == history["step"][-1]
    assert best_epoch <= history["epoch"][-1]
    elbo, log_likelihood, kl = (history[f"{n}_per_datum"] for n in ("held_out_elbo", "log_likelihood", "kl"))
    np.testing.assert_allclose(elbo, log_likelihood - kl, rtol=1e-5, atol=1e-5)
    assert (kl > 0).all()


@pytest.mark.parametrize(
    ("parameters", "watch", "status"),
    [
        ({"max_epochs": 20}, None, Status.MAX_STEPS),
        ({"max_epochs": 0.01}, None, Status.MAX_STEPS),
        ({"max_time": 1e-9}, None, Status.MAX_TIME),
        ({}, ask_to_stop(after=1), Status.INTERRUPTED),
    ],
    ids=["epochs", "less than a check", "time", "Ctrl-C"],
)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, uninterrupted, parameters, watch, status):
    handler = signal.getsignal(signal.SIGINT)
    first = vae(**parameters)
    with pytest.warns(ConvergenceWarning, match="resume the run"):
        first.fit(vectors(), run_dir=tmp_path, watch=watch)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first.status_ is status
    assert first.n_iter_ < uninterrupted[2]
    assert watch is None or first.n_iter_ == 50  # Ctrl-C at the first visit: no other
    resumed = vae(random_state=None).fit(vectors(), run_dir=tmp_path, resume=True)
    assert same_bits(outcome(resumed), uninterrupted)
    assert same_bits(outcome(qphi.load(tmp_path)), uninterrupted)
    assert np.all(np.diff(resumed.history_["seconds"]) >= 0)


def test_stopped_many_times_equals_uninterrupted(tmp_path, uninterrupted):
    for epochs in (3, 10, 30):
        quiet_fit(vae(max_epochs=epochs), vectors(), run_dir=tmp_path, resume=epochs > 3)
    assert same_bits(outcome(vae().fit(vectors(), run_dir=tmp_path, resume=True)), uninterrupted)


def test_resuming_a_fit_that_has_converged_changes_nothing(tmp_path, uninterrupted):
    vae().fit(vectors(), run_dir=tmp_path)
    assert same_bits(outcome(vae().fit(vectors(), run_dir=tmp_path, resume=True)), uninterrupted)


def test_a_second_ctrl_c_is_obeyed_at_once():
    def watch(progress):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            vae().fit(vectors(), watch=watch)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_watcher_and_another_thread_change_no_bit(uninterrupted):
    seen, results = [], []
    thread = threading.Thread(target=lambda: results.append(outcome(vae().fit(vectors(), watch=seen.append))))
    thread.start()
    thread.join()
    assert same_bits(results[0], uninterrupted)
    assert [p.step for p in seen] == sorted({p.step for p in seen})
    last = seen[-1]
    assert (last.step, last.status, last.seconds_left) == (uninterrupted[2], Status.CONVERGED, 0.0)
    history = uninterrupted[1]
    for name in ("elbo_per_datum", "held_out_elbo_per_datum", "log_likelihood_per_datum", "kl_per_datum"):
        assert getattr(last, name) == pytest.approx(history[name][-1], rel=1e-6), name


# ---------------------------------------------------------------- compiled once

COMPILED: list[str] = []


def _listen(name: str, seconds: float, **about: Any) -> None:
    if name == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(about.get("fun_name")))


def test_a_second_fit_of_the_same_shapes_compiles_nothing():
    def use(seed: int, epochs: int, rows: int) -> None:
        model = quiet_fit(vae(max_epochs=epochs, random_state=seed), vectors(seed))
        model.reconstruct(vectors()[:rows])
        model.score_samples(vectors()[:rows], particles=epochs)
        model.sample(rows)

    use(0, 5, 200)
    jax.monitoring.register_event_duration_secs_listener(_listen)
    jnp.sin(jnp.arange(137.0))  # seen to count
    assert COMPILED
    COMPILED.clear()
    use(1, 40, 7)
    assert not COMPILED


def test_a_second_posterior_of_the_same_shapes_compiles_nothing():
    def log_density(values, y):
        return -0.5 * values["x"] ** 2 - 0.5 * jnp.sum((y - values["x"]) ** 2)

    def use(seed: int) -> None:
        y = np.random.default_rng(seed).normal(size=5).astype(np.float32)
        repr(qphi.fit(log_density, y, example={"x": np.zeros(())}, key=jax.random.key(seed)))

    use(0)
    COMPILED.clear()
    use(1)
    assert not COMPILED
