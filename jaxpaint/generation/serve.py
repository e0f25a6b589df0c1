"""Many prompts under many plans: what plans and prompts share is prefilled once, and rows never idle while one waits.

For each wave of prompts the plans' tree is walked depth first (`jaxpaint.engine.walk`). A part of the tree writes the
slots of its own layers, so where a plan ends, the slots of all its layers are filled for all prompts, and the plans
that part from it later keep what they share. Then the plan's rows are decoded, in stretches; between two of them texts
that ended leave their rows to prompts that wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxpaint.base.budgets import budgets, held_state_bytes, on_cpu
from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import on_host
from jaxpaint.engine.grouping import row_length
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.layers import SMALL_LAYER_BYTES, are_apart, layer_bytes
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import Program
from jaxpaint.engine.walk import shards, walk
from jaxpaint.generation import cache
from jaxpaint.generation import decode as engine
from jaxpaint.generation.adjust import adjustments, seen_tokens
from jaxpaint.generation.border import Part, beyond, parts, require_one_side
from jaxpaint.generation.cache import CacheKind, Rows, Stored, Texts
from jaxpaint.generation.layout import Layout, Wave, lay_out
from jaxpaint.generation.sampling import GREEDY, Sampling
from jaxpaint.generation.settings import GenerationSettings, generation_settings
from jaxpaint.generation.text import stopped
from jaxpaint.models.family import require_lm_head
from jaxpaint.models.sharding import lanes
from jaxpaint.models.tiled import all_tiled
from jaxpaint.plans.plan import Plan

Ending: TypeAlias = Literal["end", "stop", "length", "not finite"]
# A plan compiled layer by layer takes a quarter of a second for each.
MOST_STATIC_LAYERS = 64
EMPTY = "the prompt is empty; give at least one token to go on from"
# Tokens of a chunk beyond which a CPU attends block by block: as fast there, and compiled in less time (docs/log.md).
LONG_CHUNK = 1024
# Tokens between two searches for stop strings: what is written after one is thrown away.
SEARCH_EVERY = 8
SHOW_EVERY = 2  # where someone watches


@dataclass(frozen=True)
class Prompt:
    """Token ids to go on from, at most `max_new_tokens` of them, up to the first of the strings in `stop`."""

    tokens: tuple[int, ...]
    max_new_tokens: int
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Continuation:
    """What a plan (by index) wrote after a prompt (by index): token ids, and why it ended.

    `end`: a token that ends texts, which is `end` and not among the tokens; `stop`: a stop string, which the tokens
    still hold; `length`: `max_new_tokens`; `not finite`: logits that are no numbers, before which the tokens end.
    """

    plan: int
    prompt: int
    tokens: tuple[int, ...]
    ending: Ending
    end: int | None = None


def generate(
    model: Model,
    prompts: Sequence[Prompt],
    plans: Sequence[Plan],
    *,
    sampling: Sampling = GREEDY,
    settings: GenerationSettings | None = None,
    kv: CacheKind = "exact",
    static: bool | None = None,
    batch_size: int | None = None,
    cache_bytes: int | None = None,
    room: int = 0,
    on_tokens: Callable[[int, int, tuple[int, ...]], None] | None = None,
) -> Iterator[Continuation]:
    """Continues every prompt under every plan; continuations come as they end. Mistakes are told at once.

    Args:
        settings: Where texts end and what else changes them, in place of what the checkpoint says. Texts end at the
            tokenizer's end of sequence, too.
        kv: What a cache slot of a parallel group holds; see `jaxpaint.generation.cache`.
        static: Compile the plan into decoding, one executable a plan, where every layer and slot is read in place; by
            default where there is a single plan of few layers and each layer lies by itself (`Model.layers`).
        batch_size: Texts under way at once. By default 16 on a CPU and 64 on an accelerator.
        cache_bytes: Memory for keys and values; fewer texts are under way where it has no room for more.
        room: New tokens that a text has room for, where no prompt asks for as many: calls with prompts of like lengths
            and equal room share executables.
        on_tokens: Told of a plan, a prompt and the tokens just written, in order, as they come.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: an empty prompt; one that with its new tokens is longer than the model's context; a plan, or a text
            (`jaxpaint.generation.border`), that a mean cache is not defined for; a cache that does not fit; generation
            settings that cannot be.
    """
    require_lm_head(model.config, "writing text")
    check_prompts(model, prompts)
    by_slots: dict[int, list[int]] = {}
    for index, plan in enumerate(plans):
        plan.validate(model.num_layers)
        by_slots.setdefault(row_length(plan.attentions), []).append(index)
        if kv == "mean":
            require_one_side(model, prompts)
            cache.groups(plan, plan.attentions)
    if lanes(model.mesh) > 1 and (kv == "mean" or static):
        what = "a mean cache" if kv == "mean" else "a plan that is compiled in"
        raise UserError(
            f"{what} is not written with over lanes of devices; leave layer_parallel at 1, or kv and static"
        )
    if static is None:
        in_place = (all_tiled(model.state["blocks"]) or model.layers is not None) and lanes(model.mesh) == 1
        static = len(plans) == 1 and plans[0].applications <= MOST_STATIC_LAYERS and in_place
    settings = generation_settings(model) if settings is None else settings
    budget = cache_bytes or budgets().cache_bytes
    rows = batch_size or budgets().generation_rows

    def each() -> Iterator[Continuation]:
        """Plans of about as many layers together: the cache has as many slots as the longest needs."""
        for slots, indices in sorted(by_slots.items()) if prompts else ():
            for part in parts(model, prompts, settings):
                reached: dict[int, dict[int, tuple[int, ...]]] = {}
                for found in written(part, slots, indices, {}):
                    if part.crossing and found.ending == "length":
                        reached.setdefault(found.plan, {})[found.prompt] = found.tokens
                    else:
                        yield found
                for index, begun in reached.items():
                    yield from written(beyond(model, prompts, settings, begun), slots, [index], begun)

    def written(
        part: Part, slots: int, indices: Sequence[int], begun: Mapping[int, tuple[int, ...]]
    ) -> Iterator[Continuation]:
        """What plans go on with after prompts of which `begun` are written already."""
        texts = [(*prompt.tokens, *begun.get(number, ())) for number, prompt in part.prompts.items()]
        layout = lay_out(
            # Decoding begins with a prompt's last token. With a mean cache that one, too, must see the prompt as it was
            # read.
            [text[: None if kv == "mean" else -1] for text in texts],
            max(room, *(prompt.max_new_tokens for prompt in part.prompts.values())),
            slots=slots,
            chunk_tokens=budgets().prefill_tokens,
            batch_size=rows,
            least_rows=budgets().least_rows,
            token_bytes=cache.token_bytes(model),
            cache_bytes=budget,
        )
        chosen = {index: plans[index] for index in indices}
        yield from _Run(part, chosen, part.numbered(layout), begun, sampling, kv, static, on_tokens).all()

    return each()


def check_prompts(model: Model, prompts: Sequence[Prompt]) -> None:
    """Raises UserError for prompts that cannot be gone on from: see `generate`."""
    room, vocabulary = model.config.max_position_embeddings, model.config.vocab_size
    for prompt in prompts:
        if not prompt.tokens:
            raise UserError(EMPTY)
        if not all(isinstance(number, Integral) for number in (prompt.max_new_tokens, *prompt.tokens)):
            numbers = f"{prompt.max_new_tokens!r} new tokens after {str(prompt.tokens)[:60]}"
            raise UserError(f"{numbers}: how many tokens, and their ids, are whole numbers")
        if prompt.max_new_tokens < 1:
            raise UserError(f"{prompt.max_new_tokens} new tokens; expected 1 or more")
        if max(prompt.tokens) >= vocabulary or min(prompt.tokens) < 0:
            raise UserError(
                f"token ids span {min(prompt.tokens)} to {max(prompt.tokens)}, but the vocabulary has {vocabulary} "
                "entries"
            )
        excess = len(prompt.tokens) + prompt.max_new_tokens - room
        if excess > 0:
            raise UserError(
                f"a prompt of {len(prompt.tokens)} tokens and {prompt.max_new_tokens} new ones are {excess} more than "
                f"the model's {room} positions; shorten the prompt, or ask for fewer new tokens"
            )


class _Run:
    """Prompts and plans (by index) of one cache shape."""

    def __init__(
        self,
        part: Part,
        plans: Mapping[int, Plan],
        layout: Layout,
        begun: Mapping[int, tuple[int, ...]],
        sampling: Sampling,
        kv: CacheKind,
        static: bool,
        on_tokens: Callable[[int, int, tuple[int, ...]], None] | None,
    ) -> None:
        model, settings = part.model, part.settings
        self._model, self._prompts, self._plans, self._layout, self._begun = model, part.prompts, plans, layout, begun
        self._changes = adjustments(settings, model.config.vocab_size)
        self._drawing = tuple(map(np.asarray, sampling.data)), self._changes
        self._mean, self._static, self._on_tokens = kv == "mean", static, on_tokens
        stacked = model.state["blocks"]
        small = not static and not are_apart(stacked) and layer_bytes(stacked) < SMALL_LAYER_BYTES
        in_stack = small or all_tiled(stacked)  # which reads kernels where they lie
        self._layers = None if in_stack else model.layers
        # A single row is read as fast as it lies, in float32.
        few = layout.shape.rows == 1 and model.dtype == jnp.float32
        self._transposed = None if in_stack or few else model.transposed
        self._room = max(Program.of(plan).room for plan in plans.values())
        by_blocks = on_cpu() and shards(model) == 1 and not layout.shape.trunk and layout.shape.chunk > LONG_CHUNK
        self._lookback = None if by_blocks else 0
        self._ends = ending_tokens(model, settings)
        searched = any(any(prompt.stop) for prompt in part.prompts.values())
        self._steps = SHOW_EVERY if on_tokens else SEARCH_EVERY if searched else engine.STRETCH
        self._stored: Stored
        self._rows: Rows
        self._stored, self._rows = cache.empty(model, layout.shape, by_slot=static, with_seen=self._changes is not None)
        self._nothing = cache.beside(model, jnp.zeros((1, layout.shape.chunk, model.config.hidden_size), model.dtype))

    def all(self) -> Iterator[Continuation]:
        shape, indices = self._layout.shape, list(self._plans)
        for number, wave in enumerate(self._layout.waves):
            # A single plan's trunk is still there.
            kept = number > 0 and len(indices) == 1 and not self._mean
            chunks = range(shape.trunk // shape.chunk if kept else 0, len(wave.tokens))

            # Not the walk's hidden state: what prompts share comes before their own parts, so a part of the tree runs
            # chunk by chunk, each reading the keys and values that those before it wrote.
            def advance(
                state: Mapping[int, Array], part: Plan, before: int, wave: Wave = wave, chunks: range = chunks
            ) -> Mapping[int, Array]:
                return {chunk: self._prefill(wave, chunk, state.get(chunk), part, before) for chunk in chunks}

            size = wave.tokens.size * self._model.config.hidden_size * self._model.dtype.itemsize
            start: Mapping[int, Array] = {}
            for ends, hidden, _ in walk(list(self._plans.values()), start, advance, held_state_bytes() // size):
                plan, *others = (indices[end] for end in ends)
                for found in self._decode(wave, hidden, plan):
                    yield found
                    # Plans that are equal write the same.
                    yield from (replace(found, plan=other) for other in others)
                del hidden

    def _prefill(self, wave: Wave, number: int, x: Array | None, part: Plan, before: int) -> Array:
        model, room = self._model, self._layout.shape.trunk
        layout = wave.tokens, wave.positions, wave.visible_until, wave.trunk_seen
        chunk = tuple(array[number, None] for array in layout)
        compiled = part if self._static and are_apart(model.state["blocks"]) else None
        # Most parts are series, to which room for groups costs time: two executables.
        own = 0 if part.is_series else self._room
        what = model.graphdef, model.state, self._layers, compiled, *as_data(part, model.mesh), own
        x = self._nothing if x is None else x
        x, self._stored = engine.prefill(*what, before, x, self._stored, number, chunk, room, self._lookback)
        return x

    def _decode(self, wave: Wave, hidden: Mapping[int, Array], index: int) -> Iterator[Continuation]:
        """Continues the wave's prompts under a plan whose slots are filled; `hidden` are their last hidden states."""
        shape, plan = self._layout.shape, self._plans[index]
        texts: dict[int, list[int]] = {prompt: [*self._begun.get(prompt, ())] for prompt in wave.prompts}
        waiting = deque(range(len(wave.prompts)))
        stored, slots = self._stored, None
        if self._mean:
            slots = cache.groups(plan, shape.slots)
            stored, first, finite = self._begin_with_means(wave, hidden, slots)
            for place, prompt in enumerate(wave.prompts):
                fresh = [int(first[place])] if finite[place] else []
                goes_on = self._prompts[prompt].max_new_tokens > 1
                if found := self._continued(index, prompt, texts[prompt], fresh, goes_on, bool(finite[place])):
                    waiting.remove(place)
                    yield found
        in_row: list[int | None] = [None] * shape.rows
        stop = np.ones(shape.rows, bool)  # whoever ran last may have left before its rows were done
        while waiting or any(prompt is not None for prompt in in_row):
            number, columns, seen = self._admit(wave, waiting, in_row, texts)
            rows, starts, *fed = map(jnp.asarray, columns)
            changes = jnp.asarray(stop), jnp.asarray(number), rows, starts, Texts(*fed), seen
            stretch = engine.Stretch(self._steps, bool(waiting), *changes)
            written, left, good = self._stretch(plan, stored, slots, stretch)
            stop = np.zeros(shape.rows, bool)
            for row, occupant in enumerate(in_row):
                if occupant is None:
                    continue
                fresh = [int(token) for token in written[:, row] if token >= 0]
                if found := self._continued(index, occupant, texts[occupant], fresh, bool(left[row]), bool(good[row])):
                    in_row[row], stop[row] = None, left[row] > 0
                    yield found

    def _continued(
        self, index: int, prompt: int, text: list[int], fresh: list[int], goes_on: bool, finite: bool
    ) -> Continuation | None:
        """Adds fresh tokens to a text; its continuation if it has ended."""
        text += fresh
        if self._on_tokens and fresh:
            self._on_tokens(index, prompt, tuple(token for token in fresh if token not in self._ends))
        ending = self._ending(prompt, text, goes_on, finite)
        if ending is None:
            return None
        tokens, end = (text[:-1], text[-1]) if ending == "end" else (text, None)
        return Continuation(index, prompt, tuple(tokens), ending, end)

    def _admit(
        self, wave: Wave, waiting: deque[int], in_row: list[int | None], texts: Mapping[int, list[int]]
    ) -> tuple[int, np.ndarray, Array | None]:
        """Puts prompts that wait (by their places in the wave) into free rows, each with what it has written.

        How many, and of each: row, start of its own part, and the numbers of `Texts`, [8, rows]; what they have seen.
        """
        entries, whole = [], []
        for row, occupant in enumerate(in_row):
            if occupant is None and waiting:
                place = waiting.popleft()
                in_row[row] = prompt = wave.prompts[place]
                asked, made = self._prompts[prompt], texts[prompt]
                last = len(asked.tokens) + len(made) - 1
                token = made[-1] if made else asked.tokens[-1]
                length = len(asked.tokens)
                text = last - self._layout.trunk, token, last, asked.max_new_tokens - len(made), prompt, length
                whole.append((*asked.tokens, *made))
                entries.append((row, wave.starts[place], *text))
        columns = np.zeros((8, len(in_row)), np.int32)
        if entries:
            columns[:, : len(entries)] = np.array(entries, np.int32).T
        return len(entries), columns, self._seen(whole, len(in_row))

    def _seen(self, texts: list[tuple[int, ...]], rows: int) -> Array | None:
        if self._changes is None:
            return None
        return jnp.asarray(seen_tokens(texts, rows, self._model.config.vocab_size))

    def _stretch(
        self, plan: Plan, stored: Stored, first: np.ndarray | None, stretch: engine.Stretch
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Decodes all rows for a while: tokens [steps, rows], -1 where there is none, what is left, and if finite."""
        model, layout, program = self._model, self._layout, as_data(plan, self._model.mesh)
        graphdef, layers = self._transposed or (model.graphdef, self._layers)
        what = graphdef, model.state, layers, plan if self._static else None, program, self._room
        where = layout.shape, layout.trunk, stored, self._rows
        how = stretch, self._ends, self._drawing, first, self._transposed is not None
        self._rows, written, finite = engine.decode(*what, *where, *how)
        return on_host(written), on_host(self._rows.texts.left), on_host(finite)

    def _begin_with_means(
        self, wave: Wave, hidden: Mapping[int, Array], slots: np.ndarray
    ) -> tuple[Stored, np.ndarray, np.ndarray]:
        """The store averaged over groups, and each prompt's first new token and whether its logits were finite."""
        shape, trunk, model = self._layout.shape, self._layout.trunk, self._model
        asked = [self._prompts[prompt] for prompt in wave.prompts]
        lengths = np.array([len(prompt.tokens) for prompt in asked])
        last = np.where(lengths > trunk, wave.starts + lengths - trunk, trunk) - 1
        size = row_length(len(lengths))
        room = (0, size - len(lengths))
        left = [prompt.max_new_tokens for prompt in asked]
        numbers = np.array([lengths - trunk, 0 * lengths, lengths - 1, left, wave.prompts, lengths], np.int32)
        texts = Texts(*map(jnp.asarray, np.pad(numbers, ((0, 0), room))))
        stored, first, finite = engine.begin_with_means(
            model.graphdef,
            model.state,
            self._stored,
            slots,
            tuple(hidden.get(chunk, self._nothing) for chunk in range(shape.chunks)),
            np.pad(last.astype(np.int32), room),
            texts,
            self._seen([prompt.tokens for prompt in asked], size),
            self._drawing,
        )
        return stored, on_host(first), on_host(finite)

    def _ending(self, prompt: int, tokens: Sequence[int], goes_on: bool, finite: bool) -> Ending | None:
        if not finite:
            return "not finite"
        if tokens and tokens[-1] in self._ends:
            return "end"
        asked = self._prompts[prompt]
        if any(asked.stop) and stopped(self._model.tokenizer, tokens, asked.stop):
            return "stop"
        return None if goes_on else "length"


def ending_tokens(model: Model, settings: GenerationSettings) -> np.ndarray:
    """Token ids that end a text: the settings', and the tokenizer's end of sequence where the model has a tokenizer.

    Padded with -1, so that few numbers of them are compiled for.
    """
    own = model.tokenizer.eos_token_id if model.manifest.get("tokenizer") else None
    named = {*settings.eos_token_id, *([] if own is None else [own])}
    ids = sorted(token for token in named if 0 <= token < model.config.vocab_size)
    return np.pad(np.array(ids, np.int32), (0, row_length(len(ids) + 1, smallest=8) - len(ids)), constant_values=-1)
