"""Intervals of gaps are as wide as hidden cells say that they have to be."""

from __future__ import annotations

import numpy as np
import pytest

from qphi.tables.widths import COVERAGES, Widths, fit_factors, hidden, interval

NINETY = COVERAGES.index(0.9)


def cells(count, spread, draws=400, seed=0):
    """Standard normal cells, and draws of them that are too narrow or too wide by a factor."""
    random = np.random.default_rng(seed)
    centre, x = random.standard_normal((2, count))
    u = centre[:, None] + spread * random.standard_normal((count, draws))
    x = centre + x
    return np.stack([x, x, x], axis=1), u


@pytest.mark.parametrize("spread", [0.6, 1.0, 1.5])
def test_intervals_cover_as_often_as_promised_whatever_the_draws_spread(spread):
    # 4,000 other cells after 4,000: a standard error of 0.7 %, and up to 1 % more where draws are too wide, on purpose;
    # 4 % is beyond four standard errors
    widths = Widths(fit_factors([cells(4000, spread)], 4000))
    x, u = cells(4000, spread, seed=1)
    for coverage in (0.5, 0.85, 0.9, 0.95):
        low, high = interval(u, coverage, widths.at(coverage, stepped=False))
        assert np.mean((low <= x[:, 0]) & (x[:, 0] <= high)) == pytest.approx(coverage, abs=0.04)
    assert widths.at(0.9, stepped=False) == pytest.approx(1 / spread, rel=0.06)
    assert widths.at(0.9, stepped=True) == 1.0
    assert Widths.from_json(widths.to_json()) == widths


def test_few_cells_say_nothing_and_wild_ones_not_everything():
    x, u = cells(59, 0.5)
    assert fit_factors([(x, u)], 59) is fit_factors([], 0) is None
    x, u = cells(100, 1e-3)
    assert fit_factors([(x, u)], 100) == (3.0,) * len(COVERAGES)
    x, u = cells(100, 100.0)
    assert fit_factors([(x, u)], 100) == (0.5,) * len(COVERAGES)


def test_a_cell_with_a_probability_of_its_own_is_covered_by_its_nearer_end():
    x = np.tile([-1.0, 1.0, 0.0], (100, 1))
    inside = np.linspace(-0.9, 0.9, 51) * np.ones((100, 1))
    assert fit_factors([(x, inside)], 100)[NINETY] == 0.5
    beyond = fit_factors([(x, inside + 2.0)], 100)  # 90 % of the draws: within 0.81 of 2; the cell's end is 1 away
    assert beyond[NINETY] == pytest.approx(1 / 0.81, rel=0.01)
    never = fit_factors([(x, np.full((100, 51), 2.0))], 100)  # draws that never differ
    assert never[NINETY] == 3.0


def test_each_observed_cell_is_hidden_once():
    x = np.random.default_rng(0).standard_normal((50, 7, 3)).astype(np.float32)
    x[::3, 2] = np.nan
    counted = np.zeros((50, 7), int)
    for gone, rest in hidden(x, 0):
        assert np.isnan(rest[gone][:, 0]).all()
        assert (rest[gone][:, 1] == 0).all()  # hidden by us: says nothing of why data are missing
        np.testing.assert_array_equal(rest[~gone], x[~gone])
        counted += gone
    np.testing.assert_array_equal(counted, ~np.isnan(x[..., 0]))


def test_few_rows_may_widen_but_not_narrow():
    x, u = cells(200, 0.8)
    assert fit_factors([(x, u)], 10)[NINETY] > 1.1
    x, u = cells(200, 1.25)
    assert fit_factors([(x, u)], 200)[NINETY] < 0.9
    assert fit_factors([(x, u)], 10)[NINETY] == 1.0
