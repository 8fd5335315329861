"""From a user's array to what a model sees and back, and every refusal by its words."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array

from qphi import InputError
from qphi.data.scaling import Scaling, dense, fit_scaling
from small import pictures, vectors


def refused(x, *words: str, likelihood: str = "auto", name: str = "X") -> str:
    """The one-line message with which data are refused; it has these words in it."""
    with pytest.raises(InputError) as caught:
        fit_scaling(x, likelihood)
    message = str(caught.value)
    assert "\n" not in message
    for word in (name, *words):
        assert word in message, message
    return message


def with_value(value: float, *place: int) -> np.ndarray:
    x = vectors()
    x[place] = value
    return x


# ---------------------------------------------------------------- training data that are refused


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5, 6)])
def test_a_wrong_number_of_axes(shape):
    refused(np.zeros(shape), str(shape), "(n, d)", "(n, h, w)", "x[None]")


@pytest.mark.parametrize(
    ("shape", "words"),
    [((0, 3), "empty"), ((3, 0), "0 feature(s)"), ((0, 8, 8), "empty"), ((4, 0, 8), "empty")],
)
def test_nothing_in_it(shape, words):
    refused(np.zeros(shape), str(shape), words, "at least one row")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_shown_with_its_place(value):
    refused(with_value(value, 7, 1), "1 values", "NaN or infinity", "1 rows", "(7, 1)", "fill the gaps")


def test_several_values_that_are_not_finite_are_counted():
    x = vectors()
    x[3] = np.nan
    x[9, 0] = np.inf
    refused(x, "4 values", "2 rows", "(3, 0)")


def test_constant_columns_are_named_with_the_code_that_drops_them():
    x = np.insert(vectors(), [1, 2], [[7.0, 0.1]], axis=1)
    message = refused(x, "1, 3", "constant", "unbounded", "np.delete(X, [1, 3], axis=1)")
    fit_scaling(eval(message.split("Drop them: ")[1].rstrip("."), {"np": np, "X": x}))


def test_a_column_that_varies_by_rounding_only_is_constant():
    x = vectors()
    x[:, 2] = 0.1 + 1e-17 * np.arange(len(x))
    x[::2, 2] = 0.3 - 0.2
    refused(x, "2 of X", "constant")


def test_many_constant_columns_are_not_all_listed():
    refused(np.hstack([vectors(), np.ones((600, 20))]), "3, 4, 5, 6, 7, 8, 9, 10, ...")


@pytest.mark.parametrize("x", [np.zeros((4, 8, 8)), np.full((4, 8, 8), 255, np.uint8), np.ones((4, 3), bool)])
def test_every_value_the_same(x):
    refused(x, f"every value of X is {float(x.max()):g}", "nothing to learn")


def test_one_row_of_a_vector_has_no_density():
    refused(vectors()[:1], "1 row", "at least 2")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.array([["a", "b"]]), "astype(float)"),
        (np.zeros((2, 2), "M8[s]"), "astype(float)"),
        (np.array([[1, "red"]], object), "'red'"),
        (np.array([[1, None]]), "NaN"),
    ],
)
def test_entries_that_are_not_numbers(x, words):
    refused(x, words)


def test_numbers_in_an_array_of_objects_are_read():
    assert fit_scaling(vectors().astype(object)) == fit_scaling(vectors())
    with pytest.raises(TypeError, match=r"dtype object.*'dict'"):
        fit_scaling(np.array([[1, {}]]))


def test_a_sparse_matrix_is_its_array():
    assert fit_scaling(csr_array(vectors())) == fit_scaling(vectors())
    scaling = fit_scaling(vectors())
    np.testing.assert_array_equal(scaling.prepare(csr_array(vectors())), scaling.prepare(vectors()))


def test_what_is_an_array_only_when_asked():
    class Given:
        def __array__(self, dtype=None, copy=None):
            return vectors()

    assert len(dense(Given())) == len(vectors())
    assert fit_scaling(Given()) == fit_scaling(vectors())


def test_a_sparse_matrix_too_large_to_be_written_out():
    refused(csr_array((100_000, 100_000)), "1.0e+10 cells", "fewer columns")


def test_complex_numbers():
    refused(vectors() * 1j, "complex", "real and imaginary parts as columns")


def test_channels_first():
    refused(np.zeros((10, 3, 32, 32)), "(10, 3, 32, 32)", "channels come last", "np.moveaxis(x, 1, -1)")


@pytest.mark.parametrize("x", [1e200 * vectors(), -1e200 * pictures()])
def test_numbers_too_large_for_single_precision(x):
    refused(x, "e+20", "too large", "Rescale")


def test_an_unknown_likelihood():
    refused(vectors(), "'cauchy'", "gaussian-per-feature", "zero-inflated", likelihood="cauchy", name="")


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_grey_levels_are_no_bernoulli_and_the_message_says_what_is(scale):
    x = pictures() * scale
    refused(x, f"{x.max():g}", "different values", "continuous-bernoulli' or 'gaussian", likelihood="bernoulli")


def test_real_columns_are_no_bernoulli():
    refused(vectors(), "0 or 1", "likelihood='gaussian'", "binarise", likelihood="bernoulli")


@pytest.mark.parametrize("x", [vectors(), pictures() - 100.0], ids=["columns", "negative pixels"])
def test_a_range_that_is_no_continuous_bernoulli(x):
    refused(x, f"{x.min():g}", f"{x.max():g}", "'gaussian'", "0..1", likelihood="continuous-bernoulli")


@pytest.mark.parametrize(
    ("x", "likelihood", "words"),
    [
        (vectors(), "poisson", ("has fractions", "raw counts", "size_factors=")),
        (np.array([[1, -1], [0, 2]]), "negative-binomial", ("negative values", "-1 to 2")),
        (pictures() / 255, "discretised-logistic", ("with fractions", "np.round(255 * X)")),
        (vectors(), "ordinal", ("codes 0, 1", "with fractions")),
        (np.array([[0, 1], [1000, 2]]), "categorical", ("0 to 1000", "at most 255")),
        (np.array([[0, 1], [7, 2]]), "bernoulli", ("'negative-binomial'",)),
    ],
)
def test_impossible_pairs_name_a_likelihood_that_is_possible(x, likelihood, words):
    refused(x, f"likelihood='{likelihood}'", *words, likelihood=likelihood, name="")


COUNTS = np.random.default_rng(0).poisson([0.5, 3.0, 60.0], size=(50, 3))


@pytest.mark.parametrize(
    ("x", "likelihood", "better"),
    [
        (COUNTS, "gaussian", "negative-binomial"),
        (COUNTS, "student-t", "negative-binomial"),
        (COUNTS, "categorical", "negative-binomial"),
        (pictures() > 99, "continuous-bernoulli", "bernoulli"),
        ((pictures() > 99).reshape(30, -1), "poisson", "bernoulli"),
        (pictures(), "poisson", "discretised-logistic-mixture"),
    ],
)
def test_poor_pairs_warn_and_name_the_right_one(x, likelihood, better):
    with pytest.warns(UserWarning, match=f"does not suit these data.*'{better}'"):
        assert fit_scaling(x, likelihood).likelihood == likelihood


@pytest.mark.parametrize(
    ("x", "likelihood"),
    [
        (vectors(), "gaussian"),
        (pictures(), "gaussian"),
        (pictures(), "discretised-logistic"),
        (COUNTS, "poisson"),
        (COUNTS + 1, "gaussian"),
        (COUNTS[:, :2] % 5, "ordinal"),
    ],
)
def test_good_pairs_do_not_warn(x, likelihood):
    fit_scaling(x, likelihood)  # warnings are errors here


def test_numbers_with_outliers_get_heavy_tails():
    x = np.random.default_rng(0).normal(size=(1000, 3))
    assert fit_scaling(x).likelihood == "gaussian"
    far = x.copy()
    far[7, 1] = 30.0  # about 22 standard deviations of the column that now holds it
    assert fit_scaling(far).likelihood == "student-t"
    few = x[:60].copy()
    few[7, 1] = 12.0  # 7 standard deviations, and 70 % of the variance
    assert fit_scaling(few).likelihood == "student-t"
    rare = x.copy()
    rare[:, 2] = 0.0
    rare[5, 2] = 1.0  # a column that is hardly ever anything but zero, as a pixel near the edge
    assert fit_scaling(rare).likelihood == "gaussian"
    assert fit_scaling(far[:, :, None]).likelihood == "gaussian"  # a picture
    assert fit_scaling(far, "gaussian").likelihood == "gaussian"


def test_counts_and_codes_come_and_go_unchanged():
    for likelihood in ("auto", "poisson", "ordinal"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ordinal: many codes
            scaling = fit_scaling(COUNTS, likelihood)
        assert np.array_equal(scaling.prepare(COUNTS), COUNTS)
        assert np.array_equal(scaling.restore(COUNTS), COUNTS)
        assert scaling.log_jacobian == 0
    assert fit_scaling(COUNTS).likelihood == "negative-binomial"
    assert scaling.classes == COUNTS.max() + 1
    refused_new(scaling, COUNTS + 5, "fitted to 0..")
    refused_new(fit_scaling(COUNTS), COUNTS + 0.5, "has fractions", "negative-binomial")


def test_eight_bit_levels_are_whole_and_within_range():
    scaling = fit_scaling(pictures(), "discretised-logistic")
    assert scaling.classes == 256
    assert scaling.log_jacobian == 0
    assert np.array_equal(np.rint(scaling.prepare(pictures()) * 255)[..., 0], pictures())
    refused_new(scaling, pictures() + 0.25, "fractions")


# ---------------------------------------------------------------- new data that are refused


@pytest.fixture(scope="module")
def of_vectors() -> Scaling:
    return fit_scaling(vectors())


def refused_new(scaling: Scaling, x, *words: str) -> None:
    with pytest.raises(InputError) as caught:
        scaling.prepare(x)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_new_data_of_another_shape(of_vectors):
    refused_new(of_vectors, np.zeros((5, 4)), "4 features", "expecting 3 features", "(n, 3)")
    refused_new(of_vectors, np.zeros((5, 4, 4)), "(4, 4)", "fitted to (3,)", "(n, 3)")
    refused_new(of_vectors, np.zeros(3), "(3,)", "x[None]")
    refused_new(fit_scaling(pictures()), np.zeros((5, 8, 9)), "(8, 9)", "(8, 8)", "(n, 8, 8)")


def test_new_data_that_are_not_finite_or_empty(of_vectors):
    refused_new(of_vectors, with_value(np.nan, 2, 2), "NaN", "(2, 2)")
    refused_new(of_vectors, np.zeros((0, 3)), "empty")


def test_new_data_out_of_the_range_of_the_fit():
    fractions = fit_scaling(pictures() / 255, "continuous-bernoulli")
    refused_new(fractions, pictures(), "0..1", f"{pictures().max()}", "same units")
    binary = fit_scaling((pictures() > 99).astype(int))
    refused_new(binary, pictures() / 255, "between 0 and 1", "Binarise")
    refused_new(binary, 2 * (pictures() > 99), "0 to 2", "0..1")


def test_gaussian_new_data_may_be_anywhere(of_vectors):
    assert np.isfinite(of_vectors.prepare(1e6 * vectors())).all()


# ---------------------------------------------------------------- what is chosen


@pytest.mark.parametrize(
    ("x", "likelihood", "levels"),
    [
        (pictures(), "gaussian", (0, 255)),
        (pictures() / 255, "gaussian", (0, 1)),
        (pictures() // 2 * 1.0, "gaussian", (0, float(pictures().max() // 2))),
        (pictures() - 100.0, "gaussian", (pictures().min() - 100.0, pictures().max() - 100.0)),
        (pictures() > 99, "bernoulli", (0, 1)),
        ((pictures() > 99) * 255, "bernoulli", (0, 255)),
        ((pictures() > 99).astype(np.uint8), "bernoulli", (0, 1)),
    ],
    ids=["bytes", "fractions", "other top", "negative", "bool", "0 and 255", "0 and 1"],
)
def test_likelihood_and_range_follow_the_pixels(x, likelihood, levels):
    scaling = fit_scaling(x)
    assert scaling.likelihood == likelihood
    assert scaling.levels == levels
    model = scaling.prepare(x)
    assert model.shape == (30, 8, 8, 1)
    if likelihood == "gaussian":
        assert model.mean() == pytest.approx(0, abs=1e-5)
        assert model.std() == pytest.approx(1, rel=1e-5)
    else:
        assert model.min() >= 0
        assert model.max() <= 1


@pytest.mark.parametrize("dtype", [float, np.float32, np.uint8, np.int64])
def test_there_and_back(dtype):
    x = pictures().astype(dtype)
    scaling = fit_scaling(x)
    np.testing.assert_allclose(scaling.restore(scaling.prepare(x)), x, atol=1e-3)


def test_columns_are_standardised_in_their_own_units():
    x = vectors() * [1e6, 1.0, 1e-6] + [0, 1e4, 0]
    scaling = fit_scaling(x)
    model = scaling.prepare(x)
    np.testing.assert_allclose(model.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(model.std(0), 1, atol=1e-4)
    np.testing.assert_allclose(scaling.restore(model), x, rtol=1e-5)
    assert scaling.log_jacobian == pytest.approx(-np.sum(np.log(x.std(0))))


def test_the_jacobian_of_pictures_counts_every_pixel_and_a_probability_has_none():
    assert fit_scaling(pictures()).log_jacobian == pytest.approx(-64 * math.log(pictures().std()))
    assert fit_scaling(pictures() / 255, "continuous-bernoulli").log_jacobian == 0
    assert fit_scaling((pictures() > 99) * 255).log_jacobian == 0


def test_restored_pictures_stay_within_their_levels():
    far = np.array([[-9.0] * 32 + [9.0] * 32])
    assert fit_scaling(pictures()).restore(far).reshape(-1)[[0, -1]].tolist() == [0, 255]


def test_json_and_back(of_vectors):
    assert Scaling.from_json(of_vectors.to_json()) == of_vectors
