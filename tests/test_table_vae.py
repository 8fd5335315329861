"""`TableVAE`, `Imputer` and `AnomalyDetector`: one small fit of a mixed table, and what is done with it."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import qphi
from qphi import AnomalyDetector, Imputer, InputError, TableVAE
from qphi.tables.anomalies import Typical, _quantiles

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


def test_scores_are_deterministic_row_by_row_and_odd_rows_are_explained(fitted):
    x = table()
    x["b"][7] = 900.0
    x["a"][7] = -2.0
    scores = fitted.score_samples(x)
    some = {name: cells[5:9] for name, cells in x.items()}
    np.testing.assert_array_equal(fitted.score_samples(some), scores[5:9])
    assert np.argmax(fitted.anomaly_score(x)) == 7
    assert {name for name, _ in fitted.explain(x, top=2)[7]} == {"a", "b"}


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
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(table()), fitted.transform(table()))


def test_the_same_seed_gives_the_same_model(fitted):
    np.testing.assert_array_equal(quiet(clone(fitted), table()).transform(table()), fitted.transform(table()))


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
def test_the_vae_of_arrays_sends_tables_here(library):
    module = pytest.importorskip(library)
    make = module.table if library == "pyarrow" else module.DataFrame
    for column in (["u", "v", "u"], [1.0, None, 2.0]):
        with pytest.raises(InputError, match=r"qphi\.TableVAE"):
            qphi.VAE().fit(make({"a": [0.5, 1.0, 2.0], "b": column}))


# scikit-learn asks that a row of weight 2 be the same as the row twice; rows held out for the end of training are drawn
# by chance, and so is the noise of every step. Its own stochastic estimators are exempt likewise (IsolationForest).
STOCHASTIC = {"check_sample_weight_equivalence_on_dense_data": "held-out rows and noise are random"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Imputer, AnomalyDetector, TableVAE])
def test_scikit_learn_finds_nothing_wrong(kind, wrong_types):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(kind(**QUICK), expected_failed_checks=STOCHASTIC)


@pytest.mark.parametrize("kind", [Imputer, AnomalyDetector, TableVAE])
@pytest.mark.parametrize("form", ["csr", "dok"])
def test_sparse_and_empty_arrays_are_refused(kind, form, wrong_types):
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        kind(**QUICK).fit(scipy.sparse.eye_array(5, format=form))
    with pytest.raises(ValueError, match=r"0 feature\(s\) \(shape=\(5, 0\)\) while a minimum of 1 is required"):
        kind(**QUICK).fit(np.zeros((5, 0)))
    with pytest.raises(InputError, match="all weights are zero"):
        kind(**QUICK).fit(np.random.default_rng(0).normal(size=(9, 2)), sample_weight=np.zeros(9))
