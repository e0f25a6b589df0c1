"""Distillation: how far a plan's next-token distributions are from the full model's, and the loss that makes it less.

Both are distributions of one frozen final norm and head, of states that lie before these: `teacher` the full model's,
`student` the plan's. KL(teacher || student) over the vocabulary, with both logits divided by a temperature T and the
whole multiplied by T^2 (Hinton et al., arXiv 1503.02531, section 2).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.hosts import on_host
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import enough_room
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.whole import run_rows
from jaxpaint.plans.plan import Plan

# A position's logits, teacher's and student's, in float32.
LOGITS = 2 * 4


def divergence(
    head: Any, teacher: Float[Array, "M D"], student: Float[Array, "M D"], temperature: float = 1.0
) -> Float[Array, " M"]:
    """KL(teacher || student) in nats at each position, float32; `head` is a merged model."""
    targets, found = (_logprobs(head, each, temperature) for each in (teacher, student))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(found, targets, axis=0)


def _logprobs(head: Any, states: Float[Array, "M D"], temperature: float = 1.0) -> Float[Array, "V M"]:
    """The vocabulary leads, as the head has it: turned round, all this takes a CPU twice as long."""
    return jax.nn.log_softmax(
        head.vocabulary_logits(head.norm(states), 0, head.config.vocab_size) / temperature, axis=0
    )


def distillation_loss(
    head: Any,
    teacher: Float[Array, "M D"],
    student: Float[Array, "M D"],
    weights: Float[Array, " M"],
    temperature: float,
) -> Float[Array, ""]:
    """The weighted sum of divergences, whose gradient with respect to `student` is there when its value is.

    Logits of a part of the positions exist at a time, and none are computed again on the way back.
    """

    def of_part(teacher: Array, student: Array, weights: Array) -> tuple[Array, Array]:
        return jax.value_and_grad(lambda student: (weights * divergence(head, teacher, student, temperature)).sum())(
            student
        )

    fixed = jax.lax.stop_gradient(student)
    values, slopes = _in_parts(of_part, head.config.vocab_size, teacher, fixed, weights)
    slope = jax.lax.stop_gradient(slopes.reshape(-1, student.shape[-1])[: len(student)])
    # The second term is 0, and its gradient the slope.
    return jax.lax.stop_gradient(values.sum()) + (slope * (student - fixed)).astype(jnp.float32).sum()


def final_states(model: Model, plan: Plan, inputs: Inputs) -> Float[np.ndarray, "B S D"]:
    """Hidden states after a plan, before the final norm, on the host, in the model's dtype."""
    found = np.empty((*inputs.tokens.shape, model.config.hidden_size), model.dtype)
    height = _height(inputs)
    for start in range(0, len(found), height):
        rows = _rows(inputs, start, height)
        states = _states(model.graphdef, model.state, *as_data(plan, None), enough_room([plan]), rows)
        found[start : start + height] = on_host(states)[: len(found) - start]
    return found


def compared(
    model: Model, inputs: Inputs, teacher: Float[np.ndarray, "B S D"], student: Float[np.ndarray, "B S D"]
) -> tuple[Float[np.ndarray, "B S"], Float[np.ndarray, "B S"]]:
    """`(divergences, logprobs)` at every position, float32: of the distributions, and of the student's next token.

    Those of padding mean nothing, nor does a row's last log-probability. The temperature is 1.
    """
    divergences, logprobs = (np.empty(inputs.tokens.shape, np.float32) for _ in range(2))
    height = _height(inputs)
    for start in range(0, len(teacher), height):
        tokens = _rows(inputs, start, height).tokens
        states = (_filled(each[start : start + height], height) for each in (teacher, student))
        found = _compared(model.graphdef, model.state, *states, np.roll(tokens, -1, axis=1))
        for all_rows, rows in zip((divergences, logprobs), found, strict=True):
            all_rows[start : start + height] = on_host(rows)[: len(teacher) - start]
    return divergences, logprobs


def _height(inputs: Inputs) -> int:
    """Rows at a time."""
    return min(len(inputs.tokens), max(1, budgets().analysis_tokens // inputs.tokens.shape[1]))


def _rows(inputs: Inputs, start: int, height: int) -> Inputs:
    part = slice(start, start + height)
    return Inputs(_filled(inputs.tokens[part], height), _filled(inputs.lengths[part], height), None)


def _filled(rows: np.ndarray, height: int) -> np.ndarray:
    """The last one again, up to so many: all batches have one shape."""
    return np.pad(rows, [(0, height - len(rows)), *[(0, 0)] * (rows.ndim - 1)], mode="edge")


@jit("graphdef", "room")
def _states(graphdef, state, instructions, length, room, inputs):
    return run_rows(nnx.merge(graphdef, state), instructions, length, room, inputs)


@jit("graphdef")
def _compared(graphdef, state, teacher, student, following):
    head = nnx.merge(graphdef, state)

    def of_part(teacher: Array, student: Array, following: Int[Array, " M"]) -> tuple[Array, Array]:
        return divergence(head, teacher, student), _logprobs(head, student)[following, jnp.arange(len(following))]

    flat = (each.reshape(-1, *each.shape[2:]) for each in (teacher, student, following))
    found = _in_parts(of_part, head.config.vocab_size, *flat)
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[: following.size].reshape(following.shape), found)


def _in_parts(function: Callable[..., Any], vocab_size: int, *arrays: Array) -> Any:
    """What a function gives of parts of the positions, one after the other, stacked; the last is padded with zeros."""
    count = len(arrays[0])
    parts = -(-count * LOGITS * vocab_size // budgets().training_logits_bytes)
    size = -(-count // parts)
    split = partial(_split, parts, size)
    return jax.lax.map(lambda part: function(*part), tuple(map(split, arrays)))


def _split(parts: int, size: int, array: Array) -> Array:
    padding = parts * size - len(array)
    return jnp.pad(array, [(0, padding), *[(0, 0)] * (array.ndim - 1)]).reshape(parts, size, *array.shape[1:])
