"""Attention block by block, in memory linear in the length: only blocks in which something is visible are multiplied.

A running softmax adds up one block of keys after the other (FlashAttention, arXiv 2205.14135), in plain products, so it
needs no kernel of its own. Which blocks a block of queries visits is data, found from the layout once for all layers:
layouts share an executable. XLA's CPU backend is quick at products and at element by element, not at reductions: sums
are a column of ones among the values, and maxima are taken slice by slice (docs/log.md).

Not reverse-differentiable: the number of steps is known only when it runs. Training has `attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxpaint import tiles
from jaxpaint.models.attention import capped
from jaxpaint.models.narrow import moved, product, rounded

# Tokens of a block; blocks of keys that are multiplied at once where all of them are seen by all of the queries; and
# heads at a time where each has keys of its own: scores that a core's cache holds. Heads that share keys are one
# product, and XLA takes longer for two such products at once than one after the other (docs/log.md).
BLOCK = 256
WIDE = 2
HEADS = 6
_LOWEST = float(jnp.finfo(jnp.float32).min)


class Visits(NamedTuple):
    """Blocks of keys to visit by each block of queries: the first `counts` of `order`."""

    order: Int[Array, "*kinds queries keys"]
    counts: Int[Array, "*kinds queries"]


class Blocks(NamedTuple):
    """Which keys each of T tokens sees, as `jaxpaint.models.attention.visibility` says, without a mask of T * T.

    Key j is seen by query i when `j <= i < ends[j]` and, where there are windows, at a distance of `positions` below
    the window. `single` blocks of keys need a mask; `wide` ones, `WIDE` blocks each, are seen whole. Where layers
    differ in their windows, `window`, `single` and `wide` have a leading axis of kinds.
    """

    ends: Int[Array, " T"]
    positions: Int[Array, " T"]
    window: Int[Array, "*kinds"] | None
    single: Visits
    wide: Visits

    def of_kind(self, kind: int | Int[Array, ""]) -> Blocks:
        """What a layer of this kind reads."""
        own = jax.tree.map(lambda leaf: leaf[kind], (self.window, self.single, self.wide))
        return Blocks(self.ends, self.positions, *own)


def blocks(
    positions: Int[Array, "#B S"], visible_until: Int[Array, "B S"], windows: Sequence[int | None] = (None,)
) -> Blocks:
    """The layout of rows that are one stream, in which what is longer than a row goes on in the next."""
    rows, length = visible_until.shape
    size = -(-rows * length // BLOCK) * BLOCK
    index = jnp.arange(size)
    ends = (visible_until + jnp.arange(rows)[:, None] * length).reshape(-1)
    ends = jnp.concatenate([ends, index[ends.size :] + 1])
    positions = jnp.broadcast_to(positions, visible_until.shape).reshape(-1)
    positions = jnp.pad(positions, (0, size - positions.size))
    found = [_visits(positions, ends, window) for window in windows]
    # A window that no distance reaches is none.
    none, beyond = set(windows) == {None}, jnp.iinfo(jnp.int32).max
    bounds = None if none else jnp.array([beyond if window is None else window for window in windows], jnp.int32)
    single, wide = jax.tree.map(lambda *each: jnp.stack(each), *found)
    whole = Blocks(ends, positions, bounds, single, wide)
    return whole.of_kind(0) if len(windows) == 1 else whole


def _visits(positions: Int[Array, " T"], ends: Int[Array, " T"], window: int | None) -> tuple[Visits, Visits]:
    """Of each block of queries the single blocks of keys and the wide ones."""
    ends, positions = ends.reshape(-1, BLOCK), positions.reshape(-1, BLOCK)
    index = jnp.arange(len(ends))
    query, key = index[:, None], index[None, :]
    visible = (key <= query) & (ends.max(axis=1) > query * BLOCK)
    whole = (key < query) & (ends.min(axis=1) >= (query + 1) * BLOCK)
    if window is not None:
        first, last = positions.min(axis=1), positions.max(axis=1)
        visible &= first[:, None] - last[None, :] < window
        whole &= last[:, None] - first[None, :] < window
    beyond = -len(ends) % WIDE
    wide = jnp.pad(whole, ((0, 0), (0, beyond))).reshape(len(ends), -1, WIDE).all(axis=-1)
    single = visible & ~jnp.repeat(wide, WIDE, axis=1)[:, : len(ends)]
    return _first(single), _first(wide)


def _first(chosen: Bool[Array, "queries keys"]) -> Visits:
    return Visits(jnp.argsort(~chosen, axis=1, stable=True), chosen.sum(axis=1))


def blockwise_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    layout: Blocks,
    cap: float | None = None,
) -> Float[Array, "B S N H"]:
    """As `jaxpaint.models.attention.attention` of rows that are one stream, laid out as `layout` says."""
    heads, head_dim = query.shape[2:]
    groups = key.shape[2]
    shared = heads // groups
    together = max(n for n in range(1, HEADS + 1) if groups % n == 0) if shared == 1 else 1
    count = groups // together
    # Scores are scaled with what is taken from them before their exponential, which costs no pass of its own.
    scale = head_dim**-0.5
    after = scale if cap is None else 1.0
    # [parts, together, tokens, H]: parts of the heads run one after the other.
    queries = _padded(query, BLOCK).reshape(-1, BLOCK, count, together, shared, head_dim)
    queries = queries.transpose(2, 0, 3, 4, 1, 5).reshape(count, -1, together, shared * BLOCK, head_dim)
    keys = _padded(key, BLOCK * WIDE).reshape(-1, count, together, head_dim).transpose(1, 2, 3, 0)
    values = _padded(value, BLOCK * WIDE).reshape(-1, count, together, head_dim).transpose(1, 2, 0, 3)
    values = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
    number = queries.shape[1]

    def of_part(stacked: Array, part: Int[Array, ""], start: Any, *, axis: int, width: int) -> Array:
        """`width` of a part's heads, keys or queries along an axis of it."""

        def cut(stacked: Array, part: Int[Array, ""], start: Any) -> Array:
            own = jax.lax.dynamic_index_in_dim(stacked, part, keepdims=False)
            return jax.lax.dynamic_slice_in_dim(own, start, width, axis)

        return moved(cut, stacked, part, start)

    def attended(i: Int[Array, ""]) -> Float[Array, "together queries H"]:
        part, block = i // number, i % number
        own = of_part(queries, part, block, axis=0, width=1)[0]
        place = block * BLOCK + jnp.arange(BLOCK)

        def visit(visits: Visits, width: int, masked: bool, n, found):
            largest, mixed = found
            start = visits.order[block, n] * width
            near = of_part(keys, part, start, axis=2, width=width)
            scores = product(own, near)
            scores = scores if cap is None else capped(scores * scale, cap)
            if masked:
                visible = jnp.tile(_visible(layout, start, width, place), (shared, 1))
                scores = jnp.where(visible, scores, _LOWEST)
            most = jnp.maximum(largest, scores.max(axis=-1, keepdims=True))
            weights = rounded(jnp.exp((scores - most) * after), value.dtype)
            near = of_part(values, part, start, axis=1, width=width)
            more = product(weights, near)
            return most, mixed * jnp.exp((largest - most) * after) + more

        size = together, shared * BLOCK
        found = jnp.full((*size, 1), _LOWEST), jnp.zeros((*size, head_dim + 1))
        for visits, width, masked in ((layout.single, BLOCK, True), (layout.wide, BLOCK * WIDE, False)):
            found = jax.lax.fori_loop(0, visits.counts[block], partial(visit, visits, width, masked), found)
        mixed = found[1]
        return mixed[..., :-1] / mixed[..., -1:]

    # In float32: a loop turns all that it has written so far when it writes bfloat16.
    mixed = rounded(jax.lax.map(attended, jnp.arange(count * number)), value.dtype)
    mixed = mixed.reshape(count, number, together, shared, BLOCK, head_dim).transpose(1, 4, 0, 2, 3, 5)
    return mixed.reshape(-1, heads, head_dim)[: query.shape[0] * query.shape[1]].reshape(query.shape)


def stream_attention(
    query: Float[Array, "B S N H"], key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], layout: Blocks
) -> Float[Array, "B S N H"]:
    """As `blockwise_attention`, by a processor's vectors (`jaxpaint.tiles`)."""
    tokens = query.shape[0] * query.shape[1]
    window = jnp.iinfo(jnp.int32).max if layout.window is None else layout.window
    rows = [layout.ends, layout.positions, jnp.full_like(layout.ends, window)]
    seen = jnp.stack([row[:tokens] for row in rows]).astype(jnp.int32)
    keys, values = (each.reshape(1, tokens, *each.shape[2:]).transpose(0, 2, 1, 3) for each in (key, value))
    found = tiles.attention(query.reshape(1, tokens, *query.shape[2:]), [(keys, values, seen)], query.shape[-1] ** -0.5)
    return found.reshape(query.shape)


def _visible(layout: Blocks, start, width: int, place: Int[Array, " queries"]) -> Bool[Array, "queries keys"]:
    index = start + jnp.arange(width)
    place = place[:, None]
    ends = jax.lax.dynamic_slice_in_dim(layout.ends, start, width)
    visible = (index <= place) & (place < ends)
    if layout.window is None:
        return visible
    positions = jax.lax.dynamic_slice_in_dim(layout.positions, start, width)
    return visible & (layout.positions[place] - positions < layout.window)


def _padded(x: Float[Array, "B S heads H"], multiple: int) -> Float[Array, "T heads H"]:
    """The rows as one stream, topped up with zeros."""
    x = x.reshape(-1, *x.shape[2:])
    return jnp.pad(x, ((0, -len(x) % multiple), (0, 0), (0, 0)))
