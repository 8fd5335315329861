"""A learned decoder scale against every fixed one: test log likelihood on Frey faces.

The same VAE (defaults of `qphi.VAE` but for the latent size) is fitted with Gaussian decoders whose
scale is fixed, in grey levels of 0..255, and with one learned scale. A random tenth of the faces is the test set, the
same for all; another tenth of the rest is held out by each fit to know when to stop. Reported: log p(x) of the test
faces by importance weighting, nats per image in units of grey levels, and the reconstruction error. A fixed scale is a
choice of beta (squared error + beta KL at scale^2 = beta / 2), so the sweep is one over beta as well.

    python benchmarks/decoder_scale.py
    python benchmarks/decoder_scale.py --smoke
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from _results import load, need_data, parser, print_table, results_file, save

NAME = "decoder_scale"
GREY_LEVELS = 255.0
SCALES = (2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 48.0, 96.0)  # grey levels


def main() -> None:
    from qphi.autoencoders import implied_kl_weight

    options = _options()
    need_data()
    x = load("frey").x
    order = np.random.default_rng(options.seed).permutation(len(x))
    test, train = x[order[: len(x) // 10]], x[order[len(x) // 10 :]]
    if options.smoke:
        test, train = test[:40], train[:200]
    rows = [_fit(scale, train, test, options) for scale in (*(SCALES[2::5] if options.smoke else SCALES), None)]
    save(results_file(NAME, options.smoke), {"runs": rows, "test_rows": len(test), "train_rows": len(train)})
    print_table(
        ["scale, grey levels", "log p(x), nats", "ELBO", "KL", "reconstruction error", "implied beta", "seconds"],
        [
            [
                f"learned: {row['scale']:.2f}" if row["learned"] else f"{row['scale']:g}",
                f"{row['log_evidence']:.1f} ± {row['standard_error']:.1f}",
                f"{row['elbo']:.1f}",
                f"{row['kl']:.1f}",
                f"{row['reconstruction_error']:.2f}",
                f"{implied_kl_weight(row['scale'] / GREY_LEVELS):.3g}",
                f"{row['seconds']:.0f}",
            ]
            for row in rows
        ],
    )
    best = max((row for row in rows if not row["learned"]), key=lambda row: row["log_evidence"])
    gain = rows[-1]["log_evidence"] - best["log_evidence"]
    print(f"learned less the best fixed scale ({best['scale']:g}): {gain:+.1f} nats per image")


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="of the split and of every fit")
    options.add_argument("--particles", type=int, default=500)
    options.add_argument("--latent-dim", type=int, default=16)
    return options.parse_args()


def _fit(scale: float | None, train: np.ndarray, test: np.ndarray, options: argparse.Namespace) -> dict:
    import qphi
    from qphi.autoencoders import Gaussian

    likelihood = "gaussian" if scale is None else Gaussian(scale / GREY_LEVELS)
    epochs = 2 if options.smoke else None
    vae = qphi.VAE(options.latent_dim, likelihood=likelihood, random_state=options.seed, max_epochs=epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a budget that ends a smoke run
        vae.fit(train)
    found = vae.evaluate(test, particles=16 if options.smoke else options.particles)
    print(f"scale {scale}: {vae.status_text_}; {found.log_evidence}", flush=True)
    return {
        "learned": scale is None,
        "scale": float(np.mean(vae.decoder_scale())),
        "log_evidence": found.log_evidence.value,
        "standard_error": found.log_evidence.standard_error,
        "elbo": found.elbo.value,
        "kl": found.kl.value,
        "active_units": found.active_units,
        "unreliable": found.unreliable,
        "reconstruction_error": found.reconstruction_error,
        "seconds": vae.seconds_,
        "status": vae.status_.name,
    }


if __name__ == "__main__":
    main()
