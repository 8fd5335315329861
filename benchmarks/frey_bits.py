"""Frey faces by the 1565/200/200 protocol: bits per dimension under discretised logistics.

Tomczak & Welling (2018, arXiv 1705.07120) and those after them split the 1,965 faces of 28 x 20 into 1,565 for
training, 200 to stop by and 200 to test, and report -log p(x) / (560 log 2) of whole grey levels, 4.57 and below. Here
for qphi's likelihoods of whole levels and its networks; log p(x) by importance weighting of all test faces, which can
only make the figure too large. Splits are random by the seed. Weights are kept at the best ELBO of the 200 to stop by.

    python benchmarks/frey_bits.py
    python benchmarks/frey_bits.py --network residual-conv --likelihood discretised-logistic-mixture --seeds 3
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from _results import load, markdown, need_data, parser, print_table, read, results_file, save, write_between

NAME = "frey_bits"
LIKELIHOODS = ("discretised-logistic", "discretised-logistic-mixture")
NETWORKS = ("mlp", "residual-mlp", "conv", "residual-conv")


def main() -> None:
    options = _options()
    need_data()
    x = (load("frey").x[..., None] / 255.0).astype(np.float32)
    rows = read(results_file(NAME, options.smoke))["runs"] if options.go_on else []
    for likelihood in options.likelihood:
        for network in options.network:
            for seed in range(1 if options.smoke else options.seeds):
                if (likelihood, network, seed) in {(r["likelihood"], r["network"], r["seed"]) for r in rows}:
                    continue
                rows.append(_run(x, likelihood, network, seed, options))
                save(results_file(NAME, options.smoke), {"runs": rows})
    header = ["likelihood, network, seed", "bits per dimension", "from the ELBO", "KL", "active", "bad k", "seconds"]
    lines = [
        [
            f"{row['likelihood']}, {row['network']}, {row['seed']}",
            f"{row['bits']:.3f}",
            f"{row['bits_elbo']:.3f}",
            f"{row['kl']:.1f}",
            f"{row['active_units']}",
            f"{row['unreliable']:.0%}",
            f"{row['seconds']:.0f}",
        ]
        for row in rows
    ]
    print_table(header, lines)
    if not options.smoke:
        write_between("likelihoods", markdown(header, lines), "frey")


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--likelihood", nargs="+", choices=LIKELIHOODS, default=list(LIKELIHOODS))
    options.add_argument("--network", nargs="+", choices=NETWORKS, default=["mlp", "conv"])
    options.add_argument("--latent-dim", type=int, default=40)
    options.add_argument("--hidden", type=int, nargs="+", default=[300, 300])
    options.add_argument("--particles", type=int, default=5000)
    options.add_argument("--max-time", type=float, help="seconds for each fit")
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--go-on", action="store_true", help="keep what is saved")
    return options.parse_args()


def _run(x: np.ndarray, likelihood: str, network: str, seed: int, options: argparse.Namespace) -> dict:
    from qphi.autoencoders.build import Architecture, build, choose_channels
    from qphi.autoencoders.evaluation import evaluate
    from qphi.autoencoders.training import plan

    order = np.random.default_rng(seed).permutation(len(x))
    train, stop, test = x[order[:1565]], x[order[1565:1765]], x[order[1765:]]
    if options.smoke:
        train, stop, test = train[:200], stop[:32], test[:16]
    shape = train.shape[1:]
    channels = choose_channels(shape, network)
    architecture = Architecture(shape, options.latent_dim, likelihood, network, tuple(options.hidden), channels, 256)
    model_key, run_key = jax.random.split(jax.random.key(seed, impl="threefry2x32"))
    model = build(architecture, model_key)
    training = plan(model, jnp.asarray(train), jnp.asarray(stop), run_key)
    result = training.drive(training.start(), max_epochs=2 if options.smoke else None, max_time=options.max_time)
    found = evaluate(
        training.whole(result.answer), test, particles=16 if options.smoke else options.particles, whole=True
    )
    print(f"{likelihood}, {network}, seed {seed}: {result.reason}; {found.bits_per_dimension:.3f} bits", flush=True)
    return {
        "likelihood": likelihood,
        "network": network,
        "seed": seed,
        "latent_dim": options.latent_dim,
        "hidden": options.hidden,
        "particles": found.particles,
        "bits": found.bits_per_dimension,
        "bits_elbo": -found.elbo.value / (560 * np.log(2)),
        "nats": found.log_evidence.value,
        "nats_standard_error": found.log_evidence.standard_error,
        "kl": found.kl.value,
        "active_units": found.active_units,
        "unreliable": found.unreliable,
        "seconds": result.seconds,
        "steps": int(result.run.step),
        "status": result.status.name,
    }


if __name__ == "__main__":
    main()
