"""MNIST, 784-500-20-500-784 tanh, one fixed binarisation: qphi against eager PyTorch; qphi's defaults.

Bernoulli, minibatch 100, Adam 1e-3, one sample per datum, 60,000 training images binarised once (seed 0).
Epochs of the two libraries alternate in this process on the same cores. Both start from their own default
weights: qphi's from N(0, 1/fan_in), biases 0 and encoder scale weights 0; PyTorch's from U(-1,
1)/sqrt(fan_in), biases too. qphi adds what it always does: gradients clipped at norm 100, a ramp of the
step over 100 steps, and as its answer the weights averaged over an epoch; the row "last iterate" leaves
the averaging out, which is what PyTorch's row is.

After 10 and 30 epochs both are scored by qphi's evaluation (PyTorch's weights are copied into a qphi
model): test ELBO of all 10,000 test images from 8 draws each, and log p(x) of the first 1,000 (--is-rows)
from at least 500 importance-weighted draws. Then `qphi.VAE` with its defaults (two layers of 512,
minibatch 128, a tenth of the training images held out), with latent_dim 20 and with the default, gets the
seconds that PyTorch's training took. Reference for PyTorch, measured earlier: test ELBO -103.5 and
-100.0, NLL 98.3 and 94.1.

Writes benchmarks/results/mnist_fixed_binarisation.json.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from _image_vaes import NEVER, Bernoulli, binary_mnist, tanh_vae
from _results import CORES, need_data, parser, print_table, results_file, save
from qphi.autoencoders import LatentVariableModel
from qphi.autoencoders.encoders import AbstractEncoder
from qphi.autoencoders.evaluation import evaluate, score_rows
from qphi.autoencoders.networks import MLP
from qphi.autoencoders.training import plan
from qphi.families import DiagonalGaussian, StandardNormal

try:
    import torch

    from _torch_vae import LATENT, TorchVAE, torch_round
except ImportError:
    sys.exit("This comparison needs PyTorch: pip install torch==2.13.0 (CPU).")

NAME = "mnist_fixed_binarisation"
PIXELS, HIDDEN, BATCH = 784, 500, 100
ELBO_DRAWS, PARTICLES = 8, 500
REFERENCE = {10: (-103.5, 98.3), 30: (-100.0, 94.1)}  # eager PyTorch: test ELBO, NLL by 500 draws


class TwoHeads(AbstractEncoder):
    """PyTorch's encoder: one linear layer gives mean and log scale, with no clipping of either."""

    network: MLP

    def __call__(self, x):
        return DiagonalGaussian(*jnp.split(self.network(x), 2))


def main() -> None:
    options = _options()
    need_data()
    torch.set_num_threads(CORES)
    torch.manual_seed(options.seed)
    train, test = binary_mnist()
    if options.smoke:
        train, test, options.is_rows, options.epochs = train[:2000], test[:256], 64, [1, 2]
    ours, theirs = Qphi(train, options.seed), Torch(train)
    rows: list[dict[str, Any]] = []
    for epoch in range(1, max(options.epochs) + 1):
        # alternate who goes first: what one leaves in the caches the other pays for
        for library in (ours, theirs) if epoch % 2 else (theirs, ours):
            library.epoch()
        if epoch in options.epochs:
            theirs.check(test)
            for name, model, seconds in (*theirs.models(), *ours.models()):
                rows.append(_row(name, model, epoch, seconds, test, options))
    print("PyTorch's own ELBO of the test images agrees with qphi's of the same weights")
    epochs = {"torch": theirs.seconds, "qphi": ours.seconds}
    cpu = {"torch": theirs.cpu_seconds, "qphi": ours.cpu_seconds}
    for epoch in options.epochs if not options.no_defaults else ():
        for latent_dim in (20, None):
            rows.append(_defaults(train, test, latent_dim, epoch, sum(theirs.seconds[:epoch]), options))
    _print(rows)
    _print_seconds("wall", ours.seconds, theirs.seconds)
    _print_seconds("CPU", ours.cpu_seconds, theirs.cpu_seconds)
    print("seconds of the rows above are wall seconds; qphi's include compiling")
    timing = {"seconds_of_epochs": epochs, "cpu_seconds_of_epochs": cpu}
    save(results_file(NAME, options.smoke), {"rows": rows, **timing, "seed": options.seed})


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--epochs", type=int, nargs="+", default=[10, 30], help="when to score")
    options.add_argument("--is-rows", type=int, default=1000, help="first test images for log p(x); 0: all")
    options.add_argument("--no-defaults", action="store_true", help="leave `qphi.VAE`'s defaults out")
    options.add_argument("--seed", type=int, default=0)
    return options.parse_args()


class Qphi:
    """The VAE out of qphi's pieces, trained by its one loop, an epoch at a time."""

    def __init__(self, train: np.ndarray, seed: int):
        model_key, run_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
        model = tanh_vae(PIXELS, HIDDEN, LATENT, Bernoulli(), model_key)
        # The loop wants held-out rows. Here nothing depends on them, so a block of training rows serves.
        self._training = plan(model, train, train[:256], run_key, batch_size=BATCH, patience=NEVER)
        self._run = self._training.start()
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def epoch(self) -> None:
        """One epoch; the first includes compiling."""
        with _timed(self.seconds, self.cpu_seconds):
            self._run = self._training.drive(self._run, max_epochs=len(self.seconds) + 1).run

    def models(self) -> list[tuple[str, LatentVariableModel, float]]:
        """The averaged answer and the last iterate."""
        state, seconds = self._run.solver, sum(self.seconds)
        answer = self._training.whole(self._training.solver.answer(state))
        return [
            ("qphi", answer, seconds),
            ("qphi, last iterate", self._training.whole(state.trained), seconds),
        ]


class Torch:
    """The same in eager PyTorch with its fused Adam."""

    def __init__(self, train: np.ndarray):
        nn = torch.nn
        encoder = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 * LATENT))
        decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))
        self._net = TorchVAE(encoder, decoder)
        steps = len(train) // BATCH
        self._round: Callable[[], float] = torch_round(
            self._net, torch.tensor(train), argparse.Namespace(steps=steps, batch=BATCH)
        )
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []

    def epoch(self) -> None:
        """One pass over shuffled data."""
        with _timed(self.seconds, self.cpu_seconds):
            self._round()

    def models(self) -> list[tuple[str, LatentVariableModel, float]]:
        """The weights in a qphi model, so that both are scored by the same code."""
        arrays = [jnp.asarray(p.detach().numpy().copy()) for p in self._net.parameters()]
        encoder, decoder = _mlp(PIXELS, 2 * LATENT, arrays[:4]), _mlp(LATENT, PIXELS, arrays[4:])
        model = LatentVariableModel(StandardNormal(LATENT), TwoHeads(encoder), decoder, Bernoulli())
        return [("eager PyTorch", model, sum(self.seconds))]

    def check(self, test: np.ndarray) -> None:
        """Stops unless PyTorch's own loss and qphi's score of the copied weights agree within their noise."""
        xs = torch.tensor(test)
        with torch.no_grad():
            draws = [self._net.loss(x, torch.randn(len(x), LATENT)).item() for x in xs.repeat(4, 1).chunk(4)]
        (_, model, _), *_ = self.models()
        ours, theirs = float(np.mean(score_rows(model, test, ELBO_DRAWS).elbo)), -statistics.mean(draws)
        # one draw moves an image's ELBO by 5 nats or so
        if abs(ours - theirs) > 4 * 5 * np.sqrt((1 / 4 + 1 / ELBO_DRAWS) / len(test)):
            raise SystemExit(f"qphi scores PyTorch's weights {ours:.2f}, PyTorch itself {theirs:.2f}: a bug")


@contextlib.contextmanager
def _timed(seconds: list[float], cpu_seconds: list[float]) -> Iterator[None]:
    began, cpu_began = time.perf_counter(), time.process_time()
    yield
    seconds.append(time.perf_counter() - began)
    cpu_seconds.append(time.process_time() - cpu_began)


def _mlp(in_size: int, out_size: int, arrays: list[jax.Array]) -> MLP:
    import equinox as eqx

    network = MLP(in_size, out_size, (HIDDEN,), activation=jnp.tanh, key=jax.random.key(0))
    return eqx.tree_at(lambda m: [a for layer in m.layers for a in (layer.weight, layer.bias)], network, arrays)


def _row(
    name: str, model: Any, epoch: float, seconds: float, test: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    elbo = np.asarray(score_rows(model, test, ELBO_DRAWS).elbo, np.float64)
    weighted = evaluate(model, test[: options.is_rows or None], particles=16 if options.smoke else PARTICLES)
    return {
        "name": name,
        "epochs": epoch,
        "seconds": seconds,
        "test_elbo": float(np.mean(elbo)),
        "test_elbo_error": float(np.std(elbo, ddof=1) / np.sqrt(len(elbo))),
        "nll": -weighted.log_evidence.value,
        "nll_error": weighted.log_evidence.standard_error,
        "nll_rows": weighted.n,
        "nll_draws": weighted.particles,
    }


def _defaults(
    train: np.ndarray,
    test: np.ndarray,
    latent_dim: int | None,
    after: int,
    seconds: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning

    import qphi

    given = {} if latent_dim is None else {"latent_dim": latent_dim}
    vae = qphi.VAE(likelihood="bernoulli", max_time=seconds, random_state=options.seed, **given)
    jax.clear_caches()  # compiling is part of what a user waits for, in every row
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        vae.fit(train.reshape(-1, 28, 28))
    wall = time.perf_counter() - began
    name = f"qphi.VAE(latent_dim={vae.latent_dim}), PyTorch's seconds for {after}"
    images = vae.scaling_.prepare(test.reshape(-1, 28, 28))
    row = _row(name, vae.model_, vae.history_["epoch"][-1], vae.seconds_, images, options)
    return {**row, "budget": seconds, "wall_seconds": wall, "status": vae.status_.name}


def _print(rows: list[dict[str, Any]]) -> None:
    one = rows[0]
    header = ["", "epochs", "seconds", "test ELBO", "±"]
    header += [f"NLL, {one['nll_draws']} draws, {one['nll_rows']} rows", "±"]
    table = []
    for row in rows:
        figures = [f"{row['epochs']:.0f}", f"{row['seconds']:.1f}"]
        figures += [f"{row[key]:.2f}" for key in ("test_elbo", "test_elbo_error", "nll", "nll_error")]
        table.append([row["name"], *figures])
        if row["name"] == "eager PyTorch" and row["epochs"] in REFERENCE:
            elbo, nll = REFERENCE[row["epochs"]]
            table.append(["  reference for it", f"{row['epochs']}", "", f"{elbo:.1f}", "", f"{nll:.1f}", ""])
    print_table(header, table)


def _print_seconds(kind: str, ours: list[float], theirs: list[float]) -> None:
    """Medians without the first epoch, which compiles."""
    qphi, torch = (statistics.median(seconds[1:] or seconds) for seconds in (ours, theirs))
    print(f"{kind} seconds an epoch on {CORES} core(s), median: qphi {qphi:.2f}, PyTorch {torch:.2f}", end="; ")
    print(f"PyTorch / qphi = {torch / qphi:.2f}; qphi's first epoch took {ours[0] - qphi:.1f} more")


if __name__ == "__main__":
    main()
