"""Log likelihood of the MNIST test set, row by row the models of the literature, from 5,000 importance samples an
image.

static: one fixed binarisation (seed 0; the literature's fixed set is another draw of the same grey levels).
    vae        784-400-40 relu.                                                              bar 89.8
    vamp       gated 784-300-300-40, VampPrior of 500 pseudo-inputs (Tomczak & Welling 2018).
               Batches of 500: each step encodes the pseudo-inputs too.                      bar 85.6
dynamic: pixels are drawn anew at each visit; held-out and test images once (seed 0).
    vae-dyn    784-200-200-50 tanh, one draw (Burda et al. 2016).                            bar 86.8
    iwae-dyn   the same with 50 particles, gradients doubly reparameterised, 8 of them carried
               back; it starts with 5 particles, which are a fifth of the cost.              bar 84.8
    best-dyn   gated 784-300-300-40, inverse autoregressive posterior, flow prior, KL warm-up. bar 82.4
    conv-dyn   the same prior and posterior, residual convolutions of 32 and 64 channels.    bar 80

NLL in nats, lower is better. Some of the training images (seeded) are held out, a tenth of them for vamp and best-dyn,
1,024 for the others, whose literature holds out none; the weights are those of the best held-out ELBO. Adam's step
falls by a cosine over the row's epochs (--epochs sets them for all rows asked for; the literature's are 500 to 3,280).
--minutes is the most time to train a row. --is-rows: so many test images, the first of the file, are scored by all
importance samples, and all of them by 64: what more samples add to the first ones is added to the mean of all.

Writes benchmarks/results/mnist_log_likelihood.json: a row's figures with its held-out curve against seconds. Rows
that are not run again stay in it.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from _image_vaes import GREY_LEVELS
from _results import load, need_data, parser, print_table, read, results_file, save
from qphi.autoencoders.build import Architecture, build
from qphi.autoencoders.choices import start_vamp
from qphi.autoencoders.evaluation import ACTIVE, figure_of, score_rows
from qphi.autoencoders.model import LatentVariableModel
from qphi.autoencoders.training import Training, plan
from qphi.bounds import DReG
from qphi.bounds.objective import AbstractObjective, Scores
from qphi.estimators.store import read_checkpoint, write_checkpoint
from qphi.loop import Run

NAME = "mnist_log_likelihood"
SEED = 0
_ROUGH = 64  # samples of a test image where only a few images get them all


@dataclasses.dataclass(frozen=True)
class Row:
    """A model, how it is trained, and the figure to reach."""

    bar: float
    dynamic: bool
    epochs: float
    architecture: dict[str, Any]
    training: dict[str, Any]
    held_out: int = 1024
    first: tuple[int, float] | None = None  # particles and epochs, at a constant step, before the rest


_GATED: dict[str, Any] = {"hidden": (300, 300), "activation": "gated", "latent_dim": 40}
_BEST: dict[str, Any] = {**_GATED, "prior": "flow", "posterior": "iaf"}
_TANH: dict[str, Any] = {"hidden": (200, 200), "activation": "tanh", "latent_dim": 50}
ROWS: dict[str, Row] = {
    "vae": Row(89.8, False, 550, {"hidden": (400,), "latent_dim": 40}, {"learning_rate": 2e-3}),
    "vamp": Row(
        85.6,
        False,
        250,
        {**_GATED, "prior": "vamp", "components": 500},
        {"learning_rate": 2e-3, "batch_size": 500, "warm_up_epochs": 20},
        held_out=6000,
    ),
    "vae-dyn": Row(86.8, True, 1400, _TANH, {"learning_rate": 1e-3}),
    "iwae-dyn": Row(84.8, True, 60, _TANH, {"learning_rate": 1e-3, "bound": DReG(50, backward=8)}, first=(5, 800)),
    "best-dyn": Row(
        82.4,
        True,
        300,
        _BEST,
        {"learning_rate": 1e-3, "warm_up_epochs": 20},
        held_out=6000,
    ),
    "conv-dyn": Row(
        80.0,
        True,
        100,
        {**_BEST, "network": "residual-conv", "channels": (32, 64), "hidden": (300,), "activation": "relu"},
        {"learning_rate": 1e-3, "warm_up_epochs": 10},
    ),
}


class Redrawn(AbstractObjective):
    """Another objective of pixels drawn anew from their grey levels while training; scored as they are."""

    inner: AbstractObjective
    part_names = ("elbo", "log_likelihood", "kl")

    def score(self, trainable: Any, batch: Any, key: Any, step: Any = None) -> Scores:
        pixel_key, key = jax.random.split(key)
        return self.inner.score(trainable, jax.random.bernoulli(pixel_key, batch).astype(batch.dtype), key, step)


def main() -> None:
    options = _options()
    need_data()
    grey = {name: load(name).x.reshape(-1, 784) / np.float32(GREY_LEVELS) for name in ("mnist", "mnist-test")}
    generator = np.random.default_rng(SEED)
    drawn = {name: (generator.random(x.shape) < x).astype(np.float32) for name, x in grey.items()}
    if options.smoke:
        options.minutes, options.particles, options.is_rows, options.epochs = 0.2, 64, 64, 40.0
        grey, drawn = ({name: x[:4000] for name, x in images.items()} for images in (grey, drawn))
    path = results_file(NAME, options.smoke)
    results: dict[str, Any] = {}
    for name in options.rows:
        train = (grey if ROWS[name].dynamic else drawn)["mnist"]
        row = _run(name, train, drawn["mnist"], drawn["mnist-test"], options)
        # read again: rows may run side by side, one a core
        results = {**(read(path)["rows"] if path.is_file() and not options.smoke else results), name: row}
        save(path, {"rows": results, "seed": SEED})
    _print(results)


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument(
        "--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    options.add_argument("--minutes", type=float, default=30.0, help="of training, for each row")
    options.add_argument("--epochs", type=float, help="of training, in place of each row's own")
    options.add_argument("--particles", type=int, default=5000, help="importance samples an image")
    options.add_argument("--is-rows", type=int, default=10_000, help="first test images to score by all samples")
    options.add_argument("--keep", metavar="DIR", help="of checkpoints: the same call again goes on from them")
    return options.parse_args()


def _run(
    name: str, train: np.ndarray, drawn: np.ndarray, test: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    row = ROWS[name]
    shape = (-1, 28, 28, 1) if "conv" in row.architecture.get("network", "") else (-1, 784)
    train, drawn, test = (images.reshape(shape) for images in (train, drawn, test))
    *keys, model = _start(name, drawn)
    stages = [(options.epochs or row.epochs, row.training)]
    if row.first:
        particles, most = row.first
        stages.insert(0, (most, {**row.training, "bound": DReG(particles), "schedule": "constant"}))
    done, trained, status = 0.0, 0.0, ""
    curve: dict[str, list[float]] = {"seconds": [], "epoch": [], "held_out_elbo": [], "best_held_out_bound": []}
    for number, (epochs, how) in enumerate(stages):
        training = _training(row, how, model, train, drawn, epochs, *keys)
        run = training.start()
        more: dict[str, Any] = {}
        if options.keep:
            folder = Path(options.keep) / f"{name}-{number}"
            more["save"] = functools.partial(_keep, folder)
            if (folder / "checkpoint.json").is_file():
                kept = read_checkpoint(folder)
                run = kept.run(run)
                more |= {"history": kept.history, "seconds_before": kept.seconds}
        result = training.drive(run, max_epochs=epochs, max_time=60 * options.minutes - trained, **more)
        model, history, status = training.whole(result.answer), result.history, result.status.name
        curve["seconds"] += [trained + seconds for seconds in history["seconds"]]
        curve["epoch"] += [done + step / training.steps_per_epoch for step in history["step"]]
        curve["held_out_elbo"] += history["held_out_elbo"]
        curve["best_held_out_bound"] += history["best"]  # what is climbed: of so many particles
        done, trained = curve["epoch"][-1], curve["seconds"][-1]
    began = time.perf_counter()
    return {
        "bar": row.bar,
        **_scored(model, test, options.is_rows, options.particles),
        "epochs": done,
        "seconds": trained,
        "scoring_seconds": time.perf_counter() - began,
        "status": status,
        "curve": curve,
    }


def _scored(model: LatentVariableModel, test: np.ndarray, count: int, particles: int) -> dict[str, Any]:
    """Figures of the test images: of all by as many particles as `count` asks for, or with what these add to a few."""
    rows = score_rows(model, test, particles if count >= len(test) else min(_ROUGH, particles))
    rough = np.asarray(rows.log_evidence, np.float64)
    evidence, added, error = figure_of(rough), 0.0, 0.0
    if count < len(test):
        more = figure_of(np.asarray(score_rows(model, test[:count], particles).log_evidence) - rough[:count])
        added, error = more.value, more.standard_error
    return {
        "nll": -evidence.value - added,
        "nll_error": math.hypot(evidence.standard_error, error),
        "elbo": figure_of(rows.elbo).value,
        "kl": figure_of(rows.kl).value,
        "active_units": int(np.sum(np.var(rows.mean, axis=0) > ACTIVE)),
        "n": len(test),
        "by_all_particles": min(count, len(test)),
        "particles": particles,
    }


def _keep(folder: Path, run: Run, history: dict[str, list[float]], seconds: float) -> None:
    write_checkpoint(folder, run, SEED, {}, history, seconds)


def _start(name: str, drawn: np.ndarray) -> tuple[Array, Array, LatentVariableModel]:
    """Keys of the split and of the run, and the model before training."""
    model_key, split_key, run_key = jax.random.split(jax.random.key(SEED, impl="threefry2x32"), 3)
    given = {"network": "mlp", **ROWS[name].architecture}
    architecture = Architecture(shape=drawn.shape[1:], likelihood="bernoulli", **given)
    model = start_vamp(eqx.filter_jit(build)(architecture, model_key), drawn, run_key)
    return split_key, run_key, model


def _training(
    row: Row,
    how: dict[str, Any],
    model: LatentVariableModel,
    train: np.ndarray,
    drawn: np.ndarray,
    epochs: float,
    split_key: Array,
    run_key: Array,
) -> Training:
    order = np.asarray(jax.random.permutation(split_key, len(train)))
    training = plan(
        model,
        train[np.sort(order[row.held_out :])],
        drawn[np.sort(order[: row.held_out])],
        run_key,
        max_epochs=epochs,
        patience=1_000_000_000,  # the budget ends the run
        **{"schedule": "cosine", **how},
    )
    if row.dynamic:
        problem = dataclasses.replace(training.problem, objective=Redrawn(training.problem.objective))
        training = dataclasses.replace(training, problem=problem)
    return training


def _print(results: dict[str, Any]) -> None:
    header = ["", "NLL", "±", "bar", "ELBO", "active", "epochs", "minutes", "status"]
    print_table(
        header,
        [
            [
                name,
                f"{row['nll']:.2f}",
                f"{row['nll_error']:.2f}",
                f"{row['bar']:.1f}",
                f"{row['elbo']:.2f}",
                str(row["active_units"]),
                f"{row['epochs']:.0f}",
                f"{row['seconds'] / 60:.1f}",
                row["status"],
            ]
            for name, row in results.items()
        ],
    )
    one = next(iter(results.values()))
    print(f"{one['particles']} importance samples of {one['n']} test images, nats; lower is better")


if __name__ == "__main__":
    main()
