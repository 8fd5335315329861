"""The report: what it says, what it draws, and that it stands by itself."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from qphi import theme
from qphi.errors import InputError
from qphi.estimators.diagnosis import Finding
from qphi.estimators.latent_tools import LatentTools
from qphi.report import of_images, page, plots, words, write_report
from qphi.report.latent_map import BALLS, latent_map, map_limits, mixture_density
from qphi.report.of_table import _shown
from qphi.report.strips import image_strip
from qphi.report.subject import Subject
from qphi.status import Status


@dataclasses.dataclass(frozen=True)
class Number:
    value: float
    standard_error: float


class LinearVAE(LatentTools):
    """Probabilistic PCA behind the estimator's face: every quantity of the report has a closed form."""

    likelihood_ = "normal"
    beta = 1.0
    random_state = 0
    seconds_ = 12.3
    status_ = Status.CONVERGED

    def __init__(self, x, latent_dim):
        self.latent_dim, self.shape_ = latent_dim, x.shape[1:]
        self.image_ = x.ndim > 2
        self.levels_ = (float(x.min()), float(x.max()))
        flat = x.reshape(len(x), -1).astype(float)
        self.n_features_in_ = flat.shape[1]
        self.mean = flat.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(flat.T).reshape(flat.shape[1], -1))
        values, vectors = values[::-1], vectors[:, ::-1]
        self.noise = max(values[latent_dim:].mean() if latent_dim < len(values) else 0.01 * values[-1], 1e-3)
        used = np.maximum(values[:latent_dim] - self.noise, 0)
        used = np.pad(used, (0, latent_dim - len(used)))
        weights = np.zeros((flat.shape[1], latent_dim))
        weights[:, : min(latent_dim, vectors.shape[1])] = vectors[:, :latent_dim]
        self.weights = weights * np.sqrt(used)
        self.variance = self.noise / (used + self.noise)
        elbo = -40 - 400 * np.exp(-np.arange(40) / 3)
        self.history_ = {
            "step": list(range(0, 4000, 100)),
            "epoch": list(np.arange(40) * 1.5),
            "elbo_per_datum": list(elbo + 0.5),
            "held_out_elbo_per_datum": list(elbo),
            "log_likelihood_per_datum": list(elbo + 15),
            "kl_per_datum": [15.0] * 40,
            "best_elbo_per_datum": list(elbo),
            "learning_rate": [1e-3] * 30 + [1e-4] * 10,
        }

    def encode(self, x):
        flat = np.asarray(x, float).reshape(len(x), -1) - self.mean
        means = flat @ self.weights * self.variance / self.noise
        return means, np.tile(np.sqrt(self.variance), (len(x), 1))

    def transform(self, x, covariates=None):
        return self.encode(x)[0]

    def inverse_transform(self, z, covariates=None):
        return (np.asarray(z) @ self.weights.T + self.mean).reshape(-1, *self.shape_)

    def reconstruct(self, x):
        return self.inverse_transform(self.transform(x))

    def sample(self, n, random_state=None):
        return self.inverse_transform(np.random.default_rng(random_state).normal(size=(n, self.latent_dim)))

    def _fitted_shape(self):
        return self.shape_

    def diagnose(self, x):
        return (Finding("overfit", "Seen.", "Change it."),) if self.beta == 4 else ()

    def interpolate(self, a, b, steps=9, path="linear"):
        z = self.transform(np.stack([a, b]))
        return self.inverse_transform(np.linspace(z[0], z[1], steps))

    def held_out_rows(self, x):
        return None

    def evaluate(self, x, particles=500):
        means, scales = self.encode(x)
        kl = 0.5 * (means**2 + scales**2 - 1 - 2 * np.log(scales)).mean(axis=0)
        error = (np.asarray(x, float).reshape(len(x), -1) - self.reconstruct(x).reshape(len(x), -1)) ** 2
        spread = (self.weights**2 * self.variance).sum()
        constant = error.shape[1] * np.log(2 * np.pi * self.noise)
        fit = -0.5 * ((error.sum(1) + spread) / self.noise + constant).mean()
        elbo = Number(fit - kl.sum(), 0.3)
        return SimpleNamespace(
            elbo=elbo,
            log_likelihood=Number(fit, 0.2),
            kl=Number(kl.sum(), 0.05),
            log_evidence=elbo,
            bits_per_dimension=None,
            active_units=int((means.var(axis=0) > 0.01).sum()),
            kl_per_unit=kl,
            latent_dim=self.latent_dim,
            n=len(x),
            particles=particles,
            reconstruction_error=float(np.sqrt(error.mean())),
            unreliable=0.25,
        )


def rows(shape, n=60):
    rng = np.random.default_rng(1)
    size = int(np.prod(shape))
    flat = rng.normal(size=(n, 3)) @ rng.normal(size=(3, size)) + 0.3 * rng.normal(size=(n, size))
    return flat.reshape(n, *shape).astype(np.float32)


@pytest.fixture
def without_pictures(monkeypatch):
    """For tests of the words alone: drawing takes a second or two."""
    monkeypatch.setattr(page, "pictures", lambda subject: [])


class Page(HTMLParser):
    """The attributes and the text of a page."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text = [], ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    @property
    def images(self):
        return [attributes for tag, attributes in self.tags if tag == "img"]


@pytest.mark.parametrize(
    ("shape", "latent_dim"),
    [((6, 5), 1), ((6, 5), 2), ((6, 5), 16), ((6, 5, 3), 2), ((4,), 1), ((7,), 16), ((1,), 2)],
)
def test_report_of_every_kind_of_data_has_its_pictures_and_needs_nothing_else(tmp_path, shape, latent_dim):
    x = rows(shape)
    page = Page(write_report(tmp_path, LinearVAE(x, latent_dim), x, labels=np.arange(60) % 3))
    assert "could not be drawn" not in page.text
    titles = ["Samples", "Reconstructions", "The latent map", "Training", "KL of each latent unit"]
    if len(shape) > 1:
        titles += ["Between two data", "One latent unit at a time"]
        titles += ["The same plane, decoded"] if latent_dim > 1 else []
    for title in titles:
        assert any(image["alt"].startswith(title) for image in page.images), title
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert not [a for _, a in page.tags if "href" in a]
    assert not re.search(r"https?://|@import|url\(", page.source)
    assert str(tmp_path) not in page.source
    assert "Converged: the ELBO has stopped rising" in page.text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.usefixtures("without_pictures")
def test_figures_on_the_page_are_those_of_evaluate(tmp_path):
    x = rows((5, 5))
    vae = LinearVAE(x, 3)
    text = Page(write_report(tmp_path, vae, x)).text
    e = vae.evaluate(x)
    for figure in (e.elbo, e.log_likelihood, e.kl):
        assert words.figure(figure.value, figure.standard_error) in text
    assert f"{e.active_units} of 3" in text
    assert "500 draws" in text
    assert "12.3 s" in text


@pytest.mark.usefixtures("without_pictures")
def test_held_out_rows_are_judged_where_they_are_known(tmp_path):
    x = rows((5, 5))
    vae = LinearVAE(x, 3)
    held_out = np.arange(7, 60, 9)
    fair = vae.evaluate(x[held_out])
    text = Page(write_report(tmp_path, vae, x)).text
    assert "60 data that may have been trained on" in text
    assert "nats per datum, when the model kept was checked" in text
    vae.held_out_rows = lambda given: held_out if given is x else None
    text = Page(write_report(tmp_path, vae, x)).text
    assert words.figure(fair.elbo.value, fair.elbo.standard_error) in text
    assert "6 held-out data" in text
    assert "trained on" not in text


def test_kept_check_is_that_of_the_best_epoch():
    vae = LinearVAE(rows((5, 5)), 3)
    vae.best_epoch_ = 3.1
    assert words.summary(vae, None, False, None)[0][1] == words.number(vae.history_["held_out_elbo_per_datum"][2])


def test_names_from_outside_are_escaped(tmp_path):
    hostile = '<script>alert("x")</script>'
    x = rows((4, 4))
    vae = LinearVAE(x, 2)
    vae.get_params = lambda: {"<b>bold</b>": hostile}
    folder = tmp_path / "<script>y"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"source": hostile}))
    labels = np.array([hostile, "$x_{", "$a$"] * 20)
    page = Page(write_report(folder, vae, x, labels))
    assert not [tag for tag, _ in page.tags if tag in ("script", "b")]
    assert "could not be drawn" not in page.text


@pytest.mark.usefixtures("without_pictures")
def test_no_path_of_this_machine_is_on_the_page(tmp_path):
    x = rows((4,))
    np.save(tmp_path / "rows.npy", x)
    (tmp_path / "run.json").write_text(json.dumps({"source": str(tmp_path / "rows.npy")}))
    vae = LinearVAE(x, 2)
    vae.get_params = lambda: {"out": str(tmp_path / "elsewhere"), "latent_dim": 2}
    read = Page(write_report(tmp_path, vae))
    assert str(tmp_path) not in read.source
    assert "rows.npy" in read.text
    assert "elsewhere" in read.text


def test_data_are_read_again_from_the_source_of_the_run(tmp_path):
    x = rows((4,))
    np.save(tmp_path / "rows.npy", x)
    (tmp_path / "run.json").write_text(json.dumps({"source": str(tmp_path / "rows.npy")}))
    page = Page(write_report(tmp_path, LinearVAE(x, 2)))
    assert any(image["alt"].startswith("The latent map") for image in page.images)


@pytest.mark.parametrize("source", [None, "gone.npy"])
def test_without_data_the_page_says_what_is_missing(tmp_path, source):
    if source:
        (tmp_path / "run.json").write_text(json.dumps({"source": str(tmp_path / source)}))
    page = Page(write_report(tmp_path, LinearVAE(rows((5, 5)), 4)))
    assert "pictures that need them are left out" in page.text
    assert str(tmp_path) not in page.source
    shown = {image["alt"].split(".")[0] for image in page.images}
    assert shown == {"Samples", "The same plane, decoded", "Training", "One latent unit at a time"}
    assert "−40.00" in page.text  # the best held-out ELBO of the history


@pytest.mark.usefixtures("without_pictures")
def test_page_owns_up_to_beta_to_not_converging_and_to_collapse(tmp_path):
    x = rows((5, 5))
    vae = LinearVAE(x, 2)
    vae.beta, vae.status_ = 4.0, Status.MAX_STEPS
    vae.weights, vae.variance = vae.weights * 0, np.ones(2)
    text = Page(write_report(tmp_path, vae, x)).text
    assert "beta = 4: this objective is not a bound on log p(x)" in text
    assert "The fit did not converge" in text
    assert Status.MAX_STEPS.advice[1:] in text
    assert "No latent unit is active" in text
    assert "Overfit: Seen. Change it." in text
    assert "0 of 2" in text


def test_a_good_fit_has_nothing_to_own_up_to():
    x = rows((5, 5))
    vae = LinearVAE(x, 2)
    assert words.cautions(vae, vae.evaluate(x)) == []


def test_a_picture_that_fails_says_so_and_the_others_are_there(tmp_path):
    x = rows((5, 5))
    vae = LinearVAE(x, 2)
    vae.sample = lambda n, random_state=None: np.full((n, 5, 5), np.nan)
    page = Page(write_report(tmp_path, vae, x))
    assert "could not be drawn: 48 of 48 images hold pixels that are not finite" in page.text
    assert any(image["alt"].startswith("The latent map") for image in page.images)


def test_labels_of_another_length_are_refused(tmp_path):
    x = rows((5, 5))
    with pytest.raises(InputError, match="one entry for each of the 60 rows"):
        write_report(tmp_path, LinearVAE(x, 2), x, labels=np.zeros(59))


def test_a_damaged_run_file_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        write_report(tmp_path, LinearVAE(rows((4,)), 2), rows((4,)))


@pytest.mark.usefixtures("without_pictures")
def test_a_failed_report_leaves_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def fail(**_):
        raise RuntimeError("no")

    monkeypatch.setattr(page, "render", fail)
    with pytest.raises(RuntimeError):
        write_report(tmp_path, LinearVAE(rows((4,)), 2), rows((4,)))
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "old")]


def test_the_same_run_gives_the_same_page(tmp_path):
    x = rows((5, 5))
    vae = LinearVAE(x, 2)
    assert write_report(tmp_path, vae, x).read_bytes() == write_report(tmp_path, vae, x).read_bytes()


def test_nothing_global_is_touched(tmp_path):
    import matplotlib

    before, state = dict(matplotlib.rcParams), np.random.get_state()[1].copy()  # noqa: NPY002
    write_report(tmp_path, LinearVAE(rows((5, 5)), 2), rows((5, 5)))
    assert dict(matplotlib.rcParams) == before
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


# The latent map's density


def test_mixture_density_is_the_hand_computed_one():
    means, scales = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[1.0, 0.5], [2.0, 1.0]])
    xs, ys = np.array([0.3, 1.7, -2.0]), np.array([0.9, -0.4])
    by_hand = np.zeros((2, 3))
    for i in range(2):
        for row, y in enumerate(ys):
            for column, x in enumerate(xs):
                squares = ((x - means[i, 0]) / scales[i, 0]) ** 2 + ((y - means[i, 1]) / scales[i, 1]) ** 2
                by_hand[row, column] += np.exp(-0.5 * squares) / (2 * np.pi * scales[i].prod()) / 2
    np.testing.assert_allclose(mixture_density(means, scales, xs, ys), by_hand, rtol=1e-12)


def test_mixture_density_integrates_to_one():
    rng = np.random.default_rng(0)
    means, scales = rng.normal(size=(50, 2)), rng.uniform(0.2, 0.8, (50, 2))
    points = np.linspace(-8, 8, 401)
    step = points[1] - points[0]
    assert mixture_density(means, scales, points, points).sum() * step**2 == pytest.approx(1, abs=1e-6)
    assert mixture_density(means[:, :1], scales[:, :1], points).sum() * step == pytest.approx(1, abs=1e-6)


def test_codes_of_the_prior_give_the_prior():
    points = np.linspace(-3, 3, 7)
    prior = np.exp(-0.5 * (points[:, None] ** 2 + points**2)) / (2 * np.pi)
    density = mixture_density(np.zeros((9, 2)), np.ones((9, 2)), points, points)
    np.testing.assert_allclose(density, prior, rtol=1e-12)


def test_map_draws_a_thousand_balls_with_radii_of_one_scale():
    rng = np.random.default_rng(0)
    n = BALLS + 500
    drawn = latent_map(rng.normal(size=(n, 4)), np.full((n, 4), 0.25), (3, 1), rng.integers(0, 10, n))
    balls = next(c for c in drawn.axes[0].collections if type(c).__name__ == "EllipseCollection")
    assert len(balls.get_offsets()) == BALLS
    np.testing.assert_allclose(balls.get_widths(), 0.5)
    assert "latent unit 3" in drawn.axes[0].get_xlabel()
    assert "latent unit 1" in drawn.axes[0].get_ylabel()


@pytest.mark.parametrize(
    "labels", [None, np.linspace(0, 1, 40), np.array(["a", "b"] * 20), np.array([f"c{i}" for i in range(40)])]
)
@pytest.mark.parametrize("axes", [(0,), (0, 1)])
def test_map_takes_labels_of_any_kind(axes, labels):
    means = np.random.default_rng(0).normal(size=(40, 2))
    assert theme.png(latent_map(means, np.full((40, 2), 0.3), axes, labels)).startswith(b"\x89PNG")


@pytest.mark.parametrize("scale", [1e-6, 1.0, 30.0])
def test_map_of_points_of_the_prior_and_of_huge_balls(scale):
    means = np.zeros((5, 2))
    assert theme.png(latent_map(means, np.full((5, 2), scale), (0, 1)))


def test_map_refuses_codes_that_are_not_finite():
    with pytest.raises(ValueError, match="not finite"):
        latent_map(np.full((3, 2), np.nan), np.ones((3, 2)), (0, 1))


def test_map_holds_the_third_ring_and_the_balls():
    assert map_limits(np.zeros((4, 2)), np.ones((4, 2))) >= 3
    assert map_limits(np.full((4, 2), 9.0), np.ones((4, 2))) >= 11


# Other figures


@pytest.mark.parametrize("values", [[], [-1.0], [float("nan")] * 3, [None, -3.0, -2.0], [-2.0] * 12])
def test_training_curve_of_any_length(values):
    history = {"epoch": list(range(len(values))), "elbo_per_datum": values, "held_out_elbo_per_datum": values}
    assert theme.png(plots.training_curve(history))


def test_best_check_is_marked():
    history = {"epoch": [1, 2, 3], "elbo_per_datum": [-3, -2, -1], "held_out_elbo_per_datum": [-3, -2, -2.5]}
    drawn = plots.training_curve(history)
    assert "kept, epoch 2" in drawn.axes[0].get_legend_handles_labels()[1]


def test_kl_bars_are_sorted_and_active_ones_told_apart():
    drawn = plots.kl_per_unit(np.array([0.1, 3.0, 0.0, 1.0]), np.array([False, True, False, True]))
    heights = sorted((bar.get_x(), bar.get_height()) for bar in drawn.axes[0].patches)
    assert [height for _, height in heights] == [3.0, 1.0, 0.1, 0.0]
    assert [text.get_text() for text in drawn.axes[0].get_xticklabels()] == ["1", "3", "0", "2"]
    assert drawn.axes[0].get_legend_handles_labels()[1] == ["active (2)", "not in use (2)"]


def test_strip_shows_every_pixel_as_a_whole_block():
    pixels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
    drawn = image_strip(pixels, 3, row_names=("a", "b"), tile=101)
    assert drawn.shape[0] == 2 * 100 + 4
    right = drawn.shape[1] - (3 * 100 + 2 * 4)
    np.testing.assert_array_equal(drawn[:100, right : right + 100], pixels[0].repeat(25, 0).repeat(25, 1))
    assert (drawn[:, :right] < 255).any()  # the names


@pytest.mark.parametrize("side", [1, 5, 28, 64, 300])
def test_strips_are_no_wider_than_the_page(side):
    assert image_strip(np.zeros((13, side, side), np.uint8), 13, row_names=["unit 1"]).shape[1] <= 1800
    assert image_strip(np.zeros((13, side, side, 3), np.uint8), 13, tile=9999).shape[1] <= 1800


def test_pairs_to_go_between_have_different_labels():
    labels = np.array([0, 0, 0, 1, 1, 1])
    subject = Subject(None, shown=np.array([0, 1, 3, 2, 4, 5]), labels=labels)
    assert all(labels[a] != labels[b] for a, b in of_images._pairs(subject))


# Words


def test_figures_in_words():
    assert words.figure(-20.345, 0.31) == "−20.34 ± 0.31"
    assert words.figure(-20.3, float("nan")) == "−20.30"
    assert words.figure(float("nan"), 0.1) == "not finite ± 0.10"
    assert words.duration(59.97) == "60.0 s"


def test_odd_cells_are_shown_as_a_file_has_them():
    assert _shown(np.datetime64("2024-07-16", "ns"), "datetime64[ns]") == "2024-07-16"
    assert _shown(35564.0, "int64") == "35564"
    assert _shown(0.123456, "float64") == "0.1235"
    assert _shown("01395", "str") == "01395"
