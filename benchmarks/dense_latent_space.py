"""The dense latent space, measured and shown: the same networks trained with and without the KL term.

With: `qphi.VAE()`. Without: `qphi.VAE(beta=0)`, a plain autoencoder. Its objective is E_q[log p(x|z)]
alone, and with a learned decoder scale s that is -D log s - |x - x_hat|^2 / (2 s^2) + constant: s becomes
the root mean squared error, and what is left to minimise is the squared error (its logarithm, at the best
s). beta=0 thus fixes no s; it is the absence of a price for information. z is still sampled, but not in
effect: the encoder is free to shrink its noise, and the table prints how large that is beside the spread
of the codes (a hundredth or less is none).

Decoded are points that no training datum sits on:
  midpoints  halfway between the codes (posterior means) of training data of two different classes
  Gaussian   draws from the Gaussian with the mean and covariance of the codes of the training data
  prior      draws from N(0, I), which means something for the VAE; nothing tied the autoencoder's codes
             to it
and, to compare with: `reconstructions` (decodes of held-out data's codes: what the same decoder does
where it was trained), `held-out data` (real), `pixel blends` (means of two real images of different
classes), `noise` (uniform).

How unlike data they are, by four measures:
  distance    mean distance to the nearest held-out datum / mean distance from a held-out datum to its
              nearest training datum (as many training data as held-out data). 1: as near to data as data
              are. FLATTERS BLUR: a mean of images is nearer to each of them than they are to each other.
  log density nats above the held-out data's mean, under 20 Gaussians with full covariance fitted to the
              training data on their first 40 principal axes. Flatters blur too: smooth images are near
              the modes.
  outliers    share of decodes less likely, under that density, than all but 1 % of the held-out data
  confident   share that an RBF support vector classifier, calibrated, trained on real data, calls one
              class with probability above 0.9. Midpoints of two classes have no right answer: high means
              class-like images in between, not a correct label. It is lenient: a third of pure noise
              passes.
Mean and standard error over seeds (each its own split, weights and draws). A measure "separates" when the
95 % t interval of the seeds' paired differences leaves zero out; with 3 seeds that is a demanding 4.3
standard errors. There are 12 such comparisons a table: one in 20 separates by chance.

Writes benchmarks/results/dense_latent_space[-mnist].json and .npz, and
docs/figures/dense_latent_space[-mnist].png. Digits needs no data; --data mnist needs QPHI_DATA.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

import qphi
from _results import figure_file, load, need_data, parser, print_table, read, results_file, save

NAME = "dense_latent_space"
MODELS = {"VAE": 1.0, "autoencoder": 0.0}  # and their beta
OFF_DATA = ("midpoints", "Gaussian", "prior")
MEASURES = {"distance": -1, "log density": 1, "outliers": -1, "confident": 1}  # which sign is more like data
CONFIDENT, OUTLIER = 0.9, 0.01
PRINCIPAL_AXES, GAUSSIANS = 40, 20
HELD_OUT = 0.3
CELLS = 15  # a side of the decoded grid


def main() -> None:
    options = _options()
    name = NAME if options.data == "digits" else f"{NAME}-{options.data}"
    path, arrays = (results_file(name, options.smoke, suffix) for suffix in (".json", ".npz"))
    if not options.plot_only:
        if options.data == "mnist":
            need_data()
        rows, pictures = [], {}
        for seed in range(options.seeds):
            split = Split.of(options, seed)
            judge = Judge(split, seed)
            for latent_dim in options.latents:
                for model in MODELS:
                    print(f"seed {seed}, latent {latent_dim}, {model} ...", flush=True)
                    vae = _fit(split, model, latent_dim, seed, options)
                    rows += _measure(vae, model, split, judge, seed, options.points)
                    if seed == 0 and latent_dim == min(options.latents, key=lambda d: abs(d - 2)):
                        pictures |= _picture(vae, model, split)
        np.savez_compressed(arrays, **pictures)
        save(path, {"data": options.data, "seeds": options.seeds, "rows": rows})
    rows = read(path)["rows"]
    for latent_dim in sorted({row["latent_dim"] for row in rows}):
        _print([row for row in rows if row["latent_dim"] == latent_dim], latent_dim)
    with np.load(arrays) as pictures:
        _draw(dict(pictures), name, options.smoke)


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--data", choices=["digits", "mnist"], default="digits")
    options.add_argument("--latents", type=int, nargs="+", default=[2, 16])
    options.add_argument("--seeds", type=int, default=3, help="how many; at least 2")
    options.add_argument("--rows", type=int, default=12_000, help="MNIST images used, in all")
    options.add_argument("--epochs", type=float, help="a budget; otherwise fits converge")
    options.add_argument("--points", type=int, default=2000, help="decodes of each kind")
    options.add_argument("--plot-only", action="store_true", help="tables and figure from saved results")
    given = options.parse_args()
    if given.smoke:
        given.latents, given.seeds, given.epochs, given.points = [2], 2, given.epochs or 10, 200
    if given.seeds < 2:
        options.error("--seeds: a standard error needs at least 2")
    return given


@dataclass(frozen=True)
class Split:
    """Images (n, h, w) and their labels, for training and held out."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @staticmethod
    def of(options: argparse.Namespace, seed: int) -> Split:
        """A random split, another for each seed."""
        data = load(options.data)
        assert data.labels is not None
        order = np.random.default_rng(seed).permutation(len(data.x))
        order = order[: 600 if options.smoke else options.rows]
        cut = round(HELD_OUT * len(order))
        test, train = order[:cut], order[cut:]
        return Split(data.x[train], data.labels[train], data.x[test], data.labels[test])


def _fit(split: Split, model: str, latent_dim: int, seed: int, options: argparse.Namespace) -> qphi.VAE:
    # Gaussian for both data sets: with grey levels a Bernoulli is no density
    vae = qphi.VAE(latent_dim, beta=MODELS[model], likelihood="gaussian", max_epochs=options.epochs, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return vae.fit(split.train)


class Judge:
    """The four measures, fitted to real data only."""

    def __init__(self, split: Split, seed: int):
        train, test = _flat(split.train), _flat(split.test)
        generator = np.random.default_rng(seed)
        self._near = NearestNeighbors(n_neighbors=1).fit(test)
        some = train[generator.permutation(len(train))[: len(test)]]
        distances, _ = NearestNeighbors(n_neighbors=1).fit(some).kneighbors(test)
        self._typical = float(np.mean(distances))
        self._test = test
        axes = min(PRINCIPAL_AXES, train.shape[1])
        self._axes = PCA(axes, svd_solver="full").fit(train)
        scores = self._axes.transform(train)
        gaussians = max(1, min(GAUSSIANS, len(train) // (3 * axes)))
        # the floor keeps a component of few data from collapsing onto their plane
        floor = 0.01 * float(np.mean(np.var(scores, axis=0)))
        self._density = GaussianMixture(gaussians, reg_covar=floor, random_state=seed).fit(scores)
        real = self._log_density(test)
        self._real, self._low = float(np.mean(real)), float(np.quantile(real, OUTLIER))
        # Pixels as they are: standardised, the faintest grey in a pixel that is nearly always blank outweighs the
        # digit, and even the autoencoder's reconstructions of held-out data pass for nothing.
        self._classifier = CalibratedClassifierCV(SVC(C=10.0), method="temperature", cv=3)
        rows = generator.permutation(len(train))[:4000]  # a support vector machine's time grows with the square
        self._classifier.fit(train[rows], split.train_labels[rows])

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        """Every measure of these images, averaged over them."""
        rows = _flat(images)
        log_density = self._log_density(rows)
        itself = rows.shape == self._test.shape and np.array_equal(rows, self._test)
        # a held-out datum's nearest held-out datum is another one
        distances = self._near.kneighbors(n_neighbors=1)[0] if itself else self._near.kneighbors(rows)[0]
        return {
            "distance": float(np.mean(distances)) / self._typical,
            "log density": float(np.mean(log_density)) - self._real,
            "outliers": float(np.mean(log_density < self._low)),
            "confident": float(np.mean(self._classifier.predict_proba(rows).max(axis=1) > CONFIDENT)),
        }

    def _log_density(self, rows: np.ndarray) -> np.ndarray:
        return self._density.score_samples(self._axes.transform(rows))


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)


def _measure(vae: qphi.VAE, model: str, split: Split, judge: Judge, seed: int, points: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(1000 + seed)  # the same pairs and draws for both models
    codes, noise = vae.encode(split.train)
    a, b = _pairs(split.train_labels, points, generator)
    covariance = np.atleast_2d(np.cov(codes, rowvar=False))
    latents = {
        "midpoints": (codes[a] + codes[b]) / 2,
        "Gaussian": generator.multivariate_normal(codes.mean(axis=0), covariance, points),
        "prior": generator.standard_normal((points, codes.shape[1])),
        "reconstructions": vae.transform(split.test),
    }
    images = {kind: vae.inverse_transform(z) for kind, z in latents.items()}
    images["held-out data"] = split.test
    images["noise"] = generator.uniform(split.train.min(), split.train.max(), (points, *split.train.shape[1:]))
    images["pixel blends"] = (_flat(split.train[a]) + _flat(split.train[b])) / 2
    scale = vae.decoder_scale()
    about = {
        "model": model,
        "seed": seed,
        "latent_dim": int(vae.latent_dim),
        "noise_over_spread": float(np.median(noise / codes.std(axis=0))),
        "decoder_scale": None if scale is None else float(np.mean(scale)),
        "epochs": vae.history_["epoch"][-1],
        "status": vae.status_.name,
    }
    return [{**about, "kind": kind, **judge(found)} for kind, found in images.items()]


def _pairs(labels: np.ndarray, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pairs of data of different classes."""
    a, b = generator.integers(len(labels), size=(2, 4 * count))
    different = np.flatnonzero(labels[a] != labels[b])[:count]
    return a[different], b[different]


def _picture(vae: qphi.VAE, model: str, split: Split) -> dict[str, np.ndarray]:
    """What the figure needs of one model: codes, their balls, decodes over a grid of two axes."""
    codes, noise = vae.encode(split.train)
    if codes.shape[1] == 1:
        raise SystemExit("The map needs at least 2 latent units: give --latents 2.")
    low, high = np.quantile(codes[:, :2], [0.01, 0.99], axis=0)
    across, down = (np.linspace(low[i], high[i], CELLS) for i in range(2))
    grid = np.zeros((CELLS * CELLS, codes.shape[1]), np.float32)
    grid[:, 0], grid[:, 1] = np.tile(across, CELLS), np.repeat(down[::-1], CELLS)
    grid[:, 2:] = codes[:, 2:].mean(axis=0)
    images = vae.inverse_transform(grid)
    _, h, w = images.shape[:3]
    images = np.pad(images.reshape(-1, h, w), ((0, 0), (0, 1), (0, 1)))  # a white line between two
    sheet = images.reshape(CELLS, CELLS, h + 1, w + 1).transpose(0, 2, 1, 3)
    sheet = sheet.reshape(CELLS * (h + 1), CELLS * (w + 1))
    parts = {"codes": codes[:, :2], "noise": noise[:, :2], "labels": split.train_labels, "sheet": sheet}
    return {f"{model} {name}": part for name, part in {**parts, "box": np.stack([low, high])}.items()}


def _mean_error(values: list[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values)))


def _print(rows: list[dict[str, Any]], latent_dim: int) -> None:
    print(f"\nlatent {latent_dim}; mean ± standard error over {len({row['seed'] for row in rows})} seeds")
    for model in MODELS:
        mine = [row for row in rows if row["model"] == model]
        noise, scale, epochs = (
            np.mean([row[key] for row in mine]) for key in ("noise_over_spread", "decoder_scale", "epochs")
        )
        print(f"  {model}: posterior noise / spread of codes {noise:.4f}, ", end="")
        print(f"decoder scale {scale:.2f}, {epochs:.0f} epochs")

    def values(kind: str, model: str, measure: str) -> list[float]:
        mine = [row for row in rows if row["kind"] == kind and row["model"] == model]
        return [row[measure] for row in sorted(mine, key=lambda row: row["seed"])]

    table = []
    for kind in ("held-out data", "pixel blends", "noise"):  # the same for both models
        table.append([kind, "", *(_shown(values(kind, "VAE", measure)) for measure in MEASURES)])
    for kind in ("reconstructions", *OFF_DATA):
        for model in MODELS:
            table.append([kind, model, *(_shown(values(kind, model, measure)) for measure in MEASURES)])
    print_table(["decodes of", "", *MEASURES], table)
    print("whose off-data decodes are more like data, from paired differences (VAE - autoencoder):")
    verdicts = []
    for kind in OFF_DATA:
        line = [kind]
        for measure, sign in MEASURES.items():
            pairs = zip(values(kind, "VAE", measure), values(kind, "autoencoder", measure), strict=True)
            line.append(_verdict([a - b for a, b in pairs], sign))
        verdicts.append(line)
    print_table(["", *MEASURES], verdicts)


def _shown(values: list[float]) -> str:
    mean, error = _mean_error(values)
    return f"{mean:.2f} ± {error:.2f}" if abs(mean) < 100 else f"{mean:.0f} ± {error:.0f}"


def _verdict(differences: list[float], sign: int) -> str:
    mean, error = _mean_error(differences)
    if abs(mean) <= float(stats.t.ppf(0.975, len(differences) - 1)) * error or mean == 0:
        return f"not separated ({mean:+.2f})"
    return f"{'VAE' if mean * sign > 0 else 'autoencoder'} ({mean:+.2f})"


def _draw(pictures: dict[str, np.ndarray], name: str, smoke: bool) -> None:
    from qphi import theme

    drawn = theme.figure(9.0, 9.2)
    grid = drawn.subplots(2, 2)
    for (left, right), model in zip(grid, MODELS, strict=True):
        part = {key.removeprefix(f"{model} "): array for key, array in pictures.items() if key.startswith(model)}
        _draw_codes(left, part, balls=model == "VAE")
        (x0, y0), (x1, y1) = part["box"]
        right.imshow(part["sheet"], cmap="gray_r", extent=(x0, x1, y0, y1), aspect="auto")
        theme.style(right, x="latent unit 0", title=f"{model}: decodes over the dashed box", grid=None)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=10, frameon=False, fontsize=theme.SIZE)
    path = figure_file(name, smoke)
    path.write_bytes(theme.png(drawn))
    print(f"wrote {path}")


def _draw_codes(plot: Any, part: dict[str, np.ndarray], *, balls: bool) -> None:
    """Every datum's code in the colour of its class, with its ball of one sd or as a bare point."""
    from matplotlib.colors import to_rgba_array
    from matplotlib.patches import Rectangle

    from qphi import theme
    from qphi.report.latent_map import draw_balls

    codes, noise, labels = part["codes"], part["noise"], part["labels"]
    classes, places = np.unique(labels, return_inverse=True)
    palette = to_rgba_array(theme.class_colours(len(classes)))
    title = "With the KL: every datum a ball (1 sd)" if balls else "Without: every datum a point"
    theme.style(plot, x="latent unit 0", y="latent unit 1", title=title, grid=None)
    if balls:
        draw_balls(plot, codes, noise, palette[places])
    plot.scatter(*codes.T, s=4, c=palette[places], linewidths=0, zorder=3)
    (x0, y0), (x1, y1) = part["box"]
    plot.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=theme.INK, lw=0.9, ls=(0, (4, 3)), zorder=4))
    reach = np.concatenate([codes - noise, codes + noise])
    plot.set(xlim=theme.spread(reach[:, 0]), ylim=theme.spread(reach[:, 1]))
    for value, colour in zip(classes, palette, strict=True):
        plot.plot([], [], "o", ms=4, color=colour, label=str(value))


if __name__ == "__main__":
    main()
