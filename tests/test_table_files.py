"""Tables in files: what is read, what is refused and in which words, and what is written back to the letter."""

import contextlib
import gzip
import warnings

import numpy as np
import pytest

from qphi import InputError, TableVAE
from qphi.cli.main import main
from qphi.data import table_files
from qphi.data.codec import fit_codec
from qphi.data.frames import Table, read_table
from qphi.data.schema import find_schema
from qphi.data.table_files import choose_rows, is_table_file, read_table_file, table_pieces, table_writer

TEXT = 'name;when;score;n\n"A;1";2024-05-01;0.10;3\nB;;?;4\nC;2024-05-03;2.50;\nB;2024-05-04;1e1;12\n'


def test_a_file_comes_back_to_the_letter(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    table = read_table_file(tmp_path / "a.csv")
    assert {k: v.dtype.kind for k, v in table.columns.items()} == {"name": "O", "when": "M", "score": "f", "n": "f"}
    np.testing.assert_array_equal(np.isnan(table.columns["score"]), [False, True, False, False])
    table.columns["score"][1] = 7.25
    with table_writer(tmp_path / "b.csv") as write:
        write(table)
    assert (tmp_path / "b.csv").read_text().splitlines() == [
        "name,when,score,n", "A;1,2024-05-01,0.10,3", "B,,7.25,4", "C,2024-05-03,2.50,", "B,2024-05-04,1e1,12",
    ]  # fmt: skip


def test_a_file_without_names_and_in_pieces(tmp_path):
    lines = [f"{i % 7}, {'x' if i % 3 else 'y'}, {i / 8}" for i in range(50)]
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("\n".join(lines))
    whole = read_table_file(tmp_path / "a.csv.gz")
    assert list(whole.columns) == ["column0", "column1", "column2"]
    pieces = list(table_pieces(tmp_path / "a.csv.gz", find_schema(whole), rows=20))
    assert [piece.rows for piece in pieces] == [20, 20, 10]
    for name, cells in whole.columns.items():
        np.testing.assert_array_equal(np.concatenate([piece.columns[name] for piece in pieces]), cells)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n", "has a header but 0 rows"),
        (b"a,a\n1,2\n", "names column 'a' more than once"),
        (b"a,b\n1,2\n3\n", "has 1 cells in line 3, and 2 columns"),
        ("a,b\n1,2\nä,1\n".encode("latin1"), r"is not UTF-8 .* in line 3\).* iconv"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_table_file(tmp_path / "a.csv")


def test_numbers_with_decimal_commas_are_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("x;s;n\n1,5;a,b;3\n-2,25e1;c;\n;c;4\n")
    table = read_table_file(tmp_path / "a.csv")
    np.testing.assert_array_equal(table.columns["x"], [1.5, -22.5, np.nan])
    assert table.columns["s"].tolist() == ["a,b", "c", "c"]
    (piece,) = table_pieces(tmp_path / "a.csv", find_schema(table, {"x": "real"}))
    np.testing.assert_array_equal(piece.columns["x"], table.columns["x"])
    with table_writer(tmp_path / "b.csv") as write:
        write(piece)
    assert (tmp_path / "b.csv").read_text().splitlines() == ["x,s,n", '1.5,"a,b",3', "-2.25e1,c,", ",c,4"]


def test_a_column_without_a_name_and_a_name_of_two_lines(tmp_path):
    (tmp_path / "a.csv").write_text(',"b\nc"\n0,1.5\n1,2.5\n')  # the first is what pandas writes of an index
    table = read_table_file(tmp_path / "a.csv")
    assert list(table.columns) == ["column0", "b\nc"]
    np.testing.assert_array_equal(table.columns["b\nc"], [1.5, 2.5])
    assert len(str(find_schema(table)).splitlines()) == 3


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([*map(str, np.arange(40) / 8), "oops"], "'oops' among numbers, 1 of 41 cells"),
        ([f"{d:02d}.05.2024" for d in range(1, 31)], "'01.05.2024', which counts as text but looks like a date"),
        ([*(f"2024-05-{d:02d}" for d in range(1, 31)), "2021-02-31"], "'2021-02-31'.* looks like a date"),
        ([f"1512-05-{d:02d}" for d in range(1, 31)], "looks like a date"),  # NumPy has another year for it
        ([f"${d}.50" for d in range(30)], "looks like a number"),
        ([f"1_{d:03d}" for d in range(30)], None),
    ],
)
def test_text_that_was_to_be_numbers_or_dates_is_told(tmp_path, cells, message):
    (tmp_path / "a.csv").write_text("\n".join(["x,y", *(f"{cell},1" for cell in cells)]))
    with contextlib.nullcontext() if message is None else pytest.warns(UserWarning, match=message):
        assert read_table_file(tmp_path / "a.csv").columns["x"].dtype.kind == "O"


def test_a_file_that_was_cut_off(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 2000)[:40])
    with pytest.raises(InputError, match="It is cut off or damaged"):
        read_table_file(tmp_path / "a.csv.gz")


def test_a_wrong_cell_is_named_by_column_and_line(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"{i / 8},{i / 3}\n" for i in range(30)))
    schema = fit_codec(read_table_file(tmp_path / "a.csv")).schema
    (tmp_path / "b.csv").write_text("x,y\n1,2\n3,four\n")
    with pytest.raises(InputError, match="column 'y' has 'four' in line 3, where a number is needed"):
        list(table_pieces(tmp_path / "b.csv", schema))


def test_nothing_half_written_is_left(tmp_path):
    (tmp_path / "a.csv").write_text(TEXT)
    table = read_table_file(tmp_path / "a.csv")

    def interrupted() -> None:
        with table_writer(tmp_path / "b.csv") as write:
            write(table)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_parquet_comes_back(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "a.csv").write_text(TEXT)
    table = read_table_file(tmp_path / "a.csv")
    with table_writer(tmp_path / "a.parquet") as write:
        write(table)
    again = read_table_file(tmp_path / "a.parquet")
    for name, cells in table.columns.items():
        np.testing.assert_array_equal(again.columns[name], cells)
    assert is_table_file(tmp_path / "a.parquet")
    assert not is_table_file("a.npy")


def test_the_shell_shows_a_schema_and_refuses_what_makes_no_sense(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text(TEXT)
    assert main(["schema", "a.csv", "--kind", "n=real"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["name", "categorical"], ["when", "date"], ["score", "real"], ["n", "real"],
    ]  # fmt: skip
    for arguments, message in (
        (["schema", "a.csv", "--kind", "n"], "COLUMN=KIND is needed"),
        (["schema", "b.csv"], "no such file: b.csv"),
        (["fit", "a.csv", "--beta", "2"], "--beta has no effect on a table"),
        (["fit", "a.csv", "--prior", "vamp"], "--prior has no effect on a table"),
        (["fit", "a.csv", "--out", "nowhere", "--resume"], "there is no run to resume in nowhere"),
        (["fit", "digits", "--kind", "a=real"], "--kind, --kinds and --not-at-random are for tables"),
        (["impute", "nowhere", "a.csv"], "there is no run folder nowhere"),
    ):
        assert main(arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.slow
def test_the_shell_fits_fills_scores_and_samples_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    z = rng.normal(size=200)
    cells = [["", f"{v:.3f}"][int(rng.random() > 0.2)] + f",{2 * v:.3f},{'abc'[int(v > 0)]}" for v in z]
    (tmp_path / "a.csv").write_text("\n".join(["x,y,k", *cells]) + "\n")
    assert main(["fit", "a.csv", "--out", "run", "--epochs", "6"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert main(["impute", "run", "a.csv", "-o", "full.csv"]) == 0
    full = (tmp_path / "full.csv").read_text().splitlines()
    assert all(new == old or old.startswith(",") for new, old in zip(full, ["x,y,k", *cells], strict=True))
    assert not any(line.startswith(",") for line in full)
    assert main(["score", "run", "a.csv", "-o", "scores.csv"]) == 0
    assert (tmp_path / "scores.csv").read_text().splitlines()[0] == "row,log_p,anomaly_score,because_of"
    assert main(["sample", "run", "-n", "30", "-o", "new.csv", "--given", "k=b"]) == 0
    assert all(line.endswith(",b") for line in (tmp_path / "new.csv").read_text().splitlines()[1:])
    assert main(["encode", "run", "a.csv"]) == 0
    assert np.load("run/z.npz")["mean"].shape[0] == 200
    (tmp_path / "run" / "report.html").unlink()
    assert main(["report", "run"]) == 0
    assert (tmp_path / "run" / "report.html").is_file()
    assert main(["traverse", "run"]) == 2
    assert main(["fit", "a.csv", "--out", "again", "--epochs", "1"]) == 0
    assert main(["fit", "a.csv", "--out", "again", "--resume", "--kind", "y=count"]) == 2
    assert "was fitted with --kinds None" in " ".join(capsys.readouterr().err.split())
    assert main(["fit", "a.csv", "--out", "again", "--resume", "--epochs", "6"]) == 0
    np.testing.assert_array_equal(
        *(TableVAE.load(name).transform(read_table_file("a.csv")) for name in ("run", "again"))
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_large_file_is_fitted_by_a_choice_of_its_rows(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(table_files, "FEWEST_KEPT", 10)
    monkeypatch.setattr(table_files, "ROWS", 700)
    path = tmp_path / f"a{suffix}"
    number = np.arange(5000.0)
    whole = Table({"x": number, "k": np.array(["a", "b"] * 2500, object)}, "csv", {"x": "float64", "k": "str"})
    with table_writer(path) as write:
        write(whole)
    table, count = choose_rows(path, most_cells=2000)
    assert count == 5000
    assert 500 <= table.rows <= 1000
    x = table.columns["x"]
    assert (np.diff(x) > 0).all()
    # uniform on 0..4999: the mean of at least 500 of them is within six standard errors, 2e-9 false alarms
    assert abs(x.mean() - 2499.5) < 6 * 1443 / np.sqrt(table.rows)
    assert (table.columns["k"] == np.where(x % 2 == 0, "a", "b")).all()
    again, _ = choose_rows(path, most_cells=2000)
    np.testing.assert_array_equal(again.columns["x"], x)
    everything, count = choose_rows(path)
    np.testing.assert_array_equal(everything.columns["x"], number)
    assert everything.dtypes == read_table_file(path).dtypes
    assert count == 5000


def test_true_and_false_are_the_same_in_text_and_in_a_file_with_types(tmp_path):
    rng = np.random.default_rng(0)
    told = rng.random(60) < 0.5
    text = {"u": rng.normal(size=60), "vip": np.where(told, "True", "False").astype(object)}
    typed = {**text, "vip": told.astype(object)}
    for first, second in ((text, typed), (typed, text)):
        codec = fit_codec(read_table(first))
        path = tmp_path / "rows.csv"
        path.write_text("u,vip\n" + "".join(f"{u},{v}\n" for u, v in zip(*second.values(), strict=True)))
        expected = codec.transform(read_table(first)).x
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            if second is typed:
                np.testing.assert_array_equal(codec.transform(read_table(second)).x, expected)
            np.testing.assert_allclose(
                codec.transform(next(iter(table_pieces(path, codec.schema)))).x, expected, rtol=1e-6
            )


def test_gaps_among_typed_truths_are_filled_with_truths_by_a_fit_of_text(tmp_path):
    rng = np.random.default_rng(0)
    told = rng.random(60) < 0.5
    text = {"u": rng.normal(size=60), "vip": np.where(told, "True", "False").astype(object)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = TableVAE(hidden=(8,), max_epochs=2, random_state=0).fit(text)
    typed = told.astype(object)
    typed[::7] = None
    filled = model.impute({**text, "vip": typed})["vip"]
    assert {type(v) for v in filled.tolist()} == {bool}
    assert (filled[typed != None] == typed[typed != None]).all()  # noqa: E711


def test_figures_with_zeros_in_front_are_codes_if_all_are_as_long(tmp_path):
    rows = ["zip,month,sum,cut"] + [f"{1395 + 977 * (i % 7):05d},{1 + i % 12:02d},{i:03d}0,0{i}" for i in range(60)]
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    table = read_table_file(tmp_path / "a.csv")
    kinds = {c.name: c.kind for c in fit_codec(table).schema.columns}
    assert kinds == {"zip": "categorical", "month": "ordinal", "sum": "text", "cut": "id"}
    assert set(table.columns["zip"]) == {f"{1395 + 977 * k:05d}" for k in range(7)}
    # a piece of the file is read as the fit's columns were
    piece = next(table_pieces(tmp_path / "a.csv", fit_codec(table).schema, rows=1))
    assert piece.columns["zip"][0] == "01395"


@pytest.mark.parametrize("cell", ["inf", "-Infinity", "1e999"])
def test_infinity_is_named_by_file_and_line(tmp_path, cell):
    (tmp_path / "a.csv").write_text(f"x,y\n1,2\n3,{cell}\n")
    with pytest.raises(InputError, match=rf"a.csv: column 'y' has '{cell}' in line 3, where a finite number is needed"):
        read_table_file(tmp_path / "a.csv")


def test_lines_are_counted_where_some_are_empty_and_cells_have_several(tmp_path):
    (tmp_path / "a.csv").write_text('x,y\n"one\ntwo",2\n\n\nthree,inf\n')
    with pytest.raises(InputError, match="column 'y' has 'inf' in line 6"):
        read_table_file(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text('x,y\n"one\ntwo",2\n\nthree\n')
    with pytest.raises(InputError, match="has 1 cells in line 5, and 2 columns"):
        read_table_file(tmp_path / "b.csv")


def test_codes_are_numbers_where_a_kind_says_so(tmp_path):
    (tmp_path / "a.csv").write_text("time,y\n" + "".join(f"{60 * (i % 24):04d},{i / 7}\n" for i in range(60)))
    table = read_table_file(tmp_path / "a.csv")
    codec = fit_codec(table, {"time": "count"})
    assert codec.schema["time"].kind == "count"
    assert codec.schema["time"].dtype == "int64"
    np.testing.assert_array_equal(codec.numbers("time", table), 60.0 * (np.arange(60) % 24))
    piece = next(table_pieces(tmp_path / "a.csv", codec.schema))
    np.testing.assert_array_equal(piece.columns["time"], codec.numbers("time", table))
    with pytest.raises(InputError, match="'time' cannot be date"):
        fit_codec(table, {"time": "date"})


def test_a_column_that_begins_with_gaps_alone_is_written_to_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    empty, full = (Table({"a": np.array([cell], object)}, "csv", {"a": "str"}) for cell in (None, "one"))
    with table_writer(tmp_path / "a.parquet") as write:
        write(empty)
        write(full)
    assert read_table_file(tmp_path / "a.parquet").columns["a"].tolist() == [None, "one"]
