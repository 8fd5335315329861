"""Commands on a table's run: gaps with how sure they are, rows again, rows in between."""

import csv

import numpy as np
import pytest

from qphi.cli.main import main
from qphi.data.table_files import read_table_file
from small_table import ROWS, table


@pytest.fixture
def place(fitted_table, tmp_path, monkeypatch):
    """A folder with `run` and `rows.csv`."""
    fitted_table.save(tmp_path / "run")
    cells = [["" if v is None or v != v else v for v in column] for column in table().values()]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([list(table()), *zip(*cells, strict=True)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_how_sure_each_gap_is(place, monkeypatch, capsys):
    monkeypatch.setattr("qphi.data.table_files.ROWS", 100)  # rows are counted over the pieces of a file
    assert main(["impute", "run", "rows.csv", "-o", "full.csv", "--cells", "gaps.csv"]) == 0
    assert main(["impute", "run", "rows.csv", "-o", "alone.csv"]) == 0
    assert (place / "full.csv").read_text() == (place / "alone.csv").read_text()
    full = read_table_file(place / "full.csv").columns
    with (place / "gaps.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    x = table()
    assert [int(line["row"]) for line in lines if line["column"] == "a"] == np.flatnonzero(np.isnan(x["a"])).tolist()
    assert [int(line["row"]) for line in lines if line["column"] == "c"] == [0, 1, 2, 3, 4]
    for line in lines:
        value = full[line["column"]][int(line["row"])]
        if line["column"] == "c":
            assert (line["filled"], line["low"], line["high"]) == (value, "", "")
            assert float(line["probability"]) >= 0.5
        else:
            assert float(line["low"]) <= float(line["filled"]) == value <= float(line["high"])
            assert not line["probability"]
    assert main(["impute", "run", "rows.csv", "-o", "x.csv", "--cells", "y.csv", "--draws", "2"]) == 2
    assert "Give one of the two" in capsys.readouterr().err
    assert not (place / "x.csv").exists()
    assert main(["impute", "run", "rows.csv", "-o", "x.csv", "--cells", "x.csv"]) == 2
    assert "--cells and --out are both x.csv" in capsys.readouterr().err
    pytest.importorskip("pyarrow")
    assert main(["impute", "run", "rows.csv", "-o", "x.parquet", "--cells", "gaps.parquet"]) == 0
    assert read_table_file(place / "gaps.parquet").columns["filled"].tolist() == [line["filled"] for line in lines]


def test_rows_again_and_rows_in_between(place, capsys, fitted_table):
    assert main(["reconstruct", "run", "rows.csv"]) == 0
    again = read_table_file(place / "run" / "reconstructions.csv")
    assert again.rows == ROWS
    np.testing.assert_allclose(again.columns["b"], fitted_table.reconstruct(table())["b"], rtol=1e-5)
    assert main(["reconstruct", "run", "rows.csv", "-n", "7", "-o", "few.csv"]) == 0
    np.testing.assert_array_equal(read_table_file(place / "few.csv").columns["b"], again.columns["b"][:7])
    assert main(["interpolate", "run", "rows.csv", "--between", "3", "299", "--steps", "5", "-o", "walk.csv"]) == 0
    walk = read_table_file(place / "walk.csv").columns["b"]
    np.testing.assert_allclose(walk[[0, -1]], again.columns["b"][[3, 299]], rtol=1e-4)
    assert (np.diff(walk) > 0).all() or (np.diff(walk) < 0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["interpolate", "--between", "3", "300"], "--between 300: rows.csv has rows 0 to 299"),
        (["interpolate", "--path", "geodesic"], "--path geodesic: rows of tables are joined by straight lines"),
        (["reconstruct", "--nearest"], "--nearest is for images and vectors"),
    ],
)
def test_what_tables_are_not_asked(place, capsys, arguments, message):
    assert main([arguments[0], "run", "rows.csv", *arguments[1:], "-o", "out.csv"]) == 2
    assert message in capsys.readouterr().err
    assert not (place / "out.csv").exists()
