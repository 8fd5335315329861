"""`TableVAE`, `Imputer` and `AnomalyDetector`: fits, files and what scikit-learn asks for."""

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
from qphi.data import frames
from qphi.data.codec import fit_codec
from qphi.data.containers import to_container
from qphi.data.frames import mixed_table, read_table
from qphi.estimators.handover import Handover
from qphi.estimators.judging import Judging
from small_table import QUICK, ROWS, quiet, table


def test_saved_and_loaded_it_gives_the_same_bits(fitted_table, tmp_path):
    fitted_table.save(tmp_path / "model")
    again = qphi.load(tmp_path / "model")
    assert isinstance(again, TableVAE)
    np.testing.assert_array_equal(again.score_samples(table()), fitted_table.score_samples(table()))
    assert str(again.schema_) == str(fitted_table.schema_)
    assert again.widths_ == fitted_table.widths_
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(fitted_table)).transform(table()), fitted_table.transform(table())
    )


def test_codes_come_as_a_data_frame_where_asked_for(fitted_table):
    model = copy.copy(fitted_table).set_output(transform="pandas")
    codes = model.transform(table())
    assert list(codes.columns) == list(model.get_feature_names_out())
    np.testing.assert_array_equal(codes.to_numpy(), fitted_table.transform(table()))


def test_the_same_seed_gives_the_same_model(fitted_table):
    np.testing.assert_array_equal(
        quiet(clone(fitted_table), table()).transform(table()), fitted_table.transform(table())
    )


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[TableVAE, Path]:
    """A fit that ended after one check of 50 steps, and its folder, not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    return quiet(TableVAE(particles=2, **QUICK | {"max_epochs": 1}), table(), run_dir=folder), folder


def test_stopped_and_resumed_is_the_uninterrupted_fit(fitted_table, stopped, tmp_path):
    shutil.copytree(stopped[1], tmp_path / "run")
    again = quiet(TableVAE(particles=2, **QUICK), table(), run_dir=tmp_path / "run", resume=True)
    assert stopped[0].n_iter_ < again.n_iter_ == fitted_table.n_iter_
    assert again.history_["held_out_elbo"] == fitted_table.history_["held_out_elbo"]
    np.testing.assert_array_equal(again.transform(table()), fitted_table.transform(table()))
    np.testing.assert_array_equal(again.sample(20)["b"], fitted_table.sample(20)["b"])
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


def test_piece_by_piece(fitted_table, stopped):
    # 50 steps, a check of the fit, are 3.125 passes over 270 rows in batches of 16: twice that is as good as the fit
    model = qphi.VAE(particles=2, **QUICK).partial_fit(table(), epochs=3.125)
    np.testing.assert_array_equal(model.transform(table()), stopped[0].transform(table()))
    model.partial_fit(table(), epochs=3.125)
    assert model.n_iter_ == fitted_table.n_iter_ == 100
    # the rows come in another order from step 50 on; the optimiser and the average go on
    first, second = fitted_table.history_["held_out_elbo"]
    assert model.history_["held_out_elbo"][0] == pytest.approx(second, abs=0.25 * abs(second - first) + 0.02)
    assert np.corrcoef(model.anomaly_score(table()), fitted_table.anomaly_score(table()))[0, 1] > 0.9


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


def test_a_vae_hands_tables_over(fitted_table, tmp_path):
    vae = quiet(qphi.VAE(particles=2, **QUICK), table())
    np.testing.assert_array_equal(vae.transform(table()), fitted_table.transform(table()))
    np.testing.assert_array_equal(vae.score_samples(table()), fitted_table.score_samples(table()))
    assert vae.get_feature_names_out()[0] == "vae0"
    assert str(vae.schema_) == str(fitted_table.schema_)
    assert vae.status_ is fitted_table.status_
    assert not np.isnan(vae.impute(table())["a"]).any()
    assert set(vae.sample(50, given={"c": "rare"})["c"]) == {"rare"}
    vae.save(tmp_path / "model")
    for again in (qphi.VAE.load(tmp_path / "model"), pickle.loads(pickle.dumps(vae)), qphi.load(tmp_path / "model")):
        np.testing.assert_array_equal(again.transform(table()), fitted_table.transform(table()))
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
