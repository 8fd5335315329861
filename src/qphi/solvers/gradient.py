"""Stochastic gradients: Adam with clipping, averaged iterates and a step size that shrinks at plateaus."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from qphi.solvers.base import AbstractNoisySolver, Problem, StepInfo, blame_order

__all__ = ["Cosine", "StochasticGradient"]

_GRADIENT, _ORDER = 0, 1  # what the run's key is folded with: independent streams


class Cosine(eqx.Module):
    """step -> (1 + cos(pi step / horizon)) / 2: a step size that falls to zero at `horizon` steps and stays there.

    Source: Loshchilov & Hutter (2017), eq. 5, without restarts.
    """

    horizon: int

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        return 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / self.horizon, 1.0)))


class _State(eqx.Module):
    trained: Float[Array, " parameters"]  # changes every step
    average: Float[Array, " parameters"]
    adam: optax.OptState
    order: Int[Array, " data"]  # changes every epoch: this epoch's shuffle
    learning_rate: Float[Array, ""]  # changes at plateaus
    refinements: Int[Array, ""]
    since: Int[Array, ""]  # steps in the average


class StochasticGradient(AbstractNoisySolver):
    """Adam on the objective's surrogate; the answer is an exponential average of the iterates.

    Averaging is what makes a noisy iterate an answer: on a conjugate model the last Adam iterate errs by 0.12 sd, the
    average by 0.02. At a plateau the step size shrinks by `decay`, from the best answer so far, `refinements` times.
    Batches are drawn without replacement from a shuffle per epoch, both functions of the run's key and the step.
    With `slice_size` a batch's gradient is summed over slices of that many rows: less memory at once, which
    convolutions need to stay inside what the allocator keeps (slices of 64 train them up to 1.5 times faster).
    `schedule` multiplies the step size by a function of the step, `Cosine(horizon)` or one of Optax's.
    Sources: Kingma & Ba (2015); Polyak & Juditsky (1992) for averaging.
    """

    learning_rate: float = 1e-3
    batch_size: int = 128
    average_over: int = 400
    clip_norm: float = 100.0
    ramp: int = 100
    decay: float = 0.3
    refinements: int = 2
    slice_size: int | None = None
    schedule: Callable[[Int[Array, ""]], Float[Array, ""]] | None = None

    def init(self, problem: Problem, trained: Float[Array, " parameters"], key: PRNGKeyArray) -> _State:
        size = 0 if problem.train is None else problem.train.shape[0]
        return _State(
            trained=trained,
            average=trained,
            adam=optax.scale_by_adam().init(trained),
            order=jax.random.permutation(_epoch_key(key, jnp.zeros((), int)), size),
            learning_rate=jnp.asarray(self.learning_rate, float),
            refinements=jnp.zeros((), int),
            since=jnp.zeros((), int),
        )

    def step(self, problem: Problem, state: _State, step: Int[Array, ""], key: PRNGKeyArray) -> tuple[_State, StepInfo]:
        order, batch = self._batch(problem, state.order, step, key)
        draw_key = jax.random.fold_in(jax.random.fold_in(key, _GRADIENT), step)

        parts, gradient = self._gradient(problem, state.trained, batch, draw_key, step)
        norm = jnp.linalg.norm(gradient)
        fault = _fault(parts, gradient, norm)
        clipped = gradient * jnp.minimum(1.0, self.clip_norm / norm)
        direction, adam = optax.scale_by_adam().update(clipped, state.adam)
        direction = cast(Array, direction)
        # A linear ramp: Adam's first steps have full size whatever the gradient is worth.
        rate = state.learning_rate * jnp.minimum(1.0, (step + 1) / self.ramp)
        if self.schedule is not None:
            rate = rate * self.schedule(step)
        trained = state.trained - rate * direction
        since = state.since + 1
        # A running mean until there are `average_over` steps in it, exponential from then on.
        weight = 1.0 / jnp.minimum(since, self.average_over)
        average = state.average + weight * (trained - state.average)
        moved = (trained, average, adam, since)
        stayed = (state.trained, state.average, state.adam, state.since)
        trained, average, adam, since = jax.tree.map(lambda a, b: jnp.where(fault == 0, a, b), moved, stayed)
        return _State(trained, average, adam, order, state.learning_rate, state.refinements, since), StepInfo(
            parts, fault
        )

    def _gradient(
        self,
        problem: Problem,
        trained: Float[Array, " parameters"],
        batch: Float[Array, "batch ..."] | None,
        key: PRNGKeyArray,
        step: Int[Array, ""],
    ) -> tuple[dict[str, Float[Array, ""]], Float[Array, " parameters"]]:
        """The objective's parts and the descent direction's gradient, averaged over the slices of a batch."""

        # With respect to the tree, packed afterwards: the derivative of unpacking would add a padded vector per array.
        arrays = problem.layout.unpack(trained)

        def loss(arrays: PyTree, rows: Float[Array, "rows ..."] | None, key: PRNGKeyArray):
            scores = problem.objective.score(eqx.combine(arrays, problem.fixed), rows, key, step)
            return -scores.surrogate, scores.parts

        def of(rows: Float[Array, "rows ..."] | None, key: PRNGKeyArray):
            (_, parts), gradient = jax.value_and_grad(loss, has_aux=True)(arrays, rows, key)
            return parts, problem.layout.pack(gradient)

        if (
            batch is None
            or self.slice_size is None
            or batch.shape[0] % self.slice_size
            or (batch.shape[0] == self.slice_size)
        ):
            return of(batch, key)
        count = batch.shape[0] // self.slice_size
        slices = batch.reshape(count, self.slice_size, *batch.shape[1:])

        def add(total, numbered):
            index, rows = numbered
            return jax.tree.map(jnp.add, total, of(rows, jax.random.fold_in(key, index))), None

        zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(of, slices[0], key))
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(count), slices))
        return jax.tree.map(lambda value: value / count, total)

    def answer(self, state: _State) -> Float[Array, " parameters"]:
        return state.average

    def refine(self, state: _State, answer: Float[Array, " parameters"]) -> tuple[_State, Bool[Array, ""]]:
        used_up = state.refinements >= self.refinements
        restarted = _State(
            trained=answer,
            average=answer,
            adam=state.adam,
            order=state.order,
            learning_rate=state.learning_rate * self.decay,
            refinements=state.refinements + 1,
            since=jnp.zeros_like(state.since),
        )
        return jax.tree.map(lambda a, b: jnp.where(used_up, b, a), restarted, state), used_up

    def pace(self, state: _State) -> Float[Array, ""]:
        return state.learning_rate

    def _batch(self, problem: Problem, order: Int[Array, " data"], step: Int[Array, ""], key: PRNGKeyArray):
        if problem.train is None:
            return order, None
        size = problem.train.shape[0]
        batch_size = min(self.batch_size, size)
        per_epoch = size // batch_size  # the remainder of a shuffle is left out; the next epoch shuffles anew
        epoch, place = step // per_epoch, step % per_epoch
        order = jax.lax.cond(
            (place == 0) & (step > 0),
            lambda: jax.random.permutation(_epoch_key(key, epoch), size).astype(order.dtype),
            lambda: order,
        )
        rows = jax.lax.dynamic_slice(order, (place * batch_size,), (batch_size,))
        return order, problem.train[rows]


def _epoch_key(key: PRNGKeyArray, epoch: Int[Array, ""]) -> PRNGKeyArray:
    return jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)


def _fault(
    parts: dict[str, Float[Array, ""]], gradient: Float[Array, " parameters"], norm: Float[Array, ""]
) -> Int[Array, ""]:
    """The number that `StepInfo.fault` describes. A gradient whose norm overflows counts as not finite."""
    bad_part = ~jnp.isfinite(jnp.stack([parts[name].astype(gradient.dtype) for name in blame_order(parts)]))
    in_gradient = jax.lax.cond(
        jnp.isfinite(norm),
        lambda: jnp.zeros((), int),
        lambda: (1 + len(parts) + jnp.argmax(~jnp.isfinite(gradient))).astype(int),
    )
    return jnp.where(jnp.any(bad_part), 1 + jnp.argmax(bad_part), in_gradient)
