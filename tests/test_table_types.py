"""Frames of every library come back with the types and cells that they had."""

import datetime
import warnings
from decimal import Decimal

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

import qphi
from qphi import InputError, TableVAE
from small_table import QUICK, quiet


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


def test_python_objects_in_a_frame_come_back_as_what_they_were():
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    made = {
        "price": [Decimal(f"{v:.2f}") for v in rng.exponential(20, 80)],
        "day": [datetime.date(2024, 1, 1) + datetime.timedelta(int(k)) for k in rng.integers(0, 90, 80)],
        "time": [datetime.datetime(2024, 1, 1, 3) + datetime.timedelta(hours=int(k)) for k in rng.integers(0, 900, 80)],
        "whole": [int(k) for k in rng.integers(0, 500, 80)],
        "big": [2**60 + int(k) for k in rng.integers(0, 1000, 80)],
    }
    frame = pandas.DataFrame({k: pandas.Series([None, *v[1:]], dtype=object) for k, v in made.items() if k != "big"})
    frame["big"] = pandas.array([None, *made["big"][1:]], dtype="Int64")
    full = quiet(TableVAE(**QUICK), frame).impute(frame)
    assert (full.dtypes == frame.dtypes).all()
    for name, cells in made.items():
        assert full[name].tolist()[1:] == cells[1:]
        assert type(full[name].tolist()[0]) is type(cells[0])


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_decimals_of_frames_come_back_as_decimals(library):
    made = pytest.importorskip(library)
    rng = np.random.default_rng(0)
    price = [None, *(Decimal(f"{v:.2f}") for v in rng.exponential(20, 59))]
    if library == "polars":
        frame = made.DataFrame({"price": made.Series(price, dtype=made.Decimal(10, 2)), "b": rng.normal(size=60)})
    else:
        frame = made.table({"price": made.array(price, made.decimal128(10, 2)), "b": rng.normal(size=60)})
    model = quiet(TableVAE(**QUICK), frame)
    full, new = model.impute(frame), model.sample(3)
    assert full.schema == frame.schema == new.schema
    cells = full["price"].to_list() if library == "polars" else full["price"].to_pylist()
    assert cells[1:] == price[1:]
    assert isinstance(cells[0], Decimal)


def test_what_polars_has_beside_frames_says_how_to_make_one(dated):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": [1.0, 2.0]})
    with pytest.raises(InputError, match=r"X is a polars LazyFrame; a table is needed. Give X.collect\(\)"):
        dated[0].impute(frame.lazy())
    with pytest.raises(InputError, match=r"X is a polars Series; a table is needed. Give X.to_frame\(\)"):
        dated[0].impute(frame["a"])


def test_a_column_of_gaps_alone_is_filled_whatever_the_type_of_its_gaps(dated):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    model, x = dated
    frame = pandas.DataFrame({name: cells[:5] for name, cells in x.items()})
    for gap in (None, np.nan, pandas.NaT, pandas.NA):
        full = model.impute(frame.assign(city=gap, day=gap, grade=np.nan))
        assert set(full["city"]) <= {"Rome", "Oslo"}
        low, high = model.impute_intervals(frame.assign(day=gap))["day"]
        assert (low < high).all()
        assert full["day"].dtype.kind == "M"
        assert not full.isna().to_numpy().any()
    empty = polars.DataFrame({"a": x["a"][:5]}).with_columns(
        polars.lit(None).alias(n) for n in ("day", "grade", "city")
    )
    full = model.impute(empty)
    assert full.null_count().sum_horizontal().item() == 0
    assert model.impute_probabilities(empty)["city"].shape == (5, 2)


def test_reconstructions_have_the_types_of_the_fit(dated):
    model, x = dated
    rows = {**x, "a": np.zeros(300, int)}
    again = model.reconstruct(rows)
    assert again["a"].dtype == float
    assert (again["a"] % 1 != 0).any()


def test_decimals_of_any_length_stay():
    pyarrow = pytest.importorskip("pyarrow")
    polars = pytest.importorskip("polars")
    rng = np.random.default_rng(0)
    long = [None, *(Decimal(f"123456789012345{int(v):03d}.91") for v in rng.integers(0, 999, 59))]
    wide = [None, *(Decimal(f"{v:.18f}") for v in rng.uniform(1e10, 2e10, 59))]
    columns = {
        "long": pyarrow.array(long, pyarrow.decimal128(20, 2)),
        "wide": pyarrow.array(wide, pyarrow.decimal128(38, 18)),
    }
    frame = pyarrow.table({**columns, "b": rng.normal(size=60)})
    full = quiet(TableVAE(**QUICK), frame).impute(frame)
    assert full["long"].to_pylist()[1:] == long[1:]
    assert full["wide"].to_pylist()[1:] == wide[1:]
    other = polars.DataFrame({"long": polars.Series(long, dtype=polars.Decimal(20, 2)), "b": rng.normal(size=60)})
    assert quiet(TableVAE(**QUICK), other).impute(other)["long"].to_list()[1:] == long[1:]


def test_frames_of_pandas_with_types_of_arrow():
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    rng = np.random.default_rng(0)
    price = [None, *(Decimal(f"{v:.2f}") for v in rng.exponential(20, 59))]
    made = pyarrow.table(
        {
            "price": pyarrow.array(price, pyarrow.decimal128(10, 2)),
            "day": pyarrow.array([None, *(datetime.date(2024, 1, 1 + int(k)) for k in rng.integers(0, 30, 59))]),
            "count": pyarrow.array([None, *rng.integers(0, 99, 59).tolist()]),
            "city": pyarrow.array([None, *rng.choice(["Rome", "Oslo", "Bern"], 59).tolist()]),
            "b": rng.normal(size=60),
        }
    )
    frame = made.to_pandas(types_mapper=pandas.ArrowDtype)
    full = quiet(TableVAE(**QUICK), frame).impute(frame)
    assert (full.dtypes == frame.dtypes).all()
    assert not full.isna().to_numpy().any()
    assert full["price"].tolist()[1:] == frame["price"].tolist()[1:]


def test_times_with_a_zone_among_objects_keep_one():
    pandas = pytest.importorskip("pandas")
    start = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    times = [None, *(start + datetime.timedelta(hours=int(k)) for k in np.random.default_rng(0).integers(0, 900, 59))]
    frame = pandas.DataFrame({"time": pandas.Series(times, dtype=object), "b": np.arange(60.0)})
    full = quiet(TableVAE(**QUICK), frame).impute(frame)
    assert full["time"].tolist()[0].tzinfo is not None
    assert sorted(full["time"])[0] >= start
