"""Attention as one kernel for TPUs: scores never leave the chip, and what is seen is found inside (Pallas).

A running softmax over blocks of keys (FlashAttention, arXiv 2205.14135). Blocks of which no query sees a key are passed
over. Each device computes its own rows and heads. Not differentiable: training has `jaxpaint.models.attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxpaint.models.attention import capped, with_lookback
from jaxpaint.models.sharding import DATA, MODEL

# Tokens of a block, at most, and of the narrowest: a TPU's registers are so wide. Shorter rows have too little in them.
BLOCK, NARROW, SHORTEST = 512, 128, 256
_LOWEST = -1e30


@dataclass(frozen=True)
class Kernel:
    """Of attention, for models whose parameters lie on this mesh (None: on one device)."""

    mesh: Mesh | None = None
    interpret: bool = False

    @staticmethod
    def serves(head_dim: int, key_value_heads: int, mesh: Mesh | None) -> bool:
        """Whether it computes such heads: as wide as registers, and as many on each device."""
        return head_dim % NARROW == 0 and (mesh is None or key_value_heads % mesh.shape[MODEL] == 0)

    def fits(self, length: int) -> bool:
        """Whether it computes rows of so many tokens."""
        return length >= SHORTEST and length % NARROW == 0


class Seen(NamedTuple):
    """Which keys each query sees, as `jaxpaint.models.attention.visibility` says, without a mask of S * S.

    Keys are those of rows before the query's and its own, places counted from the start of its own row: query i sees
    key c of place p when `p <= i < ends[c]` and, where there is a window, `positions[i] - key_positions[c] < window`.
    """

    ends: Int[Array, "B keys"]
    positions: Int[Array, "B S"]
    key_positions: Int[Array, "B keys"]
    window: Int[Array, "*kinds"] | None

    def of_kind(self, kind: int | Int[Array, ""]) -> Seen:
        """What a layer of this kind reads."""
        return self if self.window is None else self._replace(window=self.window[kind])


def seen(
    positions: Int[Array, "B S"],
    visible_until: Int[Array, "B S"],
    windows: Sequence[int | None] = (None,),
    lookback: int = 0,
) -> Seen:
    """Arguments as `jaxpaint.models.attention.visibility` takes them."""
    length = visible_until.shape[1]
    before = jnp.repeat(jnp.arange(lookback, -1, -1) * length, length)
    # A window that no distance reaches is none.
    beyond = jnp.iinfo(jnp.int32).max
    bounds = jnp.array([beyond if window is None else window for window in windows], jnp.int32)
    window = None if set(windows) == {None} else bounds if len(windows) > 1 else bounds[0]
    ends = with_lookback(visible_until, lookback) - before
    return Seen(ends, positions, with_lookback(positions, lookback), window)


def kernel_attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    layout: Seen,
    kernel: Kernel,
    cap: float | None = None,
) -> Float[Array, "B S N H"]:
    """As `jaxpaint.models.attention.attention`, of rows laid out as `layout` says."""
    lookback = layout.ends.shape[1] // query.shape[1] - 1
    key, value = with_lookback(key, lookback), with_lookback(value, lookback)
    attend = partial(_attended, cap=cap, interpret=kernel.interpret)
    if kernel.mesh is None:
        return attend(query, key, value, layout)
    rows = DATA if query.shape[0] % kernel.mesh.shape[DATA] == 0 else None
    heads, own = PartitionSpec(rows, None, MODEL), PartitionSpec(rows)
    window = None if layout.window is None else PartitionSpec()
    of_layout: Any = Seen
    places = heads, heads, heads, of_layout(own, own, own, window)
    # A kernel says nothing of what differs between devices.
    split = jax.shard_map(attend, mesh=kernel.mesh, in_specs=places, out_specs=heads, check_vma=False)
    return split(query, key, value, layout)


def _attended(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B keys K H"],
    value: Float[Array, "B keys K H"],
    layout: Seen,
    *,
    cap: float | None,
    interpret: bool,
) -> Float[Array, "B S N H"]:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import tpu as pltpu

    batch, length, heads, head_dim = query.shape
    keys, groups = key.shape[1:3]
    size = next(size for size in range(BLOCK, 0, -NARROW) if length % size == 0)
    shared, before = heads // groups, (keys - length) // size
    # The last query, by its place, that sees any key of a block.
    reach = layout.ends.reshape(batch, -1, size).max(axis=2)

    def nearest(b, n, i, j, reach):  # what comes after the queries is not fetched
        return b, n // shared, jnp.minimum(j, before + i), 0

    def queries(b, n, i, j, reach):
        return b, n, i, 0

    def of_keys(b, n, i, j, reach):
        return b, 0, jnp.minimum(j, before + i)

    each = pl.BlockSpec((1, 1, size, head_dim), nearest)
    blocks = [pl.BlockSpec((1, 1, size, head_dim), queries), each, each, pl.BlockSpec((1, 1, size), of_keys)]
    arrays = [jnp.moveaxis(array, 1, 2) for array in (query, key, value)] + [layout.ends[:, None]]
    if layout.window is not None:
        # The position of the first token that a query sees.
        first = layout.positions - layout.window + 1
        blocks += [pl.BlockSpec((1, size, 1), lambda b, n, i, j, reach: (b, i, 0)), pl.BlockSpec((1, 1, size), of_keys)]
        arrays += [first[:, :, None], layout.key_positions[:, None]]
    steps = length // size
    visited = steps * before + steps * (steps + 1) // 2  # of [size, size] scores, for a head
    found = pl.pallas_call(
        partial(_step, size=size, before=before, scale=head_dim**-0.5, cap=cap),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(batch, heads, steps, keys // size),
            in_specs=blocks,
            out_specs=pl.BlockSpec((1, 1, size, head_dim), queries),
            scratch_shapes=[pltpu.VMEM((size, width), jnp.float32) for width in (NARROW, NARROW, head_dim)],
        ),
        out_shape=jax.ShapeDtypeStruct((batch, heads, length, head_dim), value.dtype),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "parallel", "arbitrary")),
        cost_estimate=pl.CostEstimate(
            flops=4 * batch * heads * visited * size * size * head_dim,
            transcendentals=batch * heads * visited * size * size,
            bytes_accessed=query.dtype.itemsize * batch * (2 * heads * length + 2 * groups * keys) * head_dim,
        ),
        interpret=interpret,
        name="attention",
    )(reach, *arrays)
    return jnp.moveaxis(found, 2, 1)


def _step(reach, query, key, value, ends, *others, size: int, before: int, scale: float, cap: float | None):
    """One block of queries and one of keys; the running maximum and sum fill whole registers with one number a row."""
    from jax.experimental import pallas as pl

    *window, mixed, largest, total, sum_of_all = others
    i, j = pl.program_id(2), pl.program_id(3)
    exactly = jax.lax.Precision.HIGHEST if query.dtype == jnp.float32 else jax.lax.Precision.DEFAULT
    multiply = partial(jax.lax.dot_general, precision=exactly, preferred_element_type=jnp.float32)

    @pl.when(j == 0)
    def begin():
        largest[...] = jnp.full_like(largest, _LOWEST)
        total[...] = jnp.zeros_like(total)
        sum_of_all[...] = jnp.zeros_like(sum_of_all)

    @pl.when((j <= before + i) & (reach[pl.program_id(0), jnp.minimum(j, before + i)] > i * size))
    def visit():
        scores = capped(multiply(query[0, 0], key[0, 0], (((1,), (1,)), ((), ()))) * scale, cap)
        place = i * size + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 0)
        index = (j - before) * size + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
        visible = (index <= place) & (place < ends[0, 0][None, :])
        if window:
            first, positions = window
            visible &= positions[0, 0][None, :] >= first[0]
        scores = jnp.where(visible, scores, _LOWEST)
        most = jnp.maximum(largest[...], scores.max(axis=1, keepdims=True))
        weights = jnp.where(visible, jnp.exp(scores - most[:, :1]), 0.0)
        earlier = jnp.exp(largest[...] - most)
        more = multiply(weights.astype(value.dtype), value[0, 0], (((1,), (0,)), ((), ())))
        largest[...] = most
        total[...] = earlier * total[...] + weights.sum(axis=1, keepdims=True)
        sum_of_all[...] = earlier[:, :1] * sum_of_all[...] + more

    @pl.when(j == pl.num_programs(3) - 1)
    def end():
        mixed[0, 0] = (sum_of_all[...] / total[:, :1]).astype(mixed.dtype)
