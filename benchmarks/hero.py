"""The README's picture: scikit-learn's digits with two latent units: the latent map, the plane decoded, and samples.

python benchmarks/hero.py            # writes docs/figures/hero.png; about a minute, no data needed
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import qphi
from qphi.data import load
from qphi.report.latent_map import latent_map
from qphi.report.pictures import image_grid

OUT = Path(__file__).parents[1] / "docs" / "figures" / "hero.png"
SIDE = 15  # decoded places along each axis of the plane


def main() -> None:
    """Fit, draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    digits = load("digits")
    vae = qphi.VAE(latent_dim=2, random_state=0).fit(digits.x)
    latent = latent_map(*vae.encode(digits.x), (0, 1), digits.labels)
    buffer = io.BytesIO()
    latent.savefig(buffer, dpi=110)
    limits = vae.levels_ or (0.0, 1.0)
    places = np.linspace(-2.4, 2.4, SIDE)
    plane = vae.inverse_transform([(a, b) for b in places[::-1] for a in places])
    many = qphi.VAE(latent_dim=16, random_state=0).fit(digits.x)
    drawn = Figure(figsize=(9.0, 4.7), dpi=110, layout="constrained")
    left, right = drawn.subplots(1, 2)
    left.imshow(image_grid(plane, SIDE, limits=limits), cmap="gray")
    left.set_title("the plane, decoded", loc="left", fontsize=11)
    some = np.linspace(0, len(digits.x) - 1, 5 * 15).astype(int)[: 5 * 15]
    again = many.reconstruct(digits.x[some])
    rows = np.concatenate([np.concatenate([digits.x[some].reshape(5, 15, 8, 8), again.reshape(5, 15, 8, 8)], axis=1)])
    pairs = np.concatenate([rows.reshape(-1, 8, 8), many.sample(5 * 15)])
    right.imshow(image_grid(pairs, SIDE, limits=limits), cmap="gray")
    right.set_title("16 units: data and reconstructions in turn, then samples", loc="left", fontsize=11)
    for plot in (left, right):
        plot.axis("off")
    below = io.BytesIO()
    drawn.savefig(below, dpi=110)
    top, bottom = Image.open(buffer).convert("RGB"), Image.open(below).convert("RGB")
    bottom = bottom.resize((top.width, round(bottom.height * top.width / bottom.width)))
    picture = Image.new("RGB", (top.width, top.height + bottom.height), "white")
    picture.paste(top, (0, 0))
    picture.paste(bottom, (0, top.height))
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out, optimize=True)
    print(f"wrote {out.name}: held-out ELBO {max(vae.history_['held_out_elbo_per_datum']):.1f} nats per datum with 2")


if __name__ == "__main__":
    main()
