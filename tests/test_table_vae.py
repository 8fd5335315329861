"""`TableVAE`, `Imputer` and `AnomalyDetector`: one small fit of a mixed table, and what is done with it."""

import copy
import inspect
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import qphi
from qphi import AnomalyDetector, Imputer, InputError, TableVAE
from qphi.cli.main import main
from qphi.data import frames
from qphi.data.codec import fit_codec
from qphi.data.frames import mixed_table, read_table, to_container
from qphi.data.table_files import read_table_file
from qphi.estimators import table_uses
from qphi.estimators.handover import Handover
from qphi.estimators.judging import Judging
from qphi.tables.anomalies import Typical, _quantiles
from qphi.tables.filling import middles
from qphi.tables.widths import Widths

ROWS = 300
QUICK = {"hidden": (8,), "max_epochs": 4, "random_state": 0}


def table(rows: int = ROWS, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=rows)
    x = {
        "a": z + 0.3 * rng.normal(size=rows),
        "b": np.exp(z + 0.3 * rng.normal(size=rows)),
        "n": rng.poisson(np.exp(1 + 0.5 * z)).astype(float),
        "c": np.where(z + 0.3 * rng.normal(size=rows) > 0.97, "rare", "common").astype(object),
        "k": np.ones(rows),
    }
    x["a"][rng.random(rows) < 0.3] = np.nan
    x["c"][:5] = None
    return x


def quiet(model, x, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x, **arguments)


@pytest.fixture(scope="module")
def fitted() -> TableVAE:
    return quiet(TableVAE(particles=2, **QUICK), table())


def test_gaps_are_filled_by_what_the_row_says_and_the_rest_stays(fitted):
    x = table()
    full = fitted.impute(x)
    assert list(full) == list(x)
    for name, cells in x.items():
        seen = np.array([v is not None and v == v for v in cells.tolist()])
        assert (full[name][seen] == cells[seen]).all()
    assert not np.isnan(full["a"]).any()
    gap = np.isnan(x["a"])
    assert np.corrcoef(full["a"][gap], np.log(x["b"][gap]))[0, 1] > 0.8  # b says what a was
    assert set(full["c"][:5]) <= {"common", "rare"}


def test_multiple_imputations_differ_in_the_gaps_only(fitted):
    x = table()
    first, second = fitted.impute(x, n_imputations=2)
    gap = np.isnan(x["a"])
    assert (first["a"][~gap] == second["a"][~gap]).all()
    assert np.mean(first["a"][gap] != second["a"][gap]) > 0.9


def test_intervals_contain_the_middle_and_observed_cells_are_their_own(fitted):
    x = table()
    low, high = fitted.impute_intervals(x, coverage=0.8)["a"]
    gap = np.isnan(x["a"])
    assert (low[gap] < high[gap]).all()
    np.testing.assert_array_equal(low[~gap], x["a"][~gap])
    with pytest.raises(InputError, match=r"coverage=1.5: a number between 0 and 1"):
        fitted.impute_intervals(x, coverage=1.5)
    model = copy.copy(fitted)
    model._widths, model._unseen = Widths((2.0,) * 7, (2.0,) * 7), None
    wider = model.impute_intervals(x, coverage=0.8)["a"]
    assert np.mean(wider[0][gap] < low[gap]) > 0.9
    assert np.mean(wider[1][gap] > high[gap]) > 0.9
    whole = fitted.impute_intervals(x)["n"]
    assert (whole[0] == np.round(whole[0])).all()  # a count
    with pytest.raises(InputError, match="draws=0: a whole number of at least 1"):
        fitted.impute_intervals(x, draws=0)


def test_samples_look_like_the_table_and_rare_levels_survive(fitted):
    # 16.6 % of the rows are rare; 2,000 draws and a model of 300 rows: 3 points are more than 3 standard errors of both
    x, drawn = table(), fitted.sample(2000)
    share = np.mean(x["c"][5:] == "rare")
    assert np.mean(drawn["c"] == "rare") == pytest.approx(share, abs=0.08)
    assert drawn["n"].min() >= 0
    assert (drawn["n"] == np.round(drawn["n"])).all()
    assert (drawn["k"] == 1).all()
    assert drawn["b"].max() <= x["b"].max()


def test_given_cells_are_kept_and_move_the_others(fitted):
    rare, common = (fitted.sample(400, given={"c": level}) for level in ("rare", "common"))
    assert set(rare["c"]) == {"rare"}
    assert rare["a"].mean() > common["a"].mean() + 0.5
    with pytest.raises(InputError, match=r"given c='odd': the fit saw no such level. Use one of 'common', 'rare'"):
        fitted.sample(3, given={"c": "odd"})


def test_several_cells_given_numbers_among_them(fitted):
    # a and log b are both z + 0.3 noise: E[a | log b] = log b / 1.09
    for b in (0.3, 3.0):
        drawn = fitted.sample(500, given={"b": b, "n": 3})
        assert (drawn["b"] == b).all()
        assert (drawn["n"] == 3).all()
        assert drawn["a"].mean() == pytest.approx(np.log(b) / 1.09, abs=0.4)


def test_levels_are_drawn_equally_often_and_bring_what_goes_with_them(fitted):
    drawn = fitted.sample(401, balanced="c")
    assert sorted(np.unique(drawn["c"], return_counts=True)[1]) == [200, 201]
    rare, common = (drawn["a"][drawn["c"] == level].mean() for level in ("rare", "common"))
    given = fitted.sample(400, given={"c": "rare"})["a"].mean()
    assert rare > common + 0.5
    assert rare == pytest.approx(given, abs=0.2)  # 200 draws of sd 0.5: 0.2 is 5 standard errors of the difference
    assert (fitted.sample(20, balanced="c", given={"b": 2.0})["b"] == 2.0).all()
    np.testing.assert_array_equal(drawn["a"], fitted.sample(401, balanced="c")["a"])


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
def test_conditions_that_cannot_be(fitted, arguments, message):
    with pytest.raises(InputError, match=message):
        fitted.sample(3, **arguments)


def test_the_shell_samples_given_cells_and_balanced(fitted, tmp_path, capsys):
    fitted.save(tmp_path / "run")
    wanted = ["sample", str(tmp_path / "run"), "-n", "30", "--given", "n=3", "--balanced", "c", "-o"]
    assert main([*wanted, str(tmp_path / "x.csv")]) == 0
    made = read_table_file(tmp_path / "x.csv").columns
    assert (made["n"] == 3).all()
    assert list(np.unique(made["c"], return_counts=True)[1]) == [15, 15]
    assert main(["sample", str(tmp_path / "run"), "--balanced", "a"]) == 2
    assert "has no levels to draw equally often" in capsys.readouterr().err


def test_scores_are_deterministic_row_by_row_and_odd_rows_are_explained(fitted):
    x = table()
    x["b"][7] = 900.0
    x["a"][7] = -2.0
    scores = fitted.score_samples(x)
    some = {name: cells[5:9] for name, cells in x.items()}
    np.testing.assert_array_equal(fitted.score_samples(some), scores[5:9])
    assert np.argmax(fitted.anomaly_score(x)) == 7
    assert {name for name, _ in fitted.explain(x, top=2)[7]} == {"a", "b"}


def test_a_table_of_scores_holds_what_the_three_methods_say(fitted):
    x = table()
    scores = fitted.score_table(x, top=2)
    np.testing.assert_array_equal(scores["log_p"], fitted.score_samples(x))
    np.testing.assert_array_equal(scores["anomaly_score"], fitted.anomaly_score(x))
    first = ", ".join(f"{name} ({nats:.1f})" for name, nats in fitted.explain(x, top=2)[0])
    assert scores["because_of"][0] == first


def test_units_move_log_p_by_a_constant_and_nothing_else(fitted):
    x = table()
    other = {**x, "a": 1000 * x["a"], "b": 1000 * x["b"]}
    scaled = quiet(TableVAE(particles=2, **QUICK), other)
    seen = 1.0 + ~np.isnan(x["a"])
    np.testing.assert_allclose(fitted.score_samples(x) - scaled.score_samples(other), seen * np.log(1000), atol=2e-2)
    np.testing.assert_allclose(1000 * fitted.impute(x)["a"], scaled.impute(other)["a"], rtol=1e-2, atol=5)


def test_embedding_and_reconstruction(fitted):
    x = table()
    z = fitted.transform(x)
    assert z.shape == (ROWS, fitted.architecture_.latent_dim)
    again = fitted.reconstruct(x)
    assert np.corrcoef(np.log(again["b"]), np.log(x["b"]))[0, 1] > 0.8
    assert list(fitted.get_feature_names_out()[:2]) == ["tablevae0", "tablevae1"]
    one, other = ({name: cells[i : i + 1] for name, cells in x.items()} for i in (20, 21))
    assert len(fitted.interpolate(one, other, steps=5)["b"]) == 5


def test_saved_and_loaded_it_gives_the_same_bits(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    again = qphi.load(tmp_path / "model")
    assert isinstance(again, TableVAE)
    np.testing.assert_array_equal(again.score_samples(table()), fitted.score_samples(table()))
    assert str(again.schema_) == str(fitted.schema_)
    assert again.widths_ == fitted.widths_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(table()), fitted.transform(table()))


def test_codes_come_as_a_data_frame_where_asked_for(fitted):
    model = copy.copy(fitted).set_output(transform="pandas")
    codes = model.transform(table())
    assert list(codes.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(codes.to_numpy(), fitted.transform(table()))


def test_gaps_are_filled_alike_however_many_rows_are_drawn_at_a_time(fitted, monkeypatch):
    whole = fitted.impute(table()), fitted.impute_intervals(table())
    monkeypatch.setattr(table_uses, "NUMBERS", 2**15)
    pieces = fitted.impute(table()), fitted.impute_intervals(table())
    for a, b in zip(whole, pieces, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_table_without_gaps_stays_as_it_is(fitted):
    x = fitted.impute(table())
    for again in (fitted.impute(x), *fitted.impute(x, n_imputations=2)):
        for name in x:
            np.testing.assert_array_equal(again[name], x[name])
    low, high = fitted.impute_intervals(x)["a"]
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


def test_the_same_seed_gives_the_same_model(fitted):
    np.testing.assert_array_equal(quiet(clone(fitted), table()).transform(table()), fitted.transform(table()))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[TableVAE, Path]:
    """A fit that ended after one check of 50 steps, and its folder, not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    return quiet(TableVAE(particles=2, **QUICK | {"max_epochs": 1}), table(), run_dir=folder), folder


def test_stopped_and_resumed_is_the_uninterrupted_fit(fitted, stopped, tmp_path):
    shutil.copytree(stopped[1], tmp_path / "run")
    again = quiet(TableVAE(particles=2, **QUICK), table(), run_dir=tmp_path / "run", resume=True)
    assert stopped[0].n_iter_ < again.n_iter_ == fitted.n_iter_
    assert again.history_["held_out_elbo"] == fitted.history_["held_out_elbo"]
    np.testing.assert_array_equal(again.transform(table()), fitted.transform(table()))
    np.testing.assert_array_equal(again.sample(20)["b"], fitted.sample(20)["b"])
    assert (tmp_path / "run" / "metrics.csv").is_file()


def test_what_a_run_cannot_be_resumed_with(stopped):
    for parameters, x, message in (
        ({}, table(seed=1), "started with other data"),
        ({"random_state": 1}, table(), "started with seed 0, not 1"),
        ({"hidden": (9,)}, table(), "started with another architecture"),
        ({"particles": 3}, table(), "started with another bound or way to train"),
    ):
        with pytest.raises(InputError, match=message):
            TableVAE(**{"particles": 2} | QUICK | parameters).fit(x, run_dir=stopped[1], resume=True)
    with pytest.raises(InputError, match="resume=True needs run_dir="):
        TableVAE().fit(table(), resume=True)


def test_piece_by_piece(fitted, stopped):
    # 50 steps, a check of the fit, are 3.125 passes over 270 rows in batches of 16: twice that is as good as the fit
    model = qphi.VAE(particles=2, **QUICK).partial_fit(table(), epochs=3.125)
    np.testing.assert_array_equal(model.transform(table()), stopped[0].transform(table()))
    model.partial_fit(table(), epochs=3.125)
    assert model.n_iter_ == fitted.n_iter_ == 100
    # the rows come in another order from step 50 on; the optimiser and the average go on
    first, second = fitted.history_["held_out_elbo"]
    assert model.history_["held_out_elbo"][0] == pytest.approx(second, abs=0.25 * abs(second - first) + 0.02)
    assert np.corrcoef(model.anomaly_score(table()), fitted.anomaly_score(table()))[0, 1] > 0.9


def test_from_a_saved_model_on_to_other_rows(stopped):
    again = TableVAE.load(stopped[1]).partial_fit(table(seed=1), epochs=3.125)
    assert again.n_iter_ == 50
    assert not np.array_equal(again.transform(table()), stopped[0].transform(table()))
    with pytest.raises(InputError, match="has no column 'b'"):
        again.partial_fit({name: cells for name, cells in table().items() if name != "b"})
    with pytest.raises(InputError, match="epochs=0: a positive number"):
        again.partial_fit(table(), epochs=0)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"latent_dim": 0}, "latent_dim=0: a whole number of at least 1"),
        ({"hidden": ()}, "hidden=.*at least one layer"),
        ({"max_time": -1}, "max_time=-1: a positive number"),
        ({"kinds": {"z": "real"}}, "kinds names column 'z', which is not there"),
    ],
)
def test_parameters_that_cannot_be(parameters, message):
    with pytest.raises(InputError, match=message):
        TableVAE(**parameters).fit(table())
    with pytest.raises(InputError, match=r"sample_weight has shape \(2,\); 300 finite"):
        TableVAE().fit(table(), sample_weight=[1, 2])
    with pytest.raises(InputError, match="1 row"):
        TableVAE().fit({"a": [1.0], "b": [2.0]})
    with pytest.raises(NotFittedError):
        TableVAE().impute(table())


def test_oddness_is_the_rarer_of_two_tails_counted_in_rows():
    # 101 rows with parts 0 .. 100: a row above k of them has tail -log((101 - k) / 101), to the steps of the quantiles
    part = np.arange(101.0)
    kept = _quantiles(part)
    typical = Typical((), (), (), (), kept, kept)
    found = typical.oddness(np.array([0.0, 50.0, 90.0, 100.0, 10.0]), np.array([0.0, 3.0, 4.0, 100.0, 75.0]))
    np.testing.assert_allclose(found, [0, np.log(2), np.log(10), np.log(101), np.log(4)], atol=0.1)
    beyond = typical.oddness(np.array([200.0, 300.0]), np.zeros(2))
    assert np.log(101) < beyond[0] < beyond[1]
    assert np.isnan(typical.oddness(np.array([np.nan]), np.zeros(1)))[0]
    assert Typical.from_json(typical.to_json()) == typical


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_frame_is_a_table_unless_an_array_of_numbers_can_hold_it(library):
    module = pytest.importorskip(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    for column, mixed in (
        (["u", "v", "u"], True),
        ([1.0, None, 2.0], True),
        ([True, False, True], True),
        ([3, 1, 2], False),
    ):
        assert (mixed_table(make({"a": [0.5, 1.0, 2.0], "b": column})) is not None) == mixed
    assert mixed_table(make({"a": [True, False], "b": [False, False]})) is None
    assert mixed_table(np.array([[np.nan, 1.0]])) is None


def test_a_vae_hands_tables_over(fitted, tmp_path):
    vae = quiet(qphi.VAE(particles=2, **QUICK), table())
    np.testing.assert_array_equal(vae.transform(table()), fitted.transform(table()))
    np.testing.assert_array_equal(vae.score_samples(table()), fitted.score_samples(table()))
    assert vae.get_feature_names_out()[0] == "vae0"
    assert str(vae.schema_) == str(fitted.schema_)
    assert vae.status_ is fitted.status_
    assert not np.isnan(vae.impute(table())["a"]).any()
    assert set(vae.sample(50, given={"c": "rare"})["c"]) == {"rare"}
    vae.save(tmp_path / "model")
    for again in (qphi.VAE.load(tmp_path / "model"), pickle.loads(pickle.dumps(vae)), qphi.load(tmp_path / "model")):
        np.testing.assert_array_equal(again.transform(table()), fitted.transform(table()))
    assert 0 < vae.evaluate(table()).quality <= 1
    with pytest.raises(InputError, match=r"fitted to a table .* Use what qphi\.TableVAE has"):
        vae.diagnose(table())
    with pytest.raises(InputError, match=r"sample of a table: got an unexpected keyword argument 'noise'"):
        vae.sample(3, noise=False)
    with pytest.raises(AttributeError, match="impute is for tables: fit a data frame"):
        _ = qphi.VAE().impute


def test_what_a_table_and_an_array_can_both_be_asked_is_handed_over():
    both = {n for n, _ in inspect.getmembers(TableVAE, inspect.isfunction) if not n.startswith("_")} & {
        n for n, _ in inspect.getmembers(Judging, inspect.isfunction)
    }
    assert {"evaluate", "sample", "transform"} <= both
    assert both <= {*vars(Handover), *vars(qphi.VAE)}  # `either`, or the estimator's own


def test_a_vae_of_a_table_refuses_what_tables_have_not():
    for parameters, message in (
        ({"prior": "vamp"}, "prior='vamp' has no meaning for a table with text, dates or gaps"),
        ({"likelihood": "gaussian"}, "likelihood='gaussian' has no meaning"),
    ):
        with pytest.raises(InputError, match=message):
            qphi.VAE(**parameters).fit(table())
    with pytest.raises(InputError, match="covariates= has no meaning for a table"):
        qphi.VAE().fit(table(), covariates=np.ones((ROWS, 1)))


# scikit-learn asks that a row of weight 2 be the same as the row twice; rows held out for the end of training are drawn
# by chance, and so is the noise of every step. Its own stochastic estimators are exempt likewise (IsolationForest).
STOCHASTIC = {
    f"check_sample_weight_equivalence_on_{cells}_data": "held-out rows and noise are random"
    for cells in ("dense", "sparse")
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Imputer, AnomalyDetector, TableVAE])
def test_scikit_learn_finds_nothing_wrong(kind, wrong_types):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(kind(**QUICK), expected_failed_checks=STOCHASTIC)


@pytest.mark.parametrize("kind", [Imputer, AnomalyDetector, TableVAE])
def test_empty_arrays_and_weights_are_refused(kind, wrong_types):
    for empty in (np.zeros((5, 0)), scipy.sparse.csr_array((5, 0))):
        with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(5, 0\)\) while a minimum of 1 is required"):
            kind(**QUICK).fit(empty)
    with pytest.raises(InputError, match="all weights are zero"):
        kind(**QUICK).fit(np.random.default_rng(0).normal(size=(9, 2)), sample_weight=np.zeros(9))


def counts() -> np.ndarray:
    x = np.random.default_rng(0).poisson(0.4, size=(60, 4)).astype(float)
    x[3, 1] = np.nan
    return x


@pytest.mark.parametrize("form", ["csr_array", "csr_matrix", "csc_array", "csc_matrix", "dok_array", "coo_matrix"])
def test_sparse_matrices_come_back_as_they_were(form):
    x = counts()
    given = getattr(scipy.sparse, form)(x)
    table = read_table(given)
    dense = read_table(x)
    for name, cells in dense.columns.items():
        np.testing.assert_array_equal(table.columns[name], cells)
    back = to_container(table)
    assert type(back).__name__ == form.replace("dok", "csr").replace("coo", "csr")
    assert back.nnz == np.count_nonzero(x)
    np.testing.assert_array_equal(back.toarray(), x)
    assert [c.kind for c in fit_codec(table).schema.columns] == [c.kind for c in fit_codec(dense).schema.columns]


def test_sparse_matrices_in_and_out_a_piece_at_a_time(monkeypatch):
    x = counts()
    sparse = scipy.sparse.csr_matrix(x)
    detector = AnomalyDetector(**QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = detector.fit(sparse).model_
    assert not hasattr(model, "feature_names_in_")
    whole = (model.transform(x), model.score_samples(x), model.impute(x), detector.score_samples(x))
    assert np.isfinite(whole[2]).all()
    monkeypatch.setattr(frames, "PIECE", 25)
    pieces = (
        model.transform(sparse),
        model.score_samples(sparse),
        model.impute(sparse),
        detector.score_samples(sparse),
    )
    assert isinstance(pieces[2], scipy.sparse.csr_matrix)
    for one, other in zip(whole, (*pieces[:2], pieces[2].toarray(), pieces[3]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert model.explain(sparse) == model.explain(x)
    again = model.reconstruct(sparse)
    assert isinstance(again, scipy.sparse.csr_matrix)
    assert again.shape == x.shape
    with pytest.raises(InputError, match="X has 3 features, but TableVAE is expecting 4"):
        model.transform(sparse[:, :3])
    with pytest.raises(InputError, match=r"sparse, 100000 x 100000; .*TruncatedSVD"):
        TableVAE().fit(scipy.sparse.csr_array((100_000, 100_000)))


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


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_whole_numbers_beyond_the_exact_ones_stay(library):
    made = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    big = [2**60 + int(i) for i in rng.integers(0, 1000, size=60)]
    columns = {"u": rng.normal(size=60).tolist(), "big": [None, *big[1:]], "full": [b + 1 for b in big]}
    frame = made.DataFrame(columns) if library == "polars" else made.table(columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        filled = qphi.TableVAE(random_state=0, max_epochs=2).fit(frame).impute(frame)
    lists = filled.to_dict(as_series=False) if library == "polars" else filled.to_pydict()
    assert lists["full"] == columns["full"]
    assert lists["big"][1:] == columns["big"][1:]
    assert lists["big"][0] is not None


def test_reconstructions_keep_the_index_of_their_frame():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pandas.DataFrame(rng.normal(size=(40, 2)), columns=["a", "b"], index=np.arange(40) + 500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = qphi.TableVAE(**QUICK).fit(frame)
    assert model.reconstruct(frame).index.equals(frame.index)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_scores_come_in_the_frame_that_the_rows_came_in(library):
    made = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    columns = {"a": rng.normal(size=40).tolist(), "l": [[1, 2]] * 40}
    frame = made.table(columns) if library == "pyarrow" else made.DataFrame(columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = qphi.TableVAE(**QUICK).fit(frame)
    scores = model.score_table(frame)
    assert type(scores) is type(frame)
    np.testing.assert_array_equal(np.asarray(scores["log_p"]), model.score_samples(frame))
    assert type(model.sample(3)) is type(frame)  # lists are left out, which is no reason to fail
