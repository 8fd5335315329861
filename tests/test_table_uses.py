"""What a fitted `TableVAE` is asked: gaps, samples, scores, reconstructions."""

import copy
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import qphi
from qphi import InputError, TableVAE
from qphi.cli.main import main
from qphi.data.codec import fit_codec
from qphi.data.csv_text import cell_text
from qphi.data.frames import read_table
from qphi.data.table_files import read_table_file
from qphi.estimators import table_uses
from qphi.tables.anomalies import Typical, _quantiles
from qphi.tables.filling import middles
from qphi.tables.widths import Widths
from small_table import QUICK, ROWS, quiet, table


def test_gaps_are_filled_by_what_the_row_says_and_the_rest_stays(fitted_table):
    x = table()
    full = fitted_table.impute(x)
    assert list(full) == list(x)
    for name, cells in x.items():
        seen = np.array([v is not None and v == v for v in cells.tolist()])
        assert (full[name][seen] == cells[seen]).all()
    assert not np.isnan(full["a"]).any()
    gap = np.isnan(x["a"])
    assert np.corrcoef(full["a"][gap], np.log(x["b"][gap]))[0, 1] > 0.8  # b says what a was
    assert set(full["c"][:5]) <= {"common", "rare"}


def test_multiple_imputations_differ_in_the_gaps_only(fitted_table):
    x = table()
    first, second = fitted_table.impute(x, n_imputations=2)
    gap = np.isnan(x["a"])
    assert (first["a"][~gap] == second["a"][~gap]).all()
    assert np.mean(first["a"][gap] != second["a"][gap]) > 0.9


def test_intervals_contain_the_middle_and_observed_cells_are_their_own(fitted_table):
    x = table()
    low, high = fitted_table.impute_intervals(x, coverage=0.8)["a"]
    gap = np.isnan(x["a"])
    assert (low[gap] < high[gap]).all()
    np.testing.assert_array_equal(low[~gap], x["a"][~gap])
    with pytest.raises(InputError, match=r"coverage=1.5: a number between 0 and 1"):
        fitted_table.impute_intervals(x, coverage=1.5)
    model = copy.copy(fitted_table)
    model._widths, model._unseen = Widths((2.0,) * 7, (2.0,) * 7), None
    wider = model.impute_intervals(x, coverage=0.8)["a"]
    assert np.mean(wider[0][gap] < low[gap]) > 0.9
    assert np.mean(wider[1][gap] > high[gap]) > 0.9
    whole = fitted_table.impute_intervals(x)["n"]
    assert (whole[0] == np.round(whole[0])).all()  # a count
    with pytest.raises(InputError, match="draws=0: a whole number of at least 1"):
        fitted_table.impute_intervals(x, draws=0)


def test_samples_look_like_the_table_and_rare_levels_survive(fitted_table):
    # 16.6 % of the rows are rare; 2,000 draws and a model of 300 rows: 3 points are more than 3 standard errors of both
    x, drawn = table(), fitted_table.sample(2000)
    share = np.mean(x["c"][5:] == "rare")
    assert np.mean(drawn["c"] == "rare") == pytest.approx(share, abs=0.08)
    assert drawn["n"].min() >= 0
    assert (drawn["n"] == np.round(drawn["n"])).all()
    assert (drawn["k"] == 1).all()
    assert drawn["b"].max() <= x["b"].max()


def test_given_cells_are_kept_and_move_the_others(fitted_table):
    rare, common = (fitted_table.sample(400, given={"c": level}) for level in ("rare", "common"))
    assert set(rare["c"]) == {"rare"}
    assert rare["a"].mean() > common["a"].mean() + 0.5
    with pytest.raises(InputError, match=r"given c='odd': the fit saw no such level. Use one of 'common', 'rare'"):
        fitted_table.sample(3, given={"c": "odd"})


def test_several_cells_given_numbers_among_them(fitted_table):
    # a and log b are both z + 0.3 noise: E[a | log b] = log b / 1.09
    for b in (0.3, 3.0):
        drawn = fitted_table.sample(500, given={"b": b, "n": 3})
        assert (drawn["b"] == b).all()
        assert (drawn["n"] == 3).all()
        assert drawn["a"].mean() == pytest.approx(np.log(b) / 1.09, abs=0.4)


def test_levels_are_drawn_equally_often_and_bring_what_goes_with_them(fitted_table):
    drawn = fitted_table.sample(401, balanced="c")
    assert sorted(np.unique(drawn["c"], return_counts=True)[1]) == [200, 201]
    rare, common = (drawn["a"][drawn["c"] == level].mean() for level in ("rare", "common"))
    given = fitted_table.sample(400, given={"c": "rare"})["a"].mean()
    assert rare > common + 0.5
    assert rare == pytest.approx(given, abs=0.2)  # 200 draws of sd 0.5: 0.2 is 5 standard errors of the difference
    assert (fitted_table.sample(20, balanced="c", given={"b": 2.0})["b"] == 2.0).all()
    np.testing.assert_array_equal(drawn["a"], fitted_table.sample(401, balanced="c")["a"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"balanced": "b"}, "balanced='b': the column is positive and has no levels .* Use one of 'c'"),
        ({"balanced": "c", "given": {"c": "rare"}}, "'c' is both given and balanced"),
        ({"balanced": "z"}, "there is no column 'z'"),
        ({"given": {"a": float("nan")}}, "given a=nan: a value is needed"),
        ({"given": {"a": "much"}}, "column 'a' has 'much' in row 0, where a number is needed"),
        ({"given": {"k": 1}}, "given k: the column is constant and not part of the model"),
    ],
)
def test_conditions_that_cannot_be(fitted_table, arguments, message):
    with pytest.raises(InputError, match=message):
        fitted_table.sample(3, **arguments)


def test_the_shell_samples_given_cells_and_balanced(fitted_table, tmp_path, capsys):
    fitted_table.save(tmp_path / "run")
    wanted = ["sample", str(tmp_path / "run"), "-n", "30", "--given", "n=3", "--balanced", "c", "-o"]
    assert main([*wanted, str(tmp_path / "x.csv")]) == 0
    made = read_table_file(tmp_path / "x.csv").columns
    assert (made["n"] == 3).all()
    assert list(np.unique(made["c"], return_counts=True)[1]) == [15, 15]
    assert main(["sample", str(tmp_path / "run"), "--balanced", "a"]) == 2
    assert "has no levels to draw equally often" in capsys.readouterr().err


def test_scores_are_deterministic_row_by_row_and_odd_rows_are_explained(fitted_table):
    x = table()
    x["b"][7] = 900.0
    x["a"][7] = -2.0
    scores = fitted_table.score_samples(x)
    some = {name: cells[5:9] for name, cells in x.items()}
    np.testing.assert_array_equal(fitted_table.score_samples(some), scores[5:9])
    assert np.argmax(fitted_table.anomaly_score(x)) == 7
    assert {name for name, _ in fitted_table.explain(x, top=2)[7]} == {"a", "b"}


def test_a_table_of_scores_holds_what_the_three_methods_say(fitted_table):
    x = table()
    scores = fitted_table.score_table(x, top=2)
    np.testing.assert_array_equal(scores["log_p"], fitted_table.score_samples(x))
    np.testing.assert_array_equal(scores["anomaly_score"], fitted_table.anomaly_score(x))
    first = ", ".join(f"{name} ({nats:.1f})" for name, nats in fitted_table.explain(x, top=2)[0])
    assert scores["because_of"][0] == first


def test_units_move_log_p_by_a_constant_and_nothing_else(fitted_table):
    x = table()
    other = {**x, "a": 1000 * x["a"], "b": 1000 * x["b"]}
    scaled = quiet(TableVAE(particles=2, **QUICK), other)
    seen = 1.0 + ~np.isnan(x["a"])
    np.testing.assert_allclose(
        fitted_table.score_samples(x) - scaled.score_samples(other), seen * np.log(1000), atol=2e-2
    )
    np.testing.assert_allclose(1000 * fitted_table.impute(x)["a"], scaled.impute(other)["a"], rtol=1e-2, atol=5)


def test_embedding_and_reconstruction(fitted_table):
    x = table()
    z = fitted_table.transform(x)
    assert z.shape == (ROWS, fitted_table.architecture_.latent_dim)
    again = fitted_table.reconstruct(x)
    assert np.corrcoef(np.log(again["b"]), np.log(x["b"]))[0, 1] > 0.8
    assert list(fitted_table.get_feature_names_out()[:2]) == ["tablevae0", "tablevae1"]
    one, other = ({name: cells[i : i + 1] for name, cells in x.items()} for i in (20, 21))
    assert len(fitted_table.interpolate(one, other, steps=5)["b"]) == 5


def test_gaps_are_filled_alike_however_many_rows_are_drawn_at_a_time(fitted_table, monkeypatch):
    whole = fitted_table.impute(table()), fitted_table.impute_intervals(table())
    monkeypatch.setattr(table_uses, "NUMBERS", 2**15)
    pieces = fitted_table.impute(table()), fitted_table.impute_intervals(table())
    for a, b in zip(whole, pieces, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_table_without_gaps_stays_as_it_is(fitted_table):
    x = fitted_table.impute(table())
    for again in (fitted_table.impute(x), *fitted_table.impute(x, n_imputations=2)):
        for name in x:
            np.testing.assert_array_equal(again[name], x[name])
    low, high = fitted_table.impute_intervals(x)["a"]
    np.testing.assert_array_equal(low, x["a"])
    np.testing.assert_array_equal(high, x["a"])


def test_the_middle_of_draws_is_their_mean_median_or_commonest_level():
    rows = {
        "count": np.arange(60.0) ** 2,
        "grade": np.arange(60.0) % 4,
        "level": np.array(["a", "b", "c"], object)[np.arange(60) % 3],
    }
    codec = fit_codec(read_table(rows), {"count": "count", "grade": "ordinal"})
    u = np.random.default_rng(0).normal(size=(5, 101, 3)).astype(np.float32)
    j = [codec.names.index(name) for name in rows]
    u[:, :, j[2]] = np.arange(101) % 3 == 1
    middle = middles(codec, u, np.ones((len(u), u.shape[2]), bool))
    counts, grades = (codec.values(name, u[:, :, k]) for name, k in zip(("count", "grade"), j, strict=False))
    np.testing.assert_allclose(middle[:, j[0]], counts.mean(axis=1))
    np.testing.assert_allclose(middle[:, j[1]], np.median(grades, axis=1))
    assert (np.abs(counts.mean(axis=1) - np.median(counts, axis=1)) > 1).all()
    assert (middle[:, j[2]] == 0).all()


def test_oddness_is_the_rarer_of_two_tails_counted_in_rows():
    # 101 rows with parts 0 .. 100: a row above k of them has tail -log((101 - k) / 101), to the steps of the quantiles
    part = np.arange(101.0)
    kept = _quantiles(part)
    typical = Typical((), (), (), (), 0.01, kept, kept)
    found = typical.oddness(np.array([0.0, 50.0, 90.0, 100.0, 10.0]), np.array([0.0, 3.0, 4.0, 100.0, 75.0]))
    np.testing.assert_allclose(found, [0, np.log(2), np.log(10), np.log(101), np.log(4)], atol=0.1)
    beyond = typical.oddness(np.array([200.0, 300.0]), np.zeros(2))
    assert np.log(101) < beyond[0] < beyond[1]
    assert np.isnan(typical.oddness(np.array([np.nan]), np.zeros(1)))[0]
    assert Typical.from_json(typical.to_json()) == typical


def test_samples_follow_the_weights_of_rows():
    """Half of the rows have nine times the weight of the others: nine in ten of 2,000 samples are like them, give or
    take what a fit of 500 rows misses by; without weights it would be five."""
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.5
    x = {"g": np.where(first, "a", "b").astype(object), "x": rng.normal(size=500) + 4 * first}
    weights = np.where(first, 9.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = qphi.TableVAE(random_state=0, max_epochs=20).fit(x, sample_weight=weights)
    new = model.sample(2000)
    assert np.mean(new["g"] == "a") == pytest.approx(0.9, abs=0.06)
    assert np.mean(new["x"]) == pytest.approx(np.average(x["x"], weights=weights), abs=0.3)


def test_dates_and_ordinals_have_intervals_too(dated):
    model, x = dated
    for name in ("day", "grade"):
        low, high = model.impute_intervals(x, coverage=0.8)[name]
        seen = ~(np.isnat(x[name]) if name == "day" else np.isnan(x[name]))
        np.testing.assert_array_equal(low[seen], x[name][seen])
        full = model.impute(x)[name]
        assert (low <= full).all()
        assert (full <= high).all()
        assert (low[~seen] < high[~seen]).any()
        # a row with a high `a` has late days and high grades
        order = np.argsort(x["a"][~seen])
        assert low[~seen][order[-1]] > high[~seen][order[0]]


def test_probabilities_of_levels_are_those_of_the_row(dated):
    model, x = dated
    asked = {**x, "city": np.full(300, None, object)}
    found = model.impute_probabilities(asked)
    assert set(found) == {"grade", "city"}
    levels = model.schema_["city"].levels
    np.testing.assert_allclose(found["city"].sum(axis=1), 1)
    p = found["city"][:, levels.index("Rome")]
    assert p[x["a"] > 1].min() > 0.8 > 0.2 > p[x["a"] < -1].max()
    seen = ~np.isnan(x["grade"])
    np.testing.assert_array_equal(found["grade"][seen].argmax(axis=1), x["grade"][seen] - 1)
    assert set(found["grade"][seen].ravel()) == {0.0, 1.0}
    with pytest.raises(InputError, match="draws=0"):
        model.impute_probabilities(x, draws=0)


def test_a_line_for_each_gap_says_what_impute_and_the_others_say(dated):
    model, x = dated
    full, lines = model.impute_listed(x, coverage=0.8)
    again, ends, shares = model.impute(x), model.impute_intervals(x, coverage=0.8), model.impute_probabilities(x)
    for name in x:
        np.testing.assert_array_equal(full.columns[name], again[name])
    c = lines.columns
    assert len(c["row"]) == sum(np.isnat(x["day"])) + sum(np.isnan(x["grade"])) + sum(v is None for v in x["city"])
    assert (np.diff(c["row"]) >= 0).all()
    parts = [c[key] for key in ("column", "filled", "low", "probability")]
    for row, name, value, low, p in zip(c["row"].astype(int), *parts, strict=True):
        assert value == cell_text(again[name][row], "float64")
        assert (low is None) == (name == "city")
        assert np.isnan(p) == (name == "day")
        if name == "grade":
            assert float(low) == ends[name][0][row]
            assert p == shares[name][row, int(float(value)) - 1]


def test_values_that_the_fit_did_not_see_are_odd(dated):
    model, x = dated
    some = {name: cells[:4].copy() for name, cells in x.items()}
    some["city"][:] = "Oslo"
    usual = {**some, "grade": np.full(4, 3.0)}
    beyond, between, below = ({**usual, "grade": np.full(4, grade)} for grade in (40.0, 2.5, 2.0))
    assert (model.anomaly_score(beyond) > model.anomaly_score(usual) + 20).all()
    assert [row[0][0] for row in model.explain(beyond)] == ["grade"] * 4
    neighbours = [model.anomaly_score(one) for one in (usual, below)]
    assert (model.anomaly_score(between) < np.max(neighbours, axis=0) + 1).all()
    with pytest.warns(
        UserWarning, match="'city' has a level that the fit did not see, 'Paris', in row 0 .* and as odd"
    ):
        reasons = model.explain({**usual, "city": np.full(4, "Paris", object)}, top=4)
    # what Krichevsky & Trofimov expect of a level that 300 rows do not have: 1 / 602
    assert all(dict(row)["city"] == pytest.approx(np.log(602)) for row in reasons)
    with pytest.warns(UserWarning, match="Paris"):
        odd = model.anomaly_score({**usual, "city": np.full(4, "Paris", object)})
    assert (odd > model.anomaly_score(usual)).all()


def test_units_do_not_make_a_row_odd_where_half_of_a_column_is_one_value():
    """Beside an atom at the median a density has a unit all the same."""
    rng = np.random.default_rng(0)
    x = {"gain": np.where(rng.random(300) < 0.8, 0.0, rng.exponential(1.0, 300)), "y": rng.normal(size=300)}
    other = {**x, "gain": 1e6 * x["gain"]}
    found, scaled = (quiet(TableVAE(**QUICK), t).explain(t, top=2) for t in (x, other))
    for one, two in zip(found, scaled, strict=True):
        assert dict(one) == pytest.approx(dict(two), abs=0.1)


def test_reconstructions_have_the_columns_of_their_rows():
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=60), "id": np.arange(60), "b": rng.normal(size=60)}
    model = quiet(TableVAE(**QUICK), x)
    turned = {"b": x["b"], "a": x["a"]}
    again = model.reconstruct(turned)
    assert list(again) == ["b", "a"]
    np.testing.assert_array_equal(again["a"], model.reconstruct(x)["a"])


def test_weights_of_rows_are_felt_by_scales_and_by_what_is_typical():
    """99 in 100 rows by weight are near 0; unweighted, 1 in 2."""
    rng = np.random.default_rng(0)
    far = np.arange(400) % 2 == 0
    x = {"a": rng.normal(size=400) + 10 * far, "b": rng.normal(size=400)}
    weights = np.where(far, 1.0, 99.0)
    model = quiet(TableVAE(**QUICK), x, sample_weight=weights)
    scores = model.codec_.scores[0]
    assert abs(scores.encode(np.zeros(1))[0][0, 0]) < 0.3  # the middle of the weighted column
    assert model.typical_.centre[0] == pytest.approx(0.1, abs=0.2)
    score = model.anomaly_score(x)
    assert np.median(score[far]) > np.median(score[~far]) + 2


def test_a_column_whose_weighted_rows_are_all_alike():
    rng = np.random.default_rng(0)
    x = {"a": np.where(np.arange(60) < 50, 1.5, rng.normal(size=60)), "b": rng.normal(size=60)}
    x["c"] = np.where(np.arange(60) < 50, 0.0, rng.normal(size=60))
    model = quiet(TableVAE(**QUICK), x, sample_weight=(np.arange(60) < 50).astype(float))
    assert np.isfinite(model.anomaly_score(x)).all()
    assert np.isfinite([*model.typical_.centre, *model.typical_.spread, *model.typical_.usual]).all()


def test_a_detector_knows_gaps_that_tell():
    x = pytest.importorskip("pandas").DataFrame(table())
    found = quiet(qphi.AnomalyDetector(missing="not at random", **QUICK), x)
    assert found.model_.missing == "not at random"
    assert found.model_.architecture_.not_at_random
