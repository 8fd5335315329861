"""How good synthetic rows are: figures known in advance, and each of them fails where its fault is."""

import json
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from qphi import InputError, TableVAE
from qphi.cli.main import main
from qphi.data.codec import fit_codec
from qphi.data.frames import read_table
from qphi.tables.synthetic import fidelity, usefulness


def rows(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=count)
    return {
        "a": z + 0.3 * rng.normal(size=count),
        "b": -z + 0.3 * rng.normal(size=count),
        "c": np.where(z + 0.3 * rng.normal(size=count) > 0.5, "high", "low").astype(object),
        "d": np.array(["x", "y", "z"], object)[np.clip((z + 1.5).astype(int), 0, 2)],
    }


def judged(synthetic, real=None, fresh=None, target=None):
    real = read_table(rows() if real is None else real)
    codec = fit_codec(real)
    made, new = read_table(synthetic), read_table(rows(seed=1) if fresh is None else fresh)
    return usefulness(codec, real, made, new, target) if target else fidelity(codec, real, made, new)


def test_the_figures_are_those_of_their_definitions():
    levels = np.array(["p", "q"], object)
    real = {"u": np.arange(100) / 4, "v": np.arange(100) / 4, "k": np.repeat(levels, 50)}
    made = {
        "u": np.arange(100) / 4,
        "v": np.arange(100)[::-1] / 4,
        "k": np.repeat(levels, [80, 20]),
    }
    found = judged(made, real, real)
    assert found.columns["u"] == found.columns["v"] == 1.0
    assert found.columns["k"] == pytest.approx(1 - 0.3)  # shares 0.5 and 0.8
    assert found.pairs["u", "v"] == pytest.approx(0, abs=1e-12)  # correlations 1 and -1
    # ten bins of ten rows: p fills 5 and 8 of them, q the others; 30 rows of 100 are under another pair of labels
    assert found.pairs["u", "k"] == pytest.approx(1 - 0.3)
    assert found.quality == pytest.approx((np.mean([1, 1, 0.7]) + found.pair_mean) / 2)


def test_fresh_rows_pass_and_every_fault_shows_in_its_own_figure():
    good = judged(rows(seed=2))
    assert good.quality > 0.93
    assert 0.4 < good.detection < 0.6
    assert 0.7 < good.nearest_ratio < 1.4
    assert 0.4 < good.membership < 0.6
    copied = judged(rows())
    assert copied.quality == 1
    assert copied.nearest_ratio == 0
    assert copied.membership > 0.99
    rng = np.random.default_rng(0)
    shuffled = judged({name: rng.permutation(cells) for name, cells in rows(seed=2).items()})
    assert shuffled.column_mean > 0.93
    assert shuffled.pair_mean < 0.85
    assert shuffled.detection > 0.9
    shifted = rows(seed=2)
    shifted["a"] = shifted["a"] + 1
    assert judged(shifted).columns["a"] < 0.7
    assert min(judged(shifted).columns[name] for name in "bcd") > 0.9


def test_gaps_are_part_of_what_is_compared():
    gone = rows(seed=2)
    gone["c"][:200] = None
    assert judged(gone).columns["c"] < 0.6
    gone = rows(seed=2)
    gone["a"][:200] = np.nan
    assert judged(gone).columns["a"] > 0.9  # what is there is as it should be
    assert judged(gone).detection > 0.6  # that half of it is missing is seen


@pytest.mark.parametrize(("target", "measure"), [("a", "R^2"), ("c", "ROC-AUC"), ("d", "ROC-AUC")])
def test_good_rows_teach_as_much_as_real_ones_and_shuffled_rows_nothing(target, measure):
    good = judged(rows(seed=2), target=target)
    assert good.measure == measure
    assert good.real > 0.75
    assert abs(good.synthetic - good.real) < 0.08
    rng = np.random.default_rng(0)
    shuffled = judged({name: rng.permutation(cells) for name, cells in rows(seed=2).items()}, target=target)
    assert shuffled.synthetic < (0.1 if measure == "R^2" else 0.65)
    assert shuffled.real == good.real


def test_a_column_of_gaps_alone_is_like_no_other_and_teaches_nothing():
    gone = rows(seed=2)
    gone["a"][:] = np.nan
    found = judged(gone)
    assert found.columns["a"] == 0
    assert found.detection > 0.95
    assert judged(gone, target="b").synthetic < judged(rows(seed=2), target="b").synthetic - 0.05


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(InputError, match=r"target='income' is no column of the model. Use one of 'a', 'b', 'c', 'd'."):
        judged(rows(seed=2), target="income")
    made = rows(seed=2)
    made["c"][:] = "low"
    with pytest.raises(InputError, match="target='c' has fewer than two values in the synthetic rows"):
        judged(made, target="c")


@pytest.fixture(scope="module")
def fitted() -> TableVAE:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return TableVAE(particles=2, hidden=(8,), max_epochs=4, random_state=0).fit(rows())


def test_a_model_judges_its_own_rows_and_those_of_others(fitted):
    own = fitted.evaluate(rows(), rows(seed=1), target="c")
    assert own.quality > 0.85
    assert own.use.target == "c"
    assert own.use.synthetic > 0.75
    assert "trained on synthetic rows" in str(own)
    again = fitted.evaluate(rows(), rows(seed=1), synthetic=fitted.sample(400, random_state=0))
    assert again.columns == own.columns
    assert again.use is None
    without = fitted.evaluate(rows())
    assert np.isnan([without.nearest_ratio, without.membership]).all()
    assert without.as_dict()["membership"] is None
    with pytest.raises(InputError, match="target='c' needs fresh rows"):
        fitted.evaluate(rows(), target="c")
    with pytest.raises(InputError, match="has no column 'd'"):
        fitted.evaluate(rows(), {name: cells for name, cells in rows().items() if name != "d"})


def test_the_shell_judges_synthetic_rows(fitted, tmp_path, capsys):
    fitted.save(tmp_path)
    for seed, name in enumerate(("old.csv", "new.csv")):
        x = rows(seed=seed)
        lines = [",".join(map(str, cells)) for cells in zip(*x.values(), strict=True)]
        (tmp_path / name).write_text("\n".join([",".join(x), *lines]) + "\n")
    run, old, new = str(tmp_path), str(tmp_path / "old.csv"), str(tmp_path / "new.csv")
    assert main(["evaluate", run, old, "--fresh", new, "--target", "c"]) == 0
    text = capsys.readouterr().out
    told = (
        "quality",
        "columns",
        "pairs",
        "detection AUC",
        "nearest ratio",
        "membership AUC",
        "use for c",
        "log p(x)",
        "",
    )
    assert tuple(line[:14].strip() for line in text.splitlines()) == told
    assert main(["evaluate", run, old, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"] == pytest.approx((found["column_mean"] + found["pair_mean"]) / 2)
    assert found["nearest_ratio"] is None
    assert main(["encode", run, old]) == 0
    means, scales = fitted.encode(rows())
    with np.load(tmp_path / "z.npz") as file:
        np.testing.assert_array_equal(file["mean"], means)
        np.testing.assert_array_equal(file["scale"], scales)
    assert main(["encode", run, old, "-o", str(tmp_path / "z.csv")]) == 0
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines[0].startswith("z0,z1")
    np.testing.assert_allclose(np.array(lines[1].split(","), float), means[0])
    capsys.readouterr()
    for arguments, message in (
        ([old, "--gaps"], "--gaps is for images and vectors"),
        ([old, "--target", "c"], "target='c' needs fresh rows"),
        ([str(tmp_path / "none.csv")], "no such file"),
    ):
        assert main(["evaluate", run, *arguments]) == 2
        assert message in " ".join(capsys.readouterr().err.split())


def test_gaps_of_the_real_rows_alone_are_no_fault_of_the_synthetic_ones():
    real = rows()
    gone = np.random.default_rng(2).random(400) < 0.4
    real["a"] = np.where(gone, np.nan, real["a"])
    real["c"] = np.where(gone, None, real["c"])
    found = judged(rows(seed=1), real)
    assert found.columns["c"] > 0.9
    assert found.pairs["a", "c"] > 0.85
    assert found.detection < 0.65
    gapless = {name: cells.copy() for name, cells in rows(seed=1).items()}
    gapless["c"][0], gapless["a"][0] = None, np.nan  # rows with gaps of their own are judged by these
    assert judged(gapless, real).columns["c"] < 0.7
