"""Draws of what a NumPyro program observes, given draws of its latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from numpyro import handlers
from numpyro.primitives import Messenger

from qphi.errors import InputError
from qphi.targets.from_numpyro import NumPyroTarget

__all__ = ["predictive", "unobserved"]


class _Expanded(Messenger):
    """Observed sites with a distribution as large as their data: `Normal(mu, 1)` observed at many values is many."""

    def process_message(self, msg: Any) -> None:
        if msg["type"] == "sample" and msg["is_observed"] and hasattr(msg["fn"], "batch_shape"):
            law, shape = msg["fn"], jnp.shape(msg["value"])
            batch = jax.lax.broadcast_shapes(law.batch_shape, shape[: len(shape) - law.event_dim])
            if batch != law.batch_shape:
                msg["fn"] = law.expand(batch)


def unobserved(model: Callable[..., Any]) -> Callable[..., Any]:
    """The program with every observed site drawn anew, in the shape of its data."""
    return handlers.uncondition(_Expanded(model))


def predictive(
    target: NumPyroTarget,
    latents: Mapping[str, np.ndarray],
    key: PRNGKeyArray,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, np.ndarray]:
    """Every observed site drawn anew, and every deterministic one, for each draw of the latents: (draws, *shape).

    Raises InputError where the program does not run on `args`, or a latent's shape does not fit them.
    """

    def observed(values: dict[str, Any], one: PRNGKeyArray) -> dict[str, Any]:
        model = handlers.seed(unobserved(handlers.substitute(target.model, values)), one)
        trace = handlers.trace(model).get_trace(*args, **kwargs)
        kept = {}
        for name, site in trace.items():
            drawn = site["type"] == "sample" and name not in values and site["fn"] is not None
            if drawn or site["type"] == "deterministic":
                kept[name] = jnp.asarray(site["value"])
        return kept

    count = len(next(iter(latents.values())))
    values = {name: jnp.asarray(value) for name, value in latents.items()}
    try:
        found = jax.jit(jax.vmap(observed))(values, jax.random.split(key, count))
    except InputError:
        raise
    except Exception as error:
        line = str(error).strip().split("\n")[0]
        raise InputError(
            f"The program raised {type(error).__name__}: {line} - when drawing from it with {len(args)} argument(s). "
            "Give arguments of the shapes it was fitted with, or covariates that its latents fit."
        ) from error
    return {name: np.asarray(value) for name, value in found.items()}
