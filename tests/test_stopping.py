"""The plateau rule on sequences whose right answer is known, and its error rates on noise."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qphi.stopping import Plateau

ITEMS, RUNS = 64, 400


@eqx.filter_jit
def play(rule, sequence):
    """Feed (checks, items) to a rule, check t at step 10 (t + 1) with the answer [t]."""

    def check(state, numbered):
        index, items = numbered
        state, plateau = rule.update(state, items, index[None].astype(float), 10 * (index + 1))
        return state, (plateau, state.waited, state.best_step, state.best)

    state = rule.init(sequence[0], jnp.array([-1.0]))
    return jax.lax.scan(check, state, (jnp.arange(len(sequence)), sequence))


@eqx.filter_jit
def first_plateau(rule, sequences):
    """The check at which each of many runs first meets a plateau; their length where it does not."""
    plateaus = jax.vmap(lambda s: play(rule, s)[1][0])(sequences)
    return jnp.where(plateaus.any(1), jnp.argmax(plateaus, 1), sequences.shape[1])


def noise(checks: int, seed: int) -> np.ndarray:
    """Held-out items of a model that wanders: large scatter over items, N(0, 1) from check to check."""
    rng = np.random.default_rng(seed)
    return 30 * rng.normal(size=(RUNS, 1, ITEMS)) + rng.normal(size=(RUNS, checks, ITEMS))


def test_noise_is_not_taken_for_a_rise():
    """False go: a flat but noisy objective runs on for more than 30 checks in at most 5 % of runs."""
    stops = np.concatenate([first_plateau(Plateau(), jnp.asarray(noise(31, seed))) for seed in range(3)])
    assert (stops >= 8).all()  # patience itself
    assert np.mean(stops > 30) <= 0.05
    assert np.median(stops) <= 12


def test_noise_shared_by_all_items_is_not_followed_for_ever():
    """False go at its worst: where a check moves all items alike, only records count, and those get rare."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(RUNS, 61, 1)) + 1e-3 * rng.normal(size=(RUNS, 61, ITEMS))
    stops = np.asarray(first_plateau(Plateau(), jnp.asarray(shared)))
    assert np.mean(stops > 60) <= 0.05


@pytest.mark.parametrize(("rise", "allowed"), [(0.5, 0.01), (0.4, 0.1)])
def test_slow_steady_progress_is_not_stopped(rise, allowed):
    """False stop within 60 checks, each of which gains `rise` standard errors of a difference of two checks.

    Slower progress is lost in the noise of 8 checks: at 0.25, four runs of five have a plateau within 60.
    """
    standard_error = np.sqrt(2 / ITEMS)
    ramp = rise * standard_error * np.arange(60)[None, :, None]
    stops = np.concatenate([first_plateau(Plateau(), jnp.asarray(noise(60, s) + ramp)) for s in range(3)])
    assert np.mean(stops < 60) <= allowed


def test_progress_without_noise_counts_however_small():
    sequence = jnp.asarray(100 * np.random.default_rng(0).normal(size=ITEMS) + 1e-3 * np.arange(40.0)[:, None])
    _, (plateaus, waited, *_) = play(Plateau(), sequence)
    assert not plateaus.any()
    assert not waited.any()


def test_a_flat_objective_is_a_plateau_after_exactly_patience_checks_and_the_wait_begins_anew():
    _, (plateaus, waited, *_) = play(Plateau(patience=3), jnp.ones((10, ITEMS)))
    assert np.flatnonzero(plateaus).tolist() == [3, 6, 9]
    assert waited.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]


def test_one_item_is_enough():
    _, (plateaus, *_) = play(Plateau(patience=2), jnp.asarray([[1.0], [2.0], [1.0], [1.5]]))
    assert plateaus.tolist() == [False, False, False, True]


def test_the_best_answer_is_kept_when_later_ones_are_worse():
    means = np.array([-5.0, -1.0, 3.0, 2.0, 1.0, -9.0])
    state, (_, _, best_steps, bests) = play(Plateau(), jnp.asarray(np.repeat(means[:, None], ITEMS, axis=1)))
    assert state.best_answer.tolist() == [2.0]
    assert best_steps.tolist() == [10, 20, 30, 30, 30, 30]
    assert bests.tolist() == [-5, -1, 3, 3, 3, 3]


def test_the_best_answer_is_kept_even_when_its_rise_is_within_the_noise():
    items = np.random.default_rng(0).normal(size=ITEMS)
    lucky = items + np.where(np.arange(ITEMS) % 2, 1.0, -0.99)  # mean rises by 0.005, its standard error is 0.12
    state, (_, waited, *_) = play(Plateau(), jnp.asarray([items, lucky, items]))
    assert state.best_answer.tolist() == [1.0]
    assert waited.tolist() == [0, 1, 2]


def test_nothing_is_compared_before_the_end_of_a_warm_up():
    """An objective that falls while the KL's weight rises neither stops the fit nor keeps that answer."""
    falling = np.concatenate([np.linspace(50, 1, 20), np.full(9, 0.5)])
    rule = Plateau(patience=4, warm_up=200)
    state, (plateaus, waited, best_steps, bests) = play(rule, jnp.asarray(np.repeat(falling[:, None], ITEMS, 1)))
    assert not plateaus[:20].any()
    assert not waited[:19].any()
    assert int(jnp.argmax(plateaus)) == 22  # check 19 (step 200) is the first of a patience of 4
    assert bests[:19].tolist() == [-np.inf] * 19
    assert state.best_answer.tolist() == [19.0]
    assert best_steps[-1] == 200


def test_rises_that_are_too_small_to_matter_do_not_prolong_a_run():
    sequence = jnp.asarray(100 * np.random.default_rng(0).normal(size=ITEMS) + 1e-3 * np.arange(40.0)[:, None])
    assert play(Plateau(least=0.05), sequence)[1][0].any()  # 8 checks rise by 0.008
    _, (plateaus, waited, *_) = play(Plateau(least=0.0035), sequence)  # 4 checks come to it
    assert not plateaus.any()
    assert waited.max() == 3
