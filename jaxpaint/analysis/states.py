"""How the hidden states along layer plans compare with each other, for many plans from one pass.

A plan's states are the embeddings and what each of its steps gives (a layer or a whole parallel group, repeats
unrolled), before the final norm; the full plan of T layers has T + 1. Padding is left out of every number.

The prefix tree of the plans (`jaxpaint.plans.tree`) is walked depth first, every distinct prefix once. A new state is
compared on the device with those before it on its path, a fixed number at a time, so three executables per batch
shape serve every plan, and what comes to the host are a few numbers per pair of states and text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.model import Model, layer_stack
from jaxpaint.engine.program import Program
from jaxpaint.engine.rows import TextRows, checked_texts, right_padded
from jaxpaint.models.sharding import DATA, rows
from jaxpaint.plans.plan import Node, Plan
from jaxpaint.plans.tree import Branch, prefix_tree, units

# Every state of a plan is held, and compared with every other.
MAX_STATES = 1024
# States that a new one is compared with in one call.
COMPARED = 8

Row: TypeAlias = tuple[str, Mapping[str, Any], list[Any]]


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the states along one plan have in common, in float64; NaN where hidden states were not finite.

    similarity: mean over texts of the cosine between two states, positions and width flattened (Sun et al., arXiv
        2407.09298, Figures 3, 14 and 15).
    variance: mean over texts of the variance of a state's entries (the same paper's Figure 15, which gives no
        formula: here the mean squared distance from the mean entry).
    block_influence: 1 - E[cos(x_t, y_t)] over all tokens t of all texts, of a step from x to y (Men et al.,
        "ShortGPT", arXiv 2403.03853).
    angular_distance: mean over texts of arccos(cos(x_t, y_t)) / pi at the last token t, 0 (alike) to 1 (opposite)
        (Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv 2403.17887). Their
        d(x_l, x_(l+n)) is entry [l, l + n].

    A vector of zeros counts as orthogonal to all that are not.
    """

    similarity: Float[np.ndarray, "states states"]
    variance: Float[np.ndarray, " states"]
    block_influence: Float[np.ndarray, " steps"]
    angular_distance: Float[np.ndarray, "states states"]


def analyse(
    model: Model,
    texts: Sequence[Sequence[int]],
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Analysis, ...]:
    """The analyses of texts, given as token ids, under every plan, in the order of `plans`.

    A batch holds at most `batch_tokens` positions, padding included, and no more than keep the states of the longest
    plan within `Budgets.analysis_bytes`, but one text at least. `progress` is called with the layer applications times
    positions just started.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: no text, an empty one, tokens outside the vocabulary, more tokens than the model has positions, or
            a plan of more than `MAX_STATES` states.
    """
    plans = [model.checked_plan(plan) for plan in plans]
    checked = checked_texts(texts, model.config)
    if not plans:
        return ()
    states = max(1 + sum(1 for _ in units(plan)) for plan in plans)
    if states > MAX_STATES:
        raise UserError(f"a plan has {states} hidden states, but at most {MAX_STATES} are compared; shorten it")
    budget = budgets()
    shards = model.mesh.shape[DATA] if model.mesh else 1
    position_bytes = states * model.config.hidden_size * model.dtype.itemsize
    positions = min(batch_tokens or budget.analysis_tokens * shards, budget.analysis_bytes * shards // position_bytes)
    tree = prefix_tree(plans)
    sums: dict[int, Analysis] = {}
    for text_rows in right_padded(checked, positions, shards):
        for ends, columns in _walk(model, tree, text_rows, progress):
            found = _sum(columns, text_rows.real_rows)
            for plan in ends:
                sums[plan] = _add(sums[plan], found) if plan in sums else found
    samples, tokens = len(checked), sum(len(text) for text in checked)
    return tuple(
        Analysis(
            sums[plan].similarity / samples,
            sums[plan].variance / samples,
            sums[plan].block_influence / tokens,
            sums[plan].angular_distance / samples,
        )
        for plan in range(len(plans))
    )


def analysis_rows(analysis: Analysis, settings: Mapping[str, Any]) -> list[Row]:
    """`(name, settings, value)` for the results store; `settings` say what was analysed (which texts, how many).

    Values are lists of numbers that JSON can carry, None where not finite: similarity [states][states], variance
    [states], block_influence [steps] and angular_distance [steps][n]: entry [l][n - 1] is d(x_l, x_(l+n)), so its
    rows grow shorter by one.
    """
    values = {field.name: _listed(getattr(analysis, field.name)) for field in fields(analysis)}
    values["angular_distance"] = [
        row[start + 1 :] for start, row in enumerate(values["angular_distance"]) if start + 1 < len(row)
    ]
    return [(name, dict(settings), value) for name, value in values.items()]


def _listed(values: Any) -> Any:
    if isinstance(values, np.ndarray):
        return [_listed(value) for value in values]
    return float(values) if math.isfinite(values) else None


class _Column(NamedTuple):
    """A state compared with those before it on its path and, last, with itself: arrays [..., B] per group compared."""

    products: list[Any]
    angles: list[Any]
    variance: Any
    influence: Any


def _walk(
    model: Model, tree: Branch, text_rows: TextRows, progress: Callable[[int], None] | None
) -> Iterator[tuple[tuple[int, ...], list[_Column]]]:
    """Yields plans that end and the columns of all their states, on the host."""
    layout = text_rows.tokens, text_rows.lengths
    tokens, lengths = jax.device_put(layout, rows(model.mesh)) if model.mesh else layout
    path: list[Array] = []
    columns: list[_Column] = []

    def arrive(state: Array, variance: Array, influence: Any) -> None:
        path.append(state)
        groups = [path[start : start + COMPARED] for start in range(0, len(path), COMPARED)]
        compared = [_compare(state, [*group, *[state] * (COMPARED - len(group))], lengths) for group in groups]
        columns.append(_Column([found[0] for found in compared], [found[1] for found in compared], variance, influence))

    def visit(branch: Branch) -> Iterator[tuple[tuple[int, ...], list[_Column]]]:
        depth = len(path)
        for unit in branch.units:
            program, cost = _program(unit)
            instructions = program.instructions, program.length, program.room
            arrive(*_step(model.graphdef, model.state, *instructions, path[-1], lengths))
            if progress:
                progress(cost * tokens.size)
        if branch.ends:
            columns[:] = jax.device_get(columns)
            yield branch.ends, columns
        for child in branch.branches:
            yield from visit(child)
        del path[depth:], columns[depth:]

    embedded, variance = _embed(model.graphdef, model.state, tokens, lengths)
    arrive(embedded, variance, None)
    del embedded
    yield from visit(tree)
    path.clear()  # `visit` refers to itself, so what it knows lives on for a while


@lru_cache(maxsize=64)
def _program(unit: Node) -> tuple[Program, int]:
    """A step as instructions, and its layer applications."""
    plan = Plan.of(unit)
    return Program.of(plan), plan.cost


@jit("graphdef")
def _embed(graphdef, state, tokens, lengths):
    """The first state, zero where there is padding, as every state here, and the variance of its entries."""
    x = _without_padding(nnx.merge(graphdef, state).embed(tokens, jnp.arange(tokens.shape[1])[None]), lengths)
    return x, _variance(x, lengths)


@jit("graphdef", "room")
def _step(graphdef, state, instructions, length, room, x, lengths):
    """The next state, the variance of its entries, and its step's influence summed over tokens."""
    model = nnx.merge(graphdef, state)
    block, stacked = layer_stack(model)
    context = model.row_context(lengths, x.shape[1])
    y = stack.run_program(block, stacked, instructions, length, room, x, context)
    y = _without_padding(y, lengths)
    # 1 - cos of two vectors is half the squared distance of their directions, which loses no digits near 0.
    distance = jnp.square(_direction(x) - _direction(y)).sum(axis=-1) / 2
    return y, _variance(y, lengths), distance.sum(axis=-1)


# Not our `jit`: what that asks XLA for the sake of matrix products makes sums on a CPU eight times as slow.
@jax.jit
def _compare(state, others, lengths):
    """Inner products with `others`, and angles in radians at the last tokens: both [others, B]."""
    last = (lengths - 1)[:, None, None]

    def direction(x: Array) -> Array:
        return _direction(jnp.take_along_axis(x, last, axis=1)[:, 0])

    def compared(other: Array) -> tuple[Array, Array]:
        products = state.astype(jnp.float32) * other.astype(jnp.float32)
        # Kahan's formula: exact near 0 and pi, where arccos loses half the digits.
        u, v = direction(state), direction(other)
        angle = 2 * jnp.arctan2(jnp.linalg.norm(u - v, axis=-1), jnp.linalg.norm(u + v, axis=-1))
        return products.sum(axis=-1).sum(axis=-1), angle

    products, angles = zip(*map(compared, others), strict=True)
    return jnp.stack(products), jnp.stack(angles)


def _without_padding(x: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, "B S D"]:
    return jnp.where((jnp.arange(x.shape[1]) < lengths[:, None])[:, :, None], x, 0)


def _direction(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """Unit vectors in float32; zeros stay zeros."""
    x = x.astype(jnp.float32)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(norm == 0, 1, norm)


def _variance(x: Float[Array, "B S D"], lengths: Int[Array, " B"]) -> Float[Array, " B"]:
    """Of the entries at real positions, by way of their mean."""
    x, count = x.astype(jnp.float32), lengths * x.shape[-1]
    mean = x.sum(axis=-1).sum(axis=-1) / count
    return _without_padding(jnp.square(x - mean[:, None, None]), lengths).sum(axis=-1).sum(axis=-1) / count


def _sum(columns: Sequence[_Column], real_rows: int) -> Analysis:
    """Sums over the first rows of a batch."""

    def square(groups: Sequence[list[Any]]) -> Float[np.ndarray, "states states rows"]:
        found = np.zeros((len(groups), len(groups), real_rows))
        for number, group in enumerate(groups):
            column = np.concatenate(group)[: number + 1, :real_rows]
            found[: number + 1, number] = found[number, : number + 1] = column
        return found

    products, angles = (square([getattr(column, name) for column in columns]) for name in ("products", "angles"))
    squares = np.einsum("iib->ib", products)
    norms = np.sqrt(squares[:, None] * squares)
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms != 0)
    on_itself = np.einsum("iib->ib", angles)
    on_itself *= 0  # rounding left 1e-8 of it; NaN stays
    return Analysis(
        np.clip(cosines, -1, 1).sum(axis=-1),
        np.array([column.variance[:real_rows].sum(dtype=np.float64) for column in columns]),
        np.array([column.influence[:real_rows].sum(dtype=np.float64) for column in columns[1:]]),
        angles.sum(axis=-1) / np.pi,
    )


def _add(first: Analysis, second: Analysis) -> Analysis:
    return Analysis(*(getattr(first, field.name) + getattr(second, field.name) for field in fields(Analysis)))
