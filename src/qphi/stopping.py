"""When to stop: a rule that knows how noisy its evidence is."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Plateau"]


class _State(eqx.Module):
    best: Float[Array, ""]  # the highest objective seen
    best_step: Int[Array, ""]
    best_answer: Float[Array, " parameters"]
    reference: Float[Array, " items"]  # item by item, at the last rise that counted
    waited: Int[Array, ""]  # checks since then


class Plateau(eqx.Module):
    """A plateau is `patience` checks in a row without a rise that stands out of its own noise.

    The held-out objective is computed with the same randomness at every check, so two checks are compared item by
    item: a rise counts when its mean exceeds its own standard error, sd(difference) / sqrt(items). Slow but steady
    progress adds up, since the reference moves only when a rise counts; and there is no tolerance to tune, whatever
    the units of the data. Where many items would count rises that are too small to matter, `least` is what one has to
    be, in the objective's units.

    The answer with the highest value is kept apart, whether or not its rise counted. Where answers are averages that
    keep getting closer (one posterior, smaller steps) the highest of many noisy values is the luckiest, not the
    closest: `keep_latest` then keeps the latest that is not worse than the last counted rise by more than the noise.
    """

    patience: int = 8
    keep_latest: bool = False  # keep the latest answer that is not worse beyond noise, not the luckiest
    warm_up: int = 0  # steps before which nothing is compared: the objective is still changing
    least: float = 0.0

    def init(self, items: Float[Array, " items"], answer: Float[Array, " parameters"]) -> _State:
        return _State(
            jnp.asarray(-jnp.inf, items.dtype),
            jnp.zeros((), int),
            answer,
            jnp.full_like(items, -jnp.inf),
            jnp.zeros((), int),
        )

    def update(
        self,
        state: _State,
        items: Float[Array, " items"],
        answer: Float[Array, " parameters"],
        step: Int[Array, ""],
    ) -> tuple[_State, Bool[Array, ""]]:
        """The state after a check, and whether this is a plateau (which also starts the next wait)."""
        value = jnp.mean(items)
        warm = step >= self.warm_up
        better = (value > state.best) | ~warm  # before the end of a warm-up the latest is the best
        first = ~jnp.isfinite(state.reference[0])
        difference = items - jnp.where(first, 0.0, state.reference)
        noise = jnp.std(difference) / jnp.sqrt(items.size)
        if self.keep_latest:
            better = first | (jnp.mean(difference) > -noise) | ~warm
        rose = first | (jnp.mean(difference) > jnp.maximum(noise, self.least)) | ~warm
        waited = jnp.where(rose, 0, state.waited + 1)
        plateau = waited >= self.patience
        best_answer = jnp.where(better, answer, state.best_answer)
        new = _State(
            best=jnp.where(warm, jnp.maximum(value, state.best), -jnp.inf),
            best_step=jnp.where(better, step, state.best_step),
            best_answer=best_answer,
            reference=jnp.where(rose, items, state.reference),
            waited=jnp.where(plateau, 0, waited),
        )
        return new, plateau
