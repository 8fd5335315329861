"""Figure 3 of Auto-Encoding Variational Bayes (Kingma & Welling 2014): log p(x) of AEVB, Monte Carlo EM and wake-sleep.

MNIST, 1,000 or 50,000 training images, 100 tanh units in encoder and decoder, 3 latents, minibatches of 100. AEVB is
qphi's own training. The other two are this script's: wake-sleep updates the decoder on z ~ q(z|x) and the encoder on
dreams, z ~ p(z), x ~ p(x|z) (Hinton et al. 1995); Monte Carlo EM moves one chain for each training image by one
Hamiltonian trajectory of 10 leapfrog steps, step sizes for 90 % acceptance, then makes 5 updates of the decoder with
it, as the paper does. A sample is one image in one minibatch for all three, so that Monte Carlo EM makes five times
as many updates of a decoder for as many samples.

All three use Adam at 1e-3 (qphi's with a ramp over 100 steps and gradients clipped at norm 100), start from the same
weights, and are scored by a running average of weights (over 600 updates). log p(x) is of the first 1,000 test images
and the first 1,000 training images: the mean of p(x|z) over 2^18 Sobol points of p(z), the same for all, with no
encoder in it. The last column but one is the share of test images of which fewer than 5 points make up p(x), whose log
may be off by half a nat. Pixels are binary (one fixed draw, seed 0), where the paper's were grey levels under a
Bernoulli.

    python benchmarks/aevb_figure3.py                    # both sizes
    python benchmarks/aevb_figure3.py --rows 1000        # one; the other's saved runs are kept
    python benchmarks/aevb_figure3.py --plot-only
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import logsumexp
from jaxtyping import Array, PRNGKeyArray
from scipy.special import ndtri
from scipy.stats import qmc

from _image_vaes import NEVER, Bernoulli, binary_mnist, tanh_vae
from _results import figure_file, markdown, need_data, parser, print_table, read, results_file, save, write_between
from qphi.autoencoders import LatentVariableModel
from qphi.autoencoders.training import plan
from qphi.solvers import StochasticGradient

NAME = "aevb_figure3"
HIDDEN, LATENT, BATCH = 100, 3, 100
RATE, AVERAGED = 1e-3, 600
LEAPS, UPDATES, ACCEPTANCE = 10, 5, 0.9
SIZES, MARKS = (1000, 50_000), (1e5, 3e5, 1e6, 3e6)
SCORED, POINTS, AT_ONCE, FEW = 1000, 2**18, 2**13, 5
METHODS = ("AEVB", "wake-sleep", "Monte Carlo EM")
HEADER = (
    "",
    "training images",
    "log p(x), test",
    "± s.e.",
    "log p(x), training",
    "best test",
    "at samples",
    "< 5 points",
    "seconds",
)


def main() -> None:
    options = _options()
    path = results_file(NAME, options.smoke)
    if not options.plot_only:
        need_data()
        kept = {} if options.smoke or not path.is_file() else {_name(r): r for r in read(path)["runs"]}
        train, test = binary_mnist()
        for rows in options.rows:
            for method in options.method:
                run = {"method": method, "rows": rows, "seed": options.seed}
                kept[_name(run)] = run | _run(method, train[:rows], test, options)
                save(path, {"runs": list(kept.values())}, quiet=True)
    runs = sorted(read(path)["runs"], key=lambda run: (run["rows"], METHODS.index(run["method"])))
    table = [_cells(run) for run in runs]
    print_table(HEADER, table)
    _draw(runs, options.smoke)
    if not options.smoke:
        write_between("aevb", markdown(HEADER, table), "figure3")


def _options() -> argparse.Namespace:
    options = parser(__doc__ or "")
    options.add_argument("--rows", nargs="+", type=int, choices=SIZES, default=list(SIZES))
    options.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--samples", type=float, default=3e6, help="budget of each run")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--plot-only", action="store_true", help="figure and table from the saved runs")
    return options.parse_args()


def _name(run: dict[str, Any]) -> tuple[str, int]:
    return run["method"], run["rows"]


def _run(method: str, train: np.ndarray, test: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    marks = [m for m in MARKS if m <= options.samples] or [options.samples]
    scored, points = SCORED, POINTS
    if options.smoke:
        train, marks, scored, points = train[:500], [1e4], 64, AT_ONCE
    model_key, run_key = jax.random.split(jax.random.key(options.seed, impl="threefry2x32"))
    start = tanh_vae(train.shape[1], HIDDEN, LATENT, Bernoulli(), model_key)
    run: dict[str, Any] = {k: [] for k in ("samples", "test", "test_error", "train", "few", "seconds")}
    seconds, began = 0.0, time.monotonic()
    for mark, model in zip(marks, TRAINERS[method](start, train, run_key, marks), strict=True):
        seconds += time.monotonic() - began
        found = [log_evidence(model, x[:scored], points) for x in (test, train)]
        run["samples"].append(mark)
        (test_log_p, counting), (train_log_p, _) = found
        run["test"].append(float(test_log_p.mean()))
        run["test_error"].append(float(test_log_p.std(ddof=1)) / math.sqrt(len(test_log_p)))
        run["train"].append(float(train_log_p.mean()))
        run["few"].append(float(np.mean(counting < FEW)))
        run["seconds"].append(seconds)
        print(method, len(train), f"{mark:g}", *(f"{run[k][-1]:.1f}" for k in ("test", "train", "seconds")), flush=True)
        began = time.monotonic()
    return run


@eqx.filter_jit
def part(model: LatentVariableModel, x: Array, z: Array) -> Array:
    logits = model.decode(z)
    log_p = x @ logits.T - jnp.sum(jax.nn.softplus(logits), axis=1)
    return jnp.stack([logsumexp(log_p, axis=1), logsumexp(2 * log_p, axis=1)])


def log_evidence(model: LatentVariableModel, x: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """log of the mean over points of p(x|z), nats, and how many points count, (sum p)^2 / sum p^2, for each image."""
    z = ndtri(qmc.Sobol(LATENT, rng=0).random(points)).astype(np.float32)
    parts = [part(model, jnp.asarray(x), jnp.asarray(z[i : i + AT_ONCE])) for i in range(0, points, AT_ONCE)]
    first, second = np.asarray(logsumexp(jnp.stack(parts), axis=0), np.float64)
    return first - math.log(points), np.exp(2 * first - second)


# ------------------------------------------------------------------ trainers: models at each mark


def by_aevb(
    model: LatentVariableModel, train: np.ndarray, key: PRNGKeyArray, marks: list[float]
) -> Iterator[LatentVariableModel]:
    """qphi's training, at one learning rate, without an end of its own."""
    solver = StochasticGradient(RATE, BATCH, average_over=AVERAGED, refinements=0)
    training = plan(model, train, train[:SCORED], key, solver=solver, patience=NEVER)
    training = dataclasses.replace(training, check_every=int(marks[0]) // BATCH)
    run = training.start()
    for mark in marks:
        run = training.drive(run, max_epochs=mark / BATCH / training.steps_per_epoch).run
        yield training.whole(training.solver.answer(run.solver))


Update = Callable[[Any, Any, PRNGKeyArray], tuple[Any, Any]]


def _stepped(
    update: Update, state: Any, carried: Any, train: np.ndarray, key: PRNGKeyArray, marks: list[float]
) -> Iterator[Any]:
    """The state after each mark's minibatches, every epoch in an order of its own."""
    data, chunk = jnp.asarray(train), 100

    @eqx.filter_jit
    def run(state: Any, carried: Any, batches: Array, keys: PRNGKeyArray) -> tuple[Any, Any]:
        moving, fixed = eqx.partition((state, carried), eqx.is_array)

        def step(moving: Any, given: Any) -> tuple[Any, None]:
            state, carried = eqx.combine(moving, fixed)
            rows, key = given
            state, carried = update(state, (carried, data[rows], rows), key)
            return eqx.filter((state, carried), eqx.is_array), None

        moving, _ = jax.lax.scan(step, moving, (batches, keys))
        return eqx.combine(moving, fixed)

    random, order, done = np.random.default_rng(0), np.zeros(0, int), 0
    for mark in marks:
        while done < mark:
            count = min(chunk, -(-int(mark - done) // BATCH))
            while len(order) < count * BATCH:
                order = np.concatenate([order, random.permutation(len(train))])
            batches, order = order[: count * BATCH].reshape(count, BATCH), order[count * BATCH :]
            keys = jax.random.split(jax.random.fold_in(key, done), count)
            state, carried = run(state, carried, jnp.asarray(batches), keys)
            done += count * BATCH
        yield state


def _adam(model: Any) -> tuple[optax.GradientTransformation, Any]:
    optimiser = optax.adam(RATE)
    return optimiser, optimiser.init(eqx.filter(model, eqx.is_inexact_array))


def _averaged(average: Any, model: Any, count: Array) -> Any:
    share = 1 / jnp.minimum(count, AVERAGED)  # all weights alike at first: the initial ones are forgotten
    return jax.tree.map(lambda a, b: a + (b - a) * share if eqx.is_inexact_array(a) else b, average, model)


def by_wake_sleep(
    model: LatentVariableModel, train: np.ndarray, key: PRNGKeyArray, marks: list[float]
) -> Iterator[LatentVariableModel]:
    """Decoder: gradients of log p(x|z), z ~ q(z|x). Encoder: gradients of log q(z|x) on dreams."""
    optimiser, memory = _adam(model)

    def loss(model: LatentVariableModel, x: Array, key: PRNGKeyArray) -> Array:
        still = jax.lax.stop_gradient
        wake, dream = jax.random.split(key)
        z = still(model.posterior(x).sample_many(wake, 1)[0])
        awake = jax.vmap(model.likelihood.log_prob)(model.decode(z), x)
        dreamt, imagined = (still(v) for v in model.sample(dream, len(x)))
        asleep = model.posterior(imagined).log_prob_many(dreamt[None])[0]
        return -jnp.mean(awake) - jnp.mean(asleep)

    def update(state: Any, given: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        model, average, memory, count = state
        gradient = eqx.filter_grad(loss)(model, given[1], key)
        steps, memory = optimiser.update(gradient, memory)
        model, count = eqx.apply_updates(model, steps), count + 1
        return (model, _averaged(average, model, count), memory, count), given[0]

    for state in _stepped(update, (model, model, memory, jnp.array(0)), None, train, key, marks):
        yield state[1]


def by_monte_carlo_em(
    model: LatentVariableModel, train: np.ndarray, key: PRNGKeyArray, marks: list[float]
) -> Iterator[LatentVariableModel]:
    """A chain for each image, in its posterior as the decoder has it now; then five updates of the decoder."""
    optimiser, memory = _adam(model)

    def joint(model: LatentVariableModel, z: Array, x: Array) -> Array:
        log_likelihood = jax.vmap(model.likelihood.log_prob)(model.decode(z), x)
        return log_likelihood - 0.5 * jnp.sum(z**2, axis=1)

    def trajectory(model: LatentVariableModel, z: Array, x: Array, step: Array, key: PRNGKeyArray) -> Any:
        noise, accept = jax.random.split(key)
        slope = jax.grad(lambda z: jnp.sum(joint(model, z, x)))
        p = jax.random.normal(noise, z.shape)

        def leap(_: Any, state: Any) -> Any:
            place, speed = state
            speed = speed + 0.5 * step[:, None] * slope(place)
            place = place + step[:, None] * speed
            return place, speed + 0.5 * step[:, None] * slope(place)

        new, speed = jax.lax.fori_loop(0, LEAPS, leap, (z, p))
        ratio = joint(model, new, x) - joint(model, z, x) + 0.5 * jnp.sum(p**2 - speed**2, axis=1)
        accepted = jnp.log(jax.random.uniform(accept, ratio.shape)) < ratio
        step = step * jnp.where(accepted, 1.02, 1.02 ** (-ACCEPTANCE / (1 - ACCEPTANCE)))
        return jnp.where(accepted[:, None], new, z), step

    def loss(model: LatentVariableModel, z: Array, x: Array) -> Array:
        return -jnp.mean(jax.vmap(model.likelihood.log_prob)(model.decode(z), x))

    def update(state: Any, given: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        model, average, memory, count = state
        (chains, steps), x, rows = given
        z, step = trajectory(model, chains[rows], x, steps[rows], key)

        def once(_: Any, state: Any) -> Any:
            model, average, memory, count = state
            gradient = eqx.filter_grad(loss)(eqx.combine(model, fixed), z, x)
            moves, memory = optimiser.update(gradient, memory)
            model, count = eqx.apply_updates(model, moves), count + 1
            return model, _averaged(average, model, count), memory, count

        (model, fixed), (average, _) = (eqx.partition(m, eqx.is_inexact_array) for m in (model, average))
        model, average, memory, count = jax.lax.fori_loop(0, UPDATES, once, (model, average, memory, count))
        state = eqx.combine(model, fixed), eqx.combine(average, fixed), memory, count
        return state, (chains.at[rows].set(z), steps.at[rows].set(step))

    chains = jax.random.normal(jax.random.fold_in(key, 1), (len(train), LATENT)), jnp.full(len(train), 0.1)
    for state in _stepped(update, (model, model, memory, jnp.array(0)), chains, train, key, marks):
        yield state[1]


TRAINERS = {"AEVB": by_aevb, "wake-sleep": by_wake_sleep, "Monte Carlo EM": by_monte_carlo_em}


# ------------------------------------------------------------------ what is shown


def _cells(run: dict[str, Any]) -> list[str]:
    best = int(np.argmax(run["test"]))
    return [
        run["method"],
        f"{run['rows']:,}",
        f"{run['test'][-1]:.1f}",
        f"{run['test_error'][-1]:.1f}",
        f"{run['train'][-1]:.1f}",
        f"{run['test'][best]:.1f}",
        f"{run['samples'][best]:.0e}".replace("e+0", "e"),
        f"{100 * run['few'][-1]:.1f} %",
        f"{run['seconds'][-1]:.0f}",
    ]


def _draw(runs: list[dict[str, Any]], smoke: bool) -> None:
    from qphi import theme

    sizes = sorted({run["rows"] for run in runs})
    drawn = theme.figure(3.6 * len(sizes), 3.3)
    colours = dict(zip(METHODS, (theme.ACCENT, theme.SECOND, theme.MUTED), strict=True))
    for rows, plot in zip(sizes, drawn.subplots(1, len(sizes), squeeze=False)[0], strict=True):
        y = "log p(x) (nats per image)" if rows == sizes[0] else ""
        theme.style(plot, x="training samples seen", y=y, title=f"{rows:,} training images", grid="both")
        for run in (r for r in runs if r["rows"] == rows):
            colour = colours[run["method"]]
            plot.plot(run["samples"], run["test"], color=colour, lw=1.8, label=f"{run['method']}, test")
            plot.plot(run["samples"], run["train"], color=colour, lw=1.1, ls=(0, (5, 2)), label="training")
        plot.set_xscale("log")
    labels = drawn.axes[0].get_legend_handles_labels()
    drawn.legend(*labels, loc="outside lower center", ncols=3, frameon=False, fontsize=theme.SIZE)
    path = figure_file(NAME, smoke)
    path.write_bytes(theme.png(drawn))
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
