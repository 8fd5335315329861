"""How noisy the gradient of each bound is, against the number of particles.

A VAE of the digits (64-64-8, Bernoulli), early (a few epochs) and fitted. On one batch of 64 images the gradient is
drawn with many keys, for the encoder's and the decoder's parameters apart:

    signal-to-noise = |mean gradient| / sqrt(mean |gradient - mean gradient|^2),

where |mean|^2 is freed of the noise it still has (its expected excess, variance / keys). Higher is better; an
independent average over n keys has sqrt(n) times it, so every estimator that averages K draws of one bound gains
sqrt(K). Gradients of different bounds differ: compare the signal-to-noise ratio between rows of one bound, and its
trend within a row.

Writes benchmarks/results/gradient_noise.json and the tables of docs/bounds.md.
"""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from _results import markdown, parser, print_table, results_file, save, write_between
from qphi import VAE
from qphi.bounds import (
    IWAE,
    AbstractBound,
    ClosedFormKL,
    DReG,
    LeaveOneOut,
    MonteCarlo,
    StickingTheLanding,
)

NAME = "gradient_noise"
BOUNDS: dict[str, Any] = {
    "ELBO, KL in closed form": ClosedFormKL,
    "ELBO, Monte Carlo": MonteCarlo,
    "ELBO, sticking the landing": StickingTheLanding,
    "ELBO, leave-one-out score": lambda particles: LeaveOneOut(max(particles, 2)),
    "IWAE": IWAE,
    "VR-IWAE, alpha 0.5": lambda particles: IWAE(particles, 0.5),
    "DReG": DReG,
    "DReG, at most 8 carried back": lambda particles: DReG(particles, backward=min(particles, 8)),
    "DReG, alpha 0.5": lambda particles: DReG(particles, 0.5),
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--particles", type=int, nargs="+", default=[1, 4, 16, 64])
    options.add_argument("--keys", type=int, default=400)
    options = options.parse_args()
    if options.smoke:
        options.particles, options.keys = [1, 4], 20
    from sklearn.datasets import load_digits

    x = (load_digits().images > 7).astype(np.float32)
    rows, parts = [], []
    for stage, epochs in (("early", 3), ("fitted", 5 if options.smoke else 300)):
        vae = VAE(latent_dim=8, hidden=(64,), random_state=0, max_epochs=epochs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            vae.fit(x)
        batch = jnp.asarray(vae.scaling_.prepare(x[:64]))
        print(f"\n{stage}: {vae.n_iter_} steps, held-out ELBO {max(vae.history_['held_out_elbo_per_datum']):.1f} nats")
        table = []
        for name, make in BOUNDS.items():
            found = [_noise(vae.model_, batch, make(k), options.keys) for k in options.particles]
            rows += [
                {"stage": stage, "bound": name, "particles": k, **one}
                for k, one in zip(options.particles, found, strict=True)
            ]
            table.append([name, *(f"{one['encoder']:.2f} | {one['decoder']:.2f}" for one in found)])
        header = ["encoder | decoder", *(f"K = {k}" for k in options.particles)]
        print_table(header, table)
        cells = [[cell.replace(" | ", " / ") for cell in line] for line in table]
        parts.append(markdown([f"{stage}: encoder / decoder", *header[1:]], cells))
    save(results_file(NAME, options.smoke), {"rows": rows, "keys": options.keys})
    if not options.smoke:
        write_between("bounds", "\n\n".join(parts))


def _noise(model: Any, batch: jax.Array, bound: AbstractBound, keys: int) -> dict[str, float]:
    """Signal-to-noise ratio of the gradient to the encoder and to the decoder."""
    moments = _moments(model, batch, bound, jax.random.split(jax.random.key(0), keys))
    answer = {}
    for part, (mean, square) in moments.items():
        mean = np.asarray(mean, np.float64)
        norm, total = float(mean @ mean), float(square)
        variance = (total - norm) * keys / (keys - 1)
        answer[part] = float(np.sqrt(max(norm - variance / keys, 0.0) / variance))
        answer[f"{part}_variance"] = variance
    return answer


@eqx.filter_jit
def _moments(model: Any, batch: jax.Array, bound: AbstractBound, keys: jax.Array) -> dict[str, Any]:
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def one(key: jax.Array) -> dict[str, jax.Array]:
        def value(arrays: Any) -> jax.Array:
            whole = eqx.combine(arrays, rest)
            return jnp.mean(bound(whole.posterior(batch), whole.observe(batch), key).surrogate)

        gradient = jax.grad(value)(arrays)
        parts = {"encoder": gradient.encoder, "decoder": gradient.decoder}
        return {name: jnp.concatenate([a.ravel() for a in jax.tree.leaves(tree)]) for name, tree in parts.items()}

    def add(sums: Any, key: jax.Array) -> tuple[Any, None]:
        new = {name: (g, jnp.sum(g**2)) for name, g in one(key).items()}
        return jax.tree.map(jnp.add, sums, new), None

    zeros = jax.tree.map(
        lambda a: jnp.zeros(a.shape, a.dtype),
        jax.eval_shape(lambda key: {name: (g, jnp.sum(g**2)) for name, g in one(key).items()}, keys[0]),
    )
    sums, _ = jax.lax.scan(add, zeros, keys)
    return jax.tree.map(lambda total: total / keys.shape[0], sums)


if __name__ == "__main__":
    main()
