"""What is compiled: prefilling a chunk of prompts, and decoding all rows, for any plan given as data.

The caches are only read inside a plan's layers; what a token adds is gathered beside them and written once a step, so
that no loop copies a cache.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.engine import interpreted
from jaxpaint.engine.lanes import Lanes, follow_each_with
from jaxpaint.engine.layers import layer_of, run_layer
from jaxpaint.generation.adjust import adjusted
from jaxpaint.generation.cache import Rows, Slots, Stored, Texts, averaged
from jaxpaint.generation.sampling import next_tokens
from jaxpaint.models.attention import Past, within
from jaxpaint.models.narrow import moved, taken

# Tokens written between two looks of the host, at most.
STRETCH = 32


class Stretch(NamedTuple):
    """What changes before a stretch of at most `steps` tokens a row, and whether prompts wait for rows in it.

    Rows stop, and the first `number` of the texts are put into `rows`; `starts` are the places of their prompts' own
    parts among the stored tokens, `seen` the tokens that they hold so far, None where nothing depends on them.
    """

    steps: int
    waiting: bool

    stop: Bool[Array, " B"]
    number: Int[Array, ""]
    rows: Int[Array, " B"]
    starts: Int[Array, " B"]
    texts: Texts
    seen: Bool[Array, "B V"] | None = None


@jit("graphdef", "part", "room", "trunk_room", "lookback", donate=("stored",))
def prefill(
    graphdef, state, layers, part, instructions, length, room, before, x, stored, number, chunk, trunk_room, lookback
):
    """The hidden state of a chunk after a part of a plan, and the store with that part's keys and values in it.

    Args:
        layers: See `jaxpaint.engine.model.Model.layers`.
        part: Compiled where it is given, and then instructions play no part.
        before: Attentions of the plan before the part: its first slot. At 0 the chunk's embeddings are run.
        x: The chunk's hidden state [1, chunk, D] before the part.
        number: The chunk's, which is its place in the store.
        chunk: Its tokens, positions, visible_until and trunk_seen, as in `jaxpaint.generation.layout.Wave`.
        lookback: 0, or None for attention block by block, where there is no trunk.
    """
    assert not (trunk_room and lookback is None)
    if isinstance(instructions, Lanes):

        def of_lane(instructions, gather, stored, state, length, before, x, number, chunk):
            what = graphdef, state, None, None, instructions, length, room
            return _prefill(*what, before, x, stored, number, chunk, trunk_room, lookback, gather)

        return follow_each_with(instructions, of_lane, stored, state, length, before, x, number, chunk)
    what = graphdef, state, layers, part, instructions, length, room
    return _prefill(*what, before, x, stored, number, chunk, trunk_room, lookback, None)


def _prefill(
    graphdef,
    state,
    layers,
    part,
    instructions,
    length,
    room,
    before,
    x,
    stored,
    number,
    chunk,
    trunk_room,
    lookback,
    gather,
):
    model = nnx.merge(graphdef, state)
    tokens, positions, visible_until, trunk_seen = chunk
    run = _layers(model, layers)
    x = jnp.where(before == 0, model.embed(tokens, positions), x)
    context = model.context(positions, visible_until, lookback)
    place = number * tokens.shape[1]
    index = jnp.arange(trunk_room)
    visible = jnp.broadcast_to(index < trunk_seen, (*positions.shape, trunk_room))
    seen = jnp.expand_dims(within(model.windows, visible, positions[..., None] - index), -3)
    # Apart from what layers write to, so that no loop copies it.
    trunk = jax.tree.map(lambda array: array[:, :, :trunk_room], stored)

    def layer(index, ran, portion, x, stored):
        if portion.part == "mlp":
            return run(index, portion, x, context, [])[0], stored
        slot = before + ran
        pasts = [_of_slot(trunk, slot, seen)] if trunk_room else []
        x, keys_values = run(index, portion, x, context, pasts)
        each = zip(stored, keys_values, strict=True)
        return x, Stored(*(_put(memory, new[0], slot, place) for memory, new in each))

    if part is None:
        return interpreted.follow(layer, instructions, length, room, x, stored, gather)
    return interpreted.follow_plan(layer, part, x, stored)


def _by_default_library(*arguments: Any) -> bool:
    """Of `decode`'s arguments. Eigen, fast with few rows in float32, turns every weight into it (docs/log.md)."""
    return arguments[-1] or arguments[8].key.dtype == jnp.bfloat16


@jit("graphdef", "plan", "room", "shape", "transposed", donate=("rows",), default_products=_by_default_library)
def decode(
    graphdef,
    state,
    layers,
    plan,
    program,
    room,
    shape,
    trunk,
    stored,
    rows,
    stretch,
    ends,
    drawing,
    first,
    transposed,
):
    """`(rows, tokens [STRETCH, B], finite [B])` after a stretch; -1 where none was written.

    Ends early when all rows are done, or when one is and a prompt waits for it. A row whose logits are not finite is
    done. `program` are instructions and their number; with a `plan`, it is compiled, and they play no part. `trunk`
    counts the shared tokens, `ends` are the token ids that end a text (padded with -1), `drawing` is how a token is
    chosen (`Sampling.data`, and `Adjustments` or None), and `first` groups the slots of a mean cache, None for an
    exact one. `transposed` says whether graphdef and layers are a `jaxpaint.engine.model.Model.transposed`.
    """
    instructions, length = program
    if not isinstance(instructions, Lanes):
        what = graphdef, state, layers, plan, instructions, length, room, shape
        return _decode(*what, trunk, stored, rows, stretch, ends, drawing, first, None)
    assert plan is None
    assert first is None

    def of_lane(instructions, gather, own, state, length, trunk, rows, stretch, ends, drawing):
        (key, value), stored = own
        what = graphdef, state, None, None, instructions, length, room, shape
        rows = rows._replace(key=key, value=value)
        rows, *written = _decode(*what, trunk, stored, rows, stretch, ends, drawing, None, gather)
        return (rows._replace(key=(), value=()), *written), (rows.key, rows.value)

    others = state, length, trunk, rows._replace(key=(), value=()), stretch, ends, drawing
    (rest, *written), (key, value) = follow_each_with(instructions, of_lane, ((rows.key, rows.value), stored), *others)
    return (rest._replace(key=key, value=value), *written)


def _decode(
    graphdef,
    state,
    layers,
    plan,
    instructions,
    length,
    room,
    shape,
    trunk,
    stored,
    rows,
    stretch,
    ends,
    drawing,
    first,
    gather,
):
    trunk_room, own_room = shape.trunk, shape.own
    model = nnx.merge(graphdef, state)
    run = _layers(model, layers)
    rows = _admit(rows, stored, stretch, own_room)
    was_free = rows.texts.left == 0
    number_of_rows, ring = rows.made.shape[0], rows.key[0].shape[-2] - own_room
    trunk_index, own_index = jnp.arange(trunk_room), jnp.arange(own_room)
    shared = jax.tree.map(lambda array: array[:, :, :trunk_room][:, None], stored)
    if plan is not None:
        shared = jax.tree.map(lambda array: tuple(array[slot] for slot in range(plan.attentions)), shared)

    # Computed in the loop, cosines and sines would be anew in every layer of a plan that is compiled.
    positions = rows.texts.position[:, None] + jnp.arange(STRETCH)
    turns = model.context(positions, jnp.ones_like(positions))

    def more(carry):
        i, rows, _, _ = carry
        freed = ((rows.texts.left == 0) & ~was_free).any()
        return (i < stretch.steps) & (rows.texts.left > 0).any() & ~(freed & stretch.waiting)

    def step(carry):
        i, rows, written, finite = carry
        texts = rows.texts
        position = texts.position[:, None]
        context = model.context(position, jnp.ones_like(position))
        context = context._replace(cos=_of_step(turns.cos, i), sin=_of_step(turns.sin, i))
        age = (rows.column - 1 - jnp.arange(ring)) % ring

        def seen(visible, distance):
            return jnp.expand_dims(within(model.windows, visible, distance), (-3, -2))

        trunk_seen = seen(jnp.broadcast_to(trunk_index < trunk, (number_of_rows, trunk_room)), position - trunk_index)
        own_seen = seen(own_index < texts.own_length[:, None], position - trunk - own_index)
        made_seen = seen(age < rows.made[:, None], jnp.broadcast_to(age + 1, (number_of_rows, ring)))
        row_seen = jnp.concatenate([own_seen, made_seen], axis=-1)

        def layer(index, slot, portion, x, memory):
            if portion.part == "mlp":
                return run(index, portion, x, context, [])[0], memory
            pasts = [
                Past(_at(shared.key, slot), _at(shared.value, slot), trunk_seen),
                Past(_at(rows.key, slot), _at(rows.value, slot), row_seen),
            ]
            x, keys_values = run(index, portion, x, context, pasts if trunk_room else pasts[1:])
            return x, tuple(_added(each, new, slot) for each, new in zip(memory, keys_values, strict=True))

        x = model.embed(texts.token[:, None], position)
        key: Slots
        value: Slots
        if plan is None:
            nothing = jnp.zeros((len(rows.key), *rows.key[0][..., :1, :].shape), rows.key[0].dtype)
            x, (key, value) = interpreted.follow(layer, instructions, length, room, x, (nothing, nothing), gather)
        else:
            x, (key, value) = interpreted.follow_plan(layer, plan, x, ((), ()))
        if first is not None:
            key, value = (averaged(jnp.stack(each), first[: len(each)]) for each in (key, value))
        logits = model.logits(x[:, 0])
        token = _chosen(logits, rows.seen, texts, drawing)
        # Always 0, but known after all layers only: what they read is not copied for what is then written in its place.
        column = own_room + rows.column + jnp.minimum(token.min(), 0)
        active = texts.left > 0
        good = jnp.isfinite(logits).all(axis=-1)
        left = jnp.where(good & ~(token[:, None] == ends).any(axis=-1), texts.left - 1, 0)
        return (
            i + 1,
            rows._replace(
                key=_in_column(rows.key, key, column),
                value=_in_column(rows.value, value, column),
                texts=texts._replace(token=token, position=texts.position + 1, left=jnp.where(active, left, 0)),
                made=jnp.minimum(rows.made + 1, ring),
                column=(rows.column + 1) % ring,
                seen=None if rows.seen is None else rows.seen.at[jnp.arange(number_of_rows), token].set(True),
            ),
            written.at[i].set(jnp.where(active & good, token, -1)),
            finite & (good | ~active),
        )

    written = jnp.full((STRETCH, number_of_rows), -1, jnp.int32)
    _, rows, written, finite = jax.lax.while_loop(more, step, (0, rows, written, jnp.ones(number_of_rows, bool)))
    return rows, written, finite


@jit()
def begin_with_means(graphdef, state, stored, first, hidden, last, texts, seen, drawing):
    """For a mean cache: `(stored, tokens, finite)`, the store averaged over groups and each prompt's first new token.

    The first token comes of the prompts as they were read, each layer seeing its own keys and values: `hidden` are the
    chunks' last hidden states [1, chunk, D], `last` the places of the prompts' last tokens in them. `texts` are the
    prompts with nothing written, `seen` and `drawing` as in `decode`.
    """
    model = nnx.merge(graphdef, state)
    logits = model.logits(jnp.concatenate(hidden, axis=1)[0, last])
    tokens = _chosen(logits, seen, texts, drawing)
    averages = Stored(averaged(stored.key, first), averaged(stored.value, first))
    return averages, tokens, jnp.isfinite(logits).all(axis=-1)


def _chosen(logits, seen, texts: Texts, drawing) -> Int[Array, " B"]:
    """Each row's next token."""
    sampling, changes = drawing
    if changes is not None:
        logits = adjusted(logits, seen, texts.position + 1, texts.prompt_length, texts.left, changes)
    return next_tokens(logits, texts.prompt, texts.position, sampling)


def _of_step(table, i):
    return None if table is None else jax.lax.dynamic_slice_in_dim(table, i, 1, axis=-3)


def _layers(model, layers):
    """`(index, portion, x, context, pasts) -> (x, keys and values)` of one of `layers`, if given, or the model's."""
    graphdef, stacked = nnx.split(model.blocks)

    def block(parameters, x, context, pasts, beside=None, **part):
        return layer_of(graphdef, parameters, beside).with_past(x, context, pasts, **part)

    def run(index, portion, x, context, pasts):
        if model.layer_kinds is not None:  # there is a mask for each
            kind = jnp.array(model.layer_kinds)[index]
            context, pasts = context.of_kind(kind), [past._replace(mask=past.mask[kind]) for past in pasts]
        return run_layer(block, stacked if layers is None else layers, index, x, context, pasts, portion=portion)

    return run


def _admit(rows: Rows, stored: Stored, stretch: Stretch, own_room: int) -> Rows:
    rows = rows._replace(texts=rows.texts._replace(left=jnp.where(stretch.stop, 0, rows.texts.left)))

    own = partial(jax.lax.dynamic_slice_in_dim, slice_size=own_room, axis=2)

    def admit(i, rows):
        row = stretch.rows[i]

        def copied(cache, store):
            part = moved(own, store, stretch.starts[i])
            if isinstance(cache, tuple):
                return tuple(
                    moved(partial(jax.lax.dynamic_update_slice_in_dim, axis=0), each, part[slot, None], row)
                    for slot, each in enumerate(cache)
                )
            return moved(partial(jax.lax.dynamic_update_slice_in_dim, axis=1), cache, part[:, None], row)

        return rows._replace(
            key=copied(rows.key, stored.key),
            value=copied(rows.value, stored.value),
            texts=jax.tree.map(lambda old, new: old.at[row].set(new[i]), rows.texts, stretch.texts),
            made=rows.made.at[row].set(0),
            seen=None if rows.seen is None or stretch.seen is None else rows.seen.at[row].set(stretch.seen[i]),
        )

    return jax.lax.fori_loop(0, stretch.number, admit, rows)


def _of_slot(stored: Stored, slot: Array, seen: Bool[Array, "B 1 T trunk"]) -> Past:
    """The tokens of a slot, shared by all rows."""
    return Past(taken(stored.key, slot)[None], taken(stored.value, slot)[None], seen)


def _at(cache: Slots, slot: int | Array) -> Float[Array, "rows K tokens H"]:
    return cache[slot] if isinstance(cache, tuple) else taken(cache, slot)


def _in_column(cache: Slots, new: Slots, column: Array) -> Slots:
    """The cache with a token's keys or values of all slots in a column."""
    if isinstance(cache, tuple):
        written = [
            moved(partial(jax.lax.dynamic_update_slice_in_dim, axis=2), each, new[slot], column)
            for slot, each in enumerate(cache[: len(new)])
        ]
        return (*written, *cache[len(new) :])
    return moved(partial(jax.lax.dynamic_update_slice_in_dim, axis=3), cache, jnp.asarray(new), column)


def _added(memory: Slots, new: Float[Array, "B 1 K H"], slot: int | Array) -> Slots:
    """A token's keys or values, those of one more layer among them."""
    return (*memory, jnp.swapaxes(new, -3, -2)) if isinstance(memory, tuple) else _put(memory, new, slot)


def _put(memory: Float[Array, "slots ..."], new: Float[Array, "... S K H"], slot: int | Array, place: Any = 0) -> Array:
    """The memory with one layer's keys or values, heads before tokens, in a slot from a place on."""

    def put(memory: Array, new: Array, slot: Any, place: Any) -> Array:
        return jax.lax.dynamic_update_slice(memory, new[None], (slot, *[0] * (new.ndim - 2), place, 0))

    return moved(put, memory, jnp.swapaxes(new, -3, -2), slot, place)
