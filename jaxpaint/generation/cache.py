"""Keys and values of a plan's executed layers: one slot for each time that a layer runs.

A layer that is repeated, each iteration of a loop and each branch of a parallel group has its own slot, numbered in the
order that they run (`jaxpaint.engine.program`): the *exact* cache, under which generation equals plain forward
passes of the plan. The *mean* cache is that of the paper's released code: the slots of a parallel group hold the mean
of what its layers computed, each iteration its own, and a layer sees its own keys and values of the token at hand
only. There, reading a prompt still uses each layer's own.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.generation.layout import Shape
from jaxpaint.models.sharding import by_lane, lanes, with_lanes
from jaxpaint.plans.nodes import Weighted, attentions
from jaxpaint.plans.plan import Layer, Parallel, Plan
from jaxpaint.plans.tree import units

CacheKind: TypeAlias = Literal["exact", "mean"]
Arrays = TypeVar("Arrays")


# [slots, B, K, tokens, H], or for each slot [B, K, tokens, H].
Slots: TypeAlias = Float[Array, "slots B K tokens H"] | tuple[Float[Array, "B K tokens H"], ...]


class Stored(NamedTuple):
    """Keys and values of the prefilled tokens of a wave of prompts, the trunk's first."""

    key: Float[Array, "slots K stored H"]
    value: Float[Array, "slots K stored H"]


class Texts(NamedTuple):
    """Texts under way, by number of their `prompt`, of whose own part `own_length` tokens stand in the row.

    `token` is fed next, at `position`; `left` counts the tokens that may still be written, 0 where a row is idle.
    `prompt_length` counts the tokens of the whole prompt.
    """

    own_length: Int[Array, " B"]
    token: Int[Array, " B"]
    position: Int[Array, " B"]
    left: Int[Array, " B"]
    prompt: Int[Array, " B"]
    prompt_length: Int[Array, " B"]


class Rows(NamedTuple):
    """The texts under way, one a row: their prompts' own parts, and after them a ring of what was written since.

    Keys and values are one array of all slots, or where the plan itself is compiled a tuple with an array for each.
    All rows write the ring's same `column`; a row sees the last `made` before it. `seen` are the tokens that a row's
    text holds, None where nothing depends on them.
    """

    key: Slots
    value: Slots
    texts: Texts
    made: Int[Array, " B"]
    column: Int[Array, ""]
    seen: Bool[Array, "B V"] | None = None


def token_bytes(model: Model) -> int:
    """Of one token's keys and values in one slot."""
    config = model.config
    return 2 * config.num_key_value_heads * config.head_dim * model.dtype.itemsize


def empty(model: Model, shape: Shape, *, by_slot: bool, with_seen: bool = False) -> tuple[Stored, Rows]:
    """Caches without content; with `by_slot` an array for each of the rows' slots, `with_seen` the tokens of texts.

    Over lanes (`jaxpaint.engine.lanes`) keys and values have one more axis before the others, and each lane fills the
    slots of the layers that it runs.
    """
    return beside(model, _empty(model.config, shape, model.dtype, by_slot, with_seen, with_lanes(model.mesh)))


@jit("config", "shape", "dtype", "by_slot", "with_seen", "mesh")
def _empty(config, shape, dtype, by_slot, with_seen, mesh):
    heads, head_dim = config.num_key_value_heads, config.head_dim

    def zeros(*sizes: int) -> Array:
        if mesh is not None:
            return jnp.zeros((lanes(mesh), *sizes, head_dim), dtype, device=by_lane(mesh))
        return jnp.zeros((*sizes, head_dim), dtype)

    def slots(*sizes: int) -> Slots:
        return tuple(zeros(*sizes) for _ in range(shape.slots)) if by_slot else zeros(shape.slots, *sizes)

    stored = Stored(*(zeros(shape.slots, heads, shape.stored) for _ in range(2)))
    key, value = (slots(shape.rows, heads, shape.own + shape.made) for _ in range(2))
    texts = Texts(*(jnp.zeros(shape.rows, jnp.int32) for _ in Texts._fields))
    zero = jnp.zeros((), jnp.int32)
    seen = jnp.zeros((shape.rows, config.vocab_size), bool) if with_seen else None
    return stored, Rows(key, value, texts, jnp.zeros(shape.rows, jnp.int32), zero, seen)


def beside(model: Model, arrays: Arrays) -> Arrays:
    """The arrays on the model's device, as results are: JAX compiles again for arrays that are bound to no device.

    Over a mesh the compiler decides where they lie.
    """
    if model.mesh is not None:
        return arrays
    (device,) = jax.tree.leaves(model.state)[0].devices()
    return jax.device_put(arrays, device)


def groups(plan: Plan, slots: int) -> Int[np.ndarray, " slots"]:
    """For each slot, the first of those whose mean it holds in a mean cache: itself outside of parallel groups.

    Raises:
        UserError: a parallel group has a branch that is not one layer; the released code has no such groups.
    """
    found, slot = np.arange(slots, dtype=np.int32), 0
    for unit in units(plan):
        size = attentions(unit)
        if isinstance(unit, Weighted):
            own = Plan.of(unit.body)
            found[slot : slot + size] = slot + groups(own, size)
        if isinstance(unit, Parallel):
            if not all(isinstance(branch, Layer) for branch in unit.branches):
                raise UserError(
                    f"plan {plan}: a mean cache is defined for parallel groups of single layers only; use --kv exact"
                )
            found[slot : slot + size] = slot
        slot += size
    return found


def averaged(array: Float[Array, "slots ..."], first: Int[Array, " slots"]) -> Float[Array, "slots ..."]:
    """The mean over the slots of each group, in all of its slots. `first` is from `groups`."""
    slots = array.shape[0]
    size = jnp.zeros(slots).at[first].add(1.0)
    total = jax.ops.segment_sum(array.astype(jnp.float32), first, slots)
    mean = total / jnp.maximum(size, 1).reshape(-1, *[1] * (array.ndim - 1))
    return mean[first].astype(array.dtype)
