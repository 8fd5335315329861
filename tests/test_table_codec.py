"""Columns to kinds, to normal scores, and back: types, ranges, levels, order and gaps."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import norm

from qphi import InputError
from qphi.data.codec import TableCodec, fit_codec
from qphi.data.containers import to_container
from qphi.data.frames import read_table
from qphi.data.schema import find_schema
from qphi.data.scores import fit_scores
from qphi.tables.anomalies import fit_typical

ROWS = 400


def columns() -> dict:
    rng = np.random.default_rng(0)
    days = np.datetime64("2020-01-01") + rng.integers(0, 90, ROWS).astype("timedelta64[D]")
    days = days.astype("datetime64[ns]")
    days[3] = np.datetime64("NaT")
    city = rng.choice(np.array(["Rome", "Oslo", "Bern", None], object), ROWS, p=[0.6, 0.2, 0.15, 0.05])
    return {
        "height": np.where(rng.random(ROWS) < 0.1, np.nan, rng.normal(170, 10, ROWS)),
        "income": np.exp(rng.normal(8, 1.5, ROWS)),
        "gain": np.where(rng.random(ROWS) < 0.8, 0.0, rng.exponential(1000, ROWS)),
        "visits": rng.poisson(15, ROWS).astype(float),
        "grade": rng.integers(1, 6, ROWS),
        "share": rng.uniform(0, 1, ROWS),
        "city": city,
        "member": rng.choice(np.array([True, False], object), ROWS),
        "day": days,
        "number": np.arange(ROWS),
        "name": np.array([f"person {i}" for i in range(ROWS)], object),
        "unit": np.full(ROWS, "kg", object),
    }


KINDS = {
    "height": "real", "income": "positive", "gain": "real", "visits": "count", "grade": "ordinal", "share": "bounded",
    "city": "categorical", "member": "binary", "day": "date", "number": "id", "name": "text", "unit": "constant",
}  # fmt: skip


def test_kinds_are_found_and_printed():
    schema = find_schema(read_table(columns()))
    assert {c.name: c.kind for c in schema.columns} == KINDS
    lines = str(schema).splitlines()
    assert lines[0].split() == ["column", "kind", "missing", "values"]
    assert "city" in lines[7]
    assert "3 levels: Rome, Oslo, Bern" in lines[7]


def test_kinds_can_be_overridden_by_a_dictionary_or_a_file(tmp_path):
    table = read_table(columns())
    assert find_schema(table, {"visits": "real"})["visits"].kind == "real"
    (tmp_path / "kinds.json").write_text(json.dumps({"grade": "categorical"}))
    assert find_schema(table, tmp_path / "kinds.json")["grade"].kind == "categorical"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        ({"heigth": "real"}, "names column 'heigth', which is not there"),
        ({"height": "float"}, "the kind 'float'. Use one of real, positive"),
        ({"height": "count"}, "'height' cannot be a count: .* is no whole number"),
        ({"gain": "positive"}, "'gain' cannot be positive: it has 0"),
        ({"city": "real"}, "'city' cannot be real: it has text"),
    ],
)
def test_kinds_that_do_not_fit_are_refused(kinds, message):
    with pytest.raises(InputError, match=message):
        find_schema(read_table(columns()), kinds)


def test_round_trip_keeps_values_gaps_and_order():
    table = read_table(columns())
    codec = TableCodec.from_json(json.loads(json.dumps(fit_codec(table).to_json())))
    x = codec.transform(table).x
    back = to_container(codec.inverse_transform(x[..., 2].astype(float)))
    assert list(back) == list(table.columns)
    for name, cells in table.columns.items():
        if KINDS[name] in ("id", "text"):
            continue
        if cells.dtype.kind == "f":
            np.testing.assert_allclose(back[name], cells, rtol=2e-4, atol=1e-3)
        else:
            assert back[name].dtype == cells.dtype
            np.testing.assert_array_equal(back[name], cells)
    assert np.isnan(x[3, codec.names.index("day")]).all()


def test_normal_scores_of_a_normal_column_are_its_standard_scores():
    # 32 knots of 50,000 cells: the distribution function errs by less than 0.01, and so do scores within 2 sd
    x = np.random.default_rng(0).normal(5, 3, 50_000)
    scores = fit_scores(x)
    ends, slope = scores.encode(np.linspace(0, 10, 11))
    np.testing.assert_allclose(ends[:, 0], (np.linspace(0, 10, 11) - 5) / 3, atol=0.04)
    np.testing.assert_allclose(slope, -np.log(3), atol=0.2)
    assert (ends[:, 0] == ends[:, 1]).all()


def test_an_atom_is_the_interval_that_its_share_says():
    x = np.concatenate([np.zeros(900), np.random.default_rng(1).exponential(size=100)])
    (low, high, centre), slope = (part[0] for part in fit_scores(x).encode(np.zeros(1)))
    assert norm.cdf(high) - norm.cdf(low) == pytest.approx(0.9, abs=2e-3)
    assert low < centre < high
    assert slope == 0
    assert np.mean(fit_scores(x).decode(np.random.default_rng(2).normal(size=10_000)) == 0) == pytest.approx(
        0.9, abs=0.012
    )


def test_multiplying_a_column_changes_its_slope_only():
    x = np.random.default_rng(0).gamma(2.0, size=300)
    for log in (False, True):
        a, b = fit_scores(x, log=log), fit_scores(1000 * x, log=log)
        (ends, slope), (ends_b, slope_b) = a.encode(x), b.encode(1000 * x)
        np.testing.assert_allclose(ends, ends_b, atol=1e-9)
        np.testing.assert_allclose(slope - slope_b, np.log(1000), atol=1e-9)


def test_whole_numbers_have_probabilities_that_sum_to_one():
    scores = fit_scores(np.random.default_rng(0).poisson(4, 500).astype(float), step=1.0)
    ends, _ = scores.encode(np.arange(-10.0, 60.0))
    assert np.sum(norm.cdf(ends[:, 1]) - norm.cdf(ends[:, 0])) == pytest.approx(1, abs=0.02)


def test_outliers_bend_scores_to_logarithms():
    x = np.random.default_rng(0).normal(size=200)
    ends, slope = fit_scores(x).encode(np.array([1e3, 1e6, -1e6]))
    assert np.abs(ends).max() < 30
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(fit_scores(x).decode(ends[:, 0]), [1e3, 1e6, -1e6], rtol=1e-6)


def test_two_neighbours_at_an_end_say_nothing_of_what_is_beyond():
    x = np.sort(np.random.default_rng(0).normal(size=100))
    x[0], x[-1] = x[1] - 1e-6, x[-2] + 1e-6
    scores = fit_scores(x)
    ends = scores.encode(x[[0, -1]])[0][:, 0]
    beyond = x[[0, -1]] + [-0.2, 0.2]
    u, slope = scores.encode(beyond)
    moved = np.abs(u[:, 0] - ends)  # a normal column: about as many scores as sds
    assert np.all((moved > 0.1) & (moved < 0.6))
    assert np.all(np.abs(slope) < np.log(3))
    np.testing.assert_allclose(scores.decode(u[:, 0]), beyond, atol=1e-6)


def test_unseen_levels_become_gaps_with_a_warning():
    codec = fit_codec(read_table(columns()))
    new = {name: cells[:3].copy() for name, cells in columns().items()}
    new["city"][1] = "Paris"
    with pytest.warns(UserWarning, match=r"'city' has a level that the fit did not see, 'Paris', in row 1"):
        x = codec.transform(read_table(new)).x
    assert np.isnan(x[1, codec.names.index("city")]).all()


def test_columns_that_do_not_fit_are_named():
    codec = fit_codec(read_table(columns()))
    less, more, other = columns(), columns(), columns()
    del less["height"]
    more["weight"] = np.ones(ROWS)
    other["visits"] = np.array(["many"] * ROWS, object)
    for table, message in (
        (less, "has no column 'height'"),
        (more, "has a column 'weight' that the model does not know"),
        (other, "'visits' has 'many' in row 0, where a number is needed"),
    ):
        with pytest.raises(InputError, match=message):
            codec.transform(read_table(table))


def test_rare_levels_are_pooled_and_come_back():
    rng = np.random.default_rng(0)
    words = np.array([f"w{k}" for k in rng.zipf(1.3, 5000) % 300], object)
    codec = fit_codec(read_table({"word": words, "x": rng.normal(size=5000)}), {"word": "categorical"})
    assert codec.level_counts == (100,)
    u = codec.transform(read_table({"word": words, "x": np.zeros(5000)})).x[..., 2].astype(float)
    back = codec.inverse_transform(u, rng=np.random.default_rng(1)).columns["word"]
    assert len(set(back)) > 150  # rare levels survive
    assert np.mean(back == words) > 0.7


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((5, 2)), "no column can be modelled"),
        ({}, "0 rows and 0 columns"),
        ({"a": [1, 2], "b": [1]}, "different lengths"),
        (np.zeros((3, 2), complex), "Complex data not supported"),
        (np.array([[1.0, np.inf], [2.0, 0.0], [3.0, 1.0]]), "infinity in row 0"),
    ],
)
def test_tables_that_cannot_be_used(x, message):
    with pytest.raises(InputError, match=message):
        fit_codec(read_table(x))


def test_pandas_comes_back_as_it_was():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({k: v for k, v in columns().items() if KINDS[k] not in ("id", "text")})
    frame["size"] = pandas.Categorical.from_codes(np.arange(ROWS) % 3, ["S", "M", "L"], ordered=True)
    frame["count"] = frame["grade"].astype("Int64")
    table = read_table(frame)
    codec = fit_codec(table)
    assert codec.schema["size"].kind == "ordinal"
    back = to_container(codec.inverse_transform(codec.transform(table).x[..., 2].astype(float)))
    assert back.dtypes.astype(str).to_dict() == frame.dtypes.astype(str).to_dict()
    assert list(back["size"].cat.categories) == ["S", "M", "L"]
    assert (back["size"] == frame["size"]).all()


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_polars_and_arrow_come_back_with_their_types(library):
    module = pytest.importorskip(library)
    plain = {
        "n": [1, 2, None, 40],
        "s": ["a", "b", None, "a"],
        "x": [0.5, None, 2.5, 1.0],
        "b": [True, None, False, True],
    }
    frame = module.DataFrame(plain) if library == "polars" else module.table(plain)
    table = read_table(frame)
    codec = fit_codec(table)
    back = to_container(codec.inverse_transform(codec.transform(table).x[..., 2].astype(float)))
    assert str(back.schema) == str(frame.schema)
    assert (back.to_dict(as_series=False) if library == "polars" else back.to_pydict())["s"] == plain["s"]


def test_pandas_types_with_gaps_and_zones_come_back():
    pandas = pytest.importorskip("pandas")
    hours = pandas.to_datetime("2024-03-30") + pandas.to_timedelta(np.arange(6) * 7, unit="h")
    frame = pandas.DataFrame({
        "flag": pandas.array([True, None, False, True, False, True], dtype="boolean"),
        "text": pandas.array(["a", None, "b", "a", "b", "c"], dtype="string"),
        "zone": hours.tz_localize("Europe/Berlin"),
        "whole": pandas.array([1, None, 3, 4, 5, 6], dtype="Int64"),
    })  # fmt: skip
    pandas.testing.assert_frame_equal(to_container(read_table(frame)), frame)


def test_polars_and_arrow_keep_zones_and_categories():
    polars = pytest.importorskip("polars")
    times = [datetime.datetime(2024, 1, 1, 5), None, datetime.datetime(2024, 7, 1)]
    frame = polars.DataFrame({
        "zone": polars.Series(times, dtype=polars.Datetime("ms", "Europe/Berlin")),
        "enum": polars.Series(["low", None, "high"], dtype=polars.Enum(["low", "high", "never"])),
        "kind": polars.Series(["a", None, "b"], dtype=polars.Categorical),
    })  # fmt: skip
    assert to_container(read_table(frame)).equals(frame)
    pytest.importorskip("pyarrow")
    arrow = frame.select("zone").to_arrow()
    assert to_container(read_table(arrow)).equals(arrow)
    kind = to_container(read_table(frame.to_arrow()))["kind"]
    assert str(kind.type).startswith("dictionary")
    assert kind.to_pylist() == ["a", None, "b"]


def test_objects_are_numbers_dates_or_left_out():
    table = read_table({
        "price": np.array([Decimal("1.5"), None, Decimal("2.25")] * 8, object),
        "day": np.array([datetime.date(2024, 5, 1 + i) for i in range(24)], object),
        "lists": np.array([[i] for i in range(24)] + [None], object)[:24],
        "spans": np.array([datetime.timedelta(i % 3) for i in range(24)], object),
    })  # fmt: skip
    assert [column.kind for column in find_schema(table).columns] == ["binary", "date", "text", "text"]
    with pytest.raises(InputError, match="column 'spans' cannot be categorical"):
        find_schema(table, {"spans": "categorical"})


def test_years_that_nanoseconds_do_not_reach_are_refused():
    with pytest.raises(InputError, match=r"1512-05-01.* outside the years 1678 to 2261"):
        read_table({"day": np.array(["1512-05-01", "2020-01-01"], "datetime64[D]")})


@pytest.mark.parametrize("size", [1e300, 1e-300])
def test_numbers_without_a_square_or_cube_are_numbers(size):
    x = np.random.default_rng(0).normal(size=60)
    tables = [read_table({"x": x * scale, "y": x[::-1]}) for scale in (size, 1.0)]
    found = []
    for table in tables:
        codec = fit_codec(table)
        encoded = codec.transform(table)
        found.append(
            (codec.schema["x"].kind, fit_typical(codec, table, encoded, 0)[0].own_oddness(codec, table, encoded))
        )
    assert found[0][0] == found[1][0]
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-6)


def test_pooled_levels_share_what_their_pool_has():
    rng = np.random.default_rng(0)
    levels = np.array([f"l{k}" for k in range(150)], object)
    cells = np.concatenate([np.repeat(levels, 2), rng.choice(levels[:50], 3000)])
    codec = fit_codec(read_table({"city": cells, "y": rng.normal(size=len(cells))}))
    asked = np.zeros((1, 150))
    asked[0, [0, 99]] = 0.4, 0.6  # level 99 is what the model has for the last 51
    found = codec.unpooled("city", asked)
    assert found.shape == (1, 150)
    assert found[0, 0] == 0.4
    np.testing.assert_allclose(found[0, 99:], 0.6 / 51, rtol=0.1)


def test_days_are_steps_unless_they_are_many():
    rng = np.random.default_rng(0)
    day = np.datetime64("2020-01-01", "ns") + rng.integers(0, 90, 400).astype("timedelta64[D]")
    later = np.datetime64("2020-01-01", "ns") + rng.integers(0, 9000, 400).astype("timedelta64[D]")
    hour = np.datetime64("2020-01-01", "ns") + rng.integers(0, 90, 400).astype("timedelta64[h]")
    table = read_table({"day": day, "later": later, "hour": hour})
    codec = fit_codec(table)
    assert [s.step for s in codec.scores] == [86_400e9, 0, 0]
    encoded = codec.transform(table)
    back = codec.inverse_transform(encoded.x[..., 2])
    assert (encoded.x[:, 0, 0] < encoded.x[:, 0, 1]).all()
    np.testing.assert_array_equal(back.columns["day"], day)


def test_places_of_numbers_between_and_beyond_the_levels_of_an_ordinal():
    cells = np.repeat([1.0, 2.0, 4.0, 5.0], 50)
    codec = fit_codec(read_table({"grade": cells, "y": np.random.default_rng(0).normal(size=200)}))
    asked = read_table({"grade": [1.0, 4.0, 3.0, 5.0, 9.0, -3.0], "y": np.zeros(6)})
    np.testing.assert_allclose(codec.numbers("grade", asked), [0, 2, 1.5, 3, 6, -3])  # levels are 4/3 apart
    assert not codec.transform(asked).new.any()
    with pytest.raises(InputError, match="'grade' has infinity in row 0"):
        codec.numbers("grade", read_table({"grade": [np.inf], "y": [0.0]}))


def test_levels_without_weight_have_probabilities_all_the_same():
    cells = np.array(["a"] * 100 + ["b"] * 77 + ["c"] * 3, object)
    codec = fit_codec(read_table({"g": cells, "y": np.arange(180.0)}), rows=np.arange(177))
    assert codec.shares[0][-1] == 0
    np.testing.assert_allclose(codec.unpooled("g", np.array([[0.5, 0.3, 0.2]])), [[0.5, 0.3, 0.2]])
    many = np.array([f"l{k:03d}" for k in np.repeat(np.arange(150), 2)] + ["l000"] * 50, object)
    codec = fit_codec(
        read_table({"g": many, "y": np.random.default_rng(1).normal(size=350)}), rows=np.r_[0:198, 300:350]
    )
    drawn = codec.inverse_transform(np.tile([0.0, 99.0], (500, 1)), rng=np.random.default_rng(0)).columns["g"]
    assert len(set(drawn)) > 20


def test_a_typical_slope_is_found_beside_a_value_that_nearly_all_cells_have():
    rng = np.random.default_rng(0)
    gain = np.where(np.arange(2000) < 1985, 0.0, rng.exponential(1.0, 2000))
    slopes = []
    for unit in (1.0, 1e6):
        table = read_table({"gain": unit * gain})
        codec = fit_codec(table)
        slopes.append(codec.relative_slope(codec.transform(table)))
    np.testing.assert_allclose(slopes[0], slopes[1], atol=1e-3)
    assert np.abs(slopes[0]).max() > 0


def test_steps_are_as_usual_as_that_at_the_median():
    """A column of ninety days is no odder than a column of numbers: what is rarer than its middle counts."""
    day = np.datetime64("2020-01-01", "ns") + np.random.default_rng(0).integers(0, 90, 4000).astype("timedelta64[D]")
    table = read_table({"day": day})
    codec = fit_codec(table)
    encoded = codec.transform(table)
    mass = np.log(np.diff(ndtr(encoded.x[:, 0, :2].astype(float)), axis=1)[:, 0])
    unlikely = -(mass + codec.relative_slope(encoded)[:, 0])
    assert abs(np.median(unlikely) - 0.5 * np.log(2 * np.pi)) < 0.3  # -log of a standard normal's density in the middle
