"""Moving about in a fitted VAE's latent space."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from qphi.autoencoders.latent import geodesic_between, interpolate_between, slerp_between
from qphi.errors import InputError
from qphi.estimators.uses import Uses

__all__ = ["LatentTools", "Path"]

Path = Literal["linear", "spherical", "geodesic"]


class LatentTools(Uses):
    """Traversals, interpolations, attributes, arithmetic and neighbours; one row of `covariates=` holds throughout."""

    def interpolate(
        self, a: Any, b: Any, steps: int = 9, *, path: Path = "linear", covariates: Any = None
    ) -> np.ndarray:
        """Decodes of a path between the posterior means of two data, (steps, *shape).

        The ends are the reconstructions of `a` and `b`, each one datum of the data's shape. path: 'linear'; 'spherical'
        turns from one to the other at a length that changes evenly, so the middle stays where a prior of many
        dimensions has its mass (Shoemake 1985; White 2016, arXiv 1609.04468); 'geodesic' bends the line until the
        decodes change as little as possible in all (Shao et al. 2018, arXiv 1711.08014), which takes seconds.
        """
        if steps < 2:
            raise InputError(f"steps={steps}: at least 2 are needed, the two ends.")
        if path not in ("linear", "spherical", "geodesic"):
            raise InputError(f"path={path!r} is not known. Use 'linear', 'spherical' or 'geodesic'.")
        ends = self.transform(np.stack([self._datum(a, "a"), self._datum(b, "b")]), covariates=covariates)
        if path == "geodesic":
            given = self.given_.pack(1, covariates)
            z = geodesic_between(self._fitted(), ends[0], ends[1], steps, given)
        else:
            z = (slerp_between if path == "spherical" else interpolate_between)(ends[0], ends[1], steps)
        return self.inverse_transform(z, covariates=covariates)

    def traverse(
        self, unit: int, around: Any = None, *, steps: int = 9, span: float = 3.0, covariates: Any = None
    ) -> np.ndarray:
        """Decodes with one latent unit going from -span to span, the others fixed, (steps, *shape): at the code of
        `around`, one datum, or at 0."""
        dim = self.architecture_.latent_dim
        if not 0 <= unit < dim:
            raise InputError(f"unit={unit}: the model has units 0 to {dim - 1}.")
        if steps < 2 or not span > 0:
            raise InputError(f"steps={steps}, span={span}: at least 2 steps and a positive span are needed.")
        z = np.zeros((steps, dim), np.float32)
        if around is not None:
            z[:] = self.transform(self._datum(around, "around")[None], covariates=covariates)[0]
        z[:, unit] = np.linspace(-span, span, steps)
        return self.inverse_transform(z, covariates=covariates)

    def attribute_vector(self, X: Any, has: Any, *, covariates: Any = None) -> np.ndarray:
        """The direction of an attribute, (latent_dim,): mean code of the rows that have it less that of the rest.

        has: (n,) of booleans. Add multiples of it to a code and decode: `shift`. Source: Larsen et al. (2016), sect. 4.
        """
        has = np.asarray(has).astype(bool)
        z = self.transform(X, covariates=covariates)
        if has.shape != (len(z),) or has.all() or not has.any():
            raise InputError(
                f"has= needs a truth value for each of the {len(z)} rows, some true, some not; got shape {has.shape} "
                f"with {int(has.sum())} true."
            )
        return z[has].mean(axis=0) - z[~has].mean(axis=0)

    def shift(self, datum: Any, vector: Any, *, strengths: Any = (-1.0, -0.5, 0.0, 0.5, 1.0), covariates: Any = None):
        """Decodes of a datum's code plus multiples of a latent vector, (len(strengths), *shape)."""
        z = self.transform(self._datum(datum, "datum")[None], covariates=covariates)
        amounts = np.asarray(strengths, np.float32).reshape(-1, 1)
        return self.inverse_transform(z + amounts * np.asarray(vector, np.float32), covariates=covariates)

    def arithmetic(self, plus: Any, minus: Any = (), *, covariates: Any = None) -> np.ndarray:
        """The decode of a sum of codes, those of the data in `plus` less those in `minus`: one datum.

        king - man + woman: `arithmetic([king, woman], [man])`.
        """
        total = np.zeros((1, self.architecture_.latent_dim), np.float32)
        for sign, data, name in ((1, plus, "plus"), (-1, minus, "minus")):
            if len(data):
                rows = np.stack([self._datum(datum, name) for datum in data])
                total += sign * self.transform(rows, covariates=covariates).sum(axis=0)
        if not len(plus):
            raise InputError("plus= is empty: give at least one datum to add.")
        return self.inverse_transform(total, covariates=covariates)[0]

    def neighbours(self, X: Any, among: Any, k: int = 5, *, covariates: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The k rows of `among` whose codes are nearest to that of each row of X: (positions, distances), each (n, k).

        Distances are Euclidean between posterior means, in standard deviations of the prior. Rows are coded without
        anything but `covariates`, one row for all.
        """
        here, there = (self.transform(rows, covariates=covariates).astype(np.float64) for rows in (X, among))
        if not 1 <= k <= len(there):
            raise InputError(f"k={k}: there are {len(there)} rows to choose from.")
        places, distances = [], []
        for z in here:
            away = np.sqrt(np.sum((there - z) ** 2, axis=1))
            places.append(np.argsort(away, kind="stable")[:k])
            distances.append(away[places[-1]])
        return np.array(places), np.array(distances)

    def _datum(self, datum: Any, name: str) -> np.ndarray:
        datum = np.asarray(datum)
        if datum.shape != self._fitted_shape():
            raise InputError(f"{name} has shape {datum.shape}; one datum of shape {self.shape_} is needed.")
        return datum
