"""Learned decoder scales against every fixed one: test log likelihood on Frey faces.

The same VAE (defaults of `qphi.VAE` but for the latent size) is fitted with Gaussian decoders whose scale is fixed, in
grey levels of 0..255, and with learned ones: one for all pixels, one for each, or given by the decoder. A random tenth
of the faces is the test set, the same for all; another tenth of the rest is held out by each fit to know when to stop.
Reported: log p(x) of the test faces by importance weighting, nats per image in units of grey levels, and the
reconstruction error. A fixed scale is a choice of beta (squared error + beta KL at scale^2 = beta / 2), so the sweep is
one over beta as well.

    python benchmarks/decoder_scale.py
    python benchmarks/decoder_scale.py --only gaussian-per-feature     # the saved others are kept
"""

from __future__ import annotations

import argparse
import warnings

import numpy as np

from _results import load, markdown, need_data, parser, print_table, read, results_file, save, write_between
from qphi.autoencoders import implied_kl_weight

NAME = "decoder_scale"
GREY_LEVELS = 255.0
SCALES = ("2", "4", "6", "8", "10", "12", "16", "24", "48", "96")  # grey levels
LEARNED = {"gaussian": "one", "gaussian-per-feature": "of each pixel", "gaussian-output-scale": "by the decoder"}


def main() -> None:
    options = _options()
    need_data()
    x = load("frey").x
    order = np.random.default_rng(options.seed).permutation(len(x))
    test, train = x[order[: len(x) // 10]], x[order[len(x) // 10 :]]
    if options.smoke:
        test, train = test[:40], train[:200]
    names = (*SCALES[2::5], "gaussian") if options.smoke else (*SCALES, *LEARNED)
    path = results_file(NAME, options.smoke)
    runs = {run["name"]: run for run in read(path)["runs"]} if options.only else {}
    for name in options.only or names:
        runs[name] = _fit(name, train, test, options)
        kept = [runs[name] for name in (*SCALES, *LEARNED) if name in runs]
        save(path, {"runs": kept, "test_rows": len(test), "train_rows": len(train)}, quiet=True)
    header = ["scale, grey levels", "log p(x), nats", "ELBO", "KL", "reconstruction error", "implied beta", "seconds"]
    lines = [_line(runs[name]) for name in (*SCALES, *LEARNED) if name in runs]
    print_table(header, lines)
    best = max((run for name, run in runs.items() if name in SCALES), key=lambda run: run["log_evidence"], default=None)
    if best is not None:
        for name in (name for name in runs if name in LEARNED):
            gain = runs[name]["log_evidence"] - best["log_evidence"]
            print(f"{name} less the best fixed scale ({best['scale']:g}): {gain:+.1f} nats per image")
    if not options.smoke:
        write_between("likelihoods", markdown(header, lines), "scales")


def _line(run: dict) -> list[str]:
    name, scale = run["name"], run["scale"]
    about = "" if scale is None else f": {scale:.2f}"
    return [
        f"learned, {LEARNED[name]}{about}" if name in LEARNED else name,
        f"{run['log_evidence']:.1f} ± {run['standard_error']:.1f}",
        f"{run['elbo']:.1f}",
        f"{run['kl']:.1f}",
        f"{run['reconstruction_error']:.2f}",
        "" if scale is None else f"{implied_kl_weight(scale / GREY_LEVELS):.3g}",
        f"{run['seconds']:.0f}",
    ]


def _options() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0, help="of the split and of every fit")
    options.add_argument("--particles", type=int, default=500)
    options.add_argument("--latent-dim", type=int, default=16)
    options.add_argument("--only", nargs="+", choices=[*SCALES, *LEARNED], help="rows to run; saved others are kept")
    return options.parse_args()


def _fit(name: str, train: np.ndarray, test: np.ndarray, options: argparse.Namespace) -> dict:
    import qphi
    from qphi.autoencoders import Gaussian

    likelihood = name if name in LEARNED else Gaussian(float(name) / float(train.std()))  # pictures are standardised
    epochs = 2 if options.smoke else None
    vae = qphi.VAE(options.latent_dim, likelihood=likelihood, random_state=options.seed, max_epochs=epochs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a budget that ends a smoke run
        vae.fit(train)
    found = vae.evaluate(test, particles=16 if options.smoke else options.particles)
    print(f"{name}: {vae.status_text_}; {found.log_evidence}", flush=True)
    return {
        "name": name,
        "scale": None if vae.decoder_scale() is None else float(np.mean(vae.decoder_scale())),
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
