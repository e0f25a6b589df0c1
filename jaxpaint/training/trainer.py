"""Training: AdamW on any loss, every step calls of jitted functions alone, with checkpoints to go on from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.settings import TrainingSettings

Parameters: TypeAlias = Any
Batch: TypeAlias = Any
Loss: TypeAlias = Callable[[Parameters, Batch, Array], Float[Array, ""]]
"""`loss(parameters, batch, key)`, a pytree too, such as `jax.tree_util.Partial`: equal structures share code."""

WINDOW = 10  # steps whose losses are read together
CHECKPOINT_SECONDS = 120.0


class Optimizer(Protocol):
    """A hashable value that says how parameters are updated; equal ones share code."""

    def transformation(self) -> optax.GradientTransformation:
        """What optax makes of it."""


@dataclass(frozen=True)
class AdamW:
    """AdamW over `steps` steps, the learning rate falling linearly to 0, gradients clipped to a norm.

    As transformers' Trainer, weights decay and biases and norms do not.
    """

    steps: int
    learning_rate: float
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0

    @classmethod
    def of(cls, settings: TrainingSettings, steps: int) -> AdamW:
        return cls(steps, settings.learning_rate, settings.max_grad_norm, settings.weight_decay)

    def transformation(self) -> optax.GradientTransformation:
        schedule = optax.linear_schedule(self.learning_rate, 0.0, self.steps)
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.adamw(schedule, weight_decay=self.weight_decay, mask=_decaying),
        )


@dataclass(frozen=True)
class CosineAdam:
    """Adam whose learning rate grows linearly for `warmup_steps` and falls to 0 as a cosine, gradients clipped."""

    steps: int
    learning_rate: float
    warmup_steps: int
    max_grad_norm: float = 1.0

    def transformation(self) -> optax.GradientTransformation:
        # The first step's rate is above 0, and the last one's.
        schedule = optax.warmup_cosine_decay_schedule(
            self.learning_rate / (self.warmup_steps + 1), self.learning_rate, self.warmup_steps, self.steps + 1
        )
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), optax.adam(schedule))


class TrainState(NamedTuple):
    """Parameters and AdamW's moments after a number of steps."""

    step: Int[Array, ""]
    parameters: Parameters
    moments: Any


def train(
    loss: Loss,
    start: Parameters,
    batches: Callable[[int], Iterable[Sequence[Batch]]],
    optimizer: Optimizer,
    key: Array,
    *,
    place: Callable[[Batch], Batch] = jax.device_put,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Parameters:
    """The parameters after training from `start`, which is left as it is, on `batches(first)`, those from a step on.

    A step's batch comes in parts, which may differ in shape; its loss is the sum of theirs.

    With `checkpoints` it begins where the last one was written, and ends with the same parameters to the bit.
    `progress` is called with the number of steps done so far and their latest mean loss.

    Steps are dispatched one by one, as batches differ in shape, and a window of them ahead of the device: meanwhile
    the next batches are put there, and nothing waits but for losses of the window before. Raises FloatingPointError
    where the loss is not finite.
    """
    state = checkpoints.latest(lambda: _abstract(start, optimizer)) if checkpoints else None
    if state is None:
        state = _begin(start, optimizer)
    start = None  # where nobody else needs it, its memory is free
    done, saved = int(state.step), time.monotonic()
    remaining = iter(batches(done))
    before: list[Array] = []
    while window := list(islice(remaining, WINDOW)):
        losses = []
        for parts in window:
            if len(parts) == 1:  # a sum of gradients beside the gradient would be memory for nothing
                total = _whole(loss, state.parameters, place(parts[0]), key, (state.step, 0))
            else:
                total = _nothing(state.parameters)
                for number, part in enumerate(parts):
                    total = _more(loss, state.parameters, total, place(part), key, (state.step, number))
            state, value = _step(state, total, optimizer)
            losses.append(value)
        done = _read(before, done, progress)
        before = losses
        if checkpoints and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            done, before = _read(before, done, progress), []
            checkpoints.write(done, state)
            saved = time.monotonic()
    _read(before, done, progress)
    return state.parameters


def _read(losses: list[Array], done: int, progress: Callable[[int, float], None] | None) -> int:
    """Waits for the steps that gave these losses; the number done with them."""
    if not losses:
        return done
    mean = float(np.mean(jax.device_get(losses)))
    if not np.isfinite(mean):
        raise FloatingPointError(f"the loss is {mean} after {done + len(losses)} steps")
    if progress:
        progress(done + len(losses), mean)
    return done + len(losses)


@jit("optimizer")
def _begin(start, optimizer):
    # Copied: steps take the state's memory over, and `start` is someone else's.
    parameters = jax.tree.map(lambda leaf: jnp.array(leaf, jnp.float32, copy=True), start)
    return TrainState(jnp.zeros((), jnp.int32), parameters, optimizer.transformation().init(parameters))


def _abstract(start: Parameters, optimizer: Optimizer) -> TrainState:
    """What `_begin` gives, without its memory, which two of them may not fit."""
    lowered = _begin.lower(start, optimizer)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        lowered.out_info,
        lowered.compile().output_shardings,
    )


@jit()
def _nothing(parameters):
    return jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)


@jit(donate=("total",))
def _more(loss, parameters, total, part, key, numbers):
    return jax.tree.map(jnp.add, total, _of_part(loss, parameters, part, key, numbers))


@jit()
def _whole(loss, parameters, part, key, numbers):
    return _of_part(loss, parameters, part, key, numbers)


def _of_part(loss, parameters, part, key, numbers):
    """A part's loss and its gradient, drawn with a key of the part's own."""
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return jax.value_and_grad(loss)(parameters, part, key)


@jit("optimizer", donate=("state",))
def _step(state, total, optimizer):
    value, gradient = total
    updates, moments = optimizer.transformation().update(gradient, state.moments, state.parameters)
    return TrainState(state.step + 1, optax.apply_updates(state.parameters, updates), moments), value


def _decaying(parameters: Parameters) -> Any:
    def is_weight(path: tuple[Any, ...], _: Any) -> bool:
        return any(name in jax.tree_util.keystr(path) for name in ("kernel", "embedding"))

    return jax.tree_util.tree_map_with_path(is_weight, parameters)
