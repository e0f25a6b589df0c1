"""Attention knockouts of many prompts under many plans, exactly and for little more than one run of each.

What is knocked out are edges from the last token, so keys and values before it do not depend on it: a prompt runs once,
with a copy of its last token for each knockout behind it. These leaves see the prompt and themselves, at one position.
Which edges are blocked in an event is data (`Windows`), and the walk of the plans' tree runs what plans share once:
neither plans, windows nor key sets are compiled. Geva et al., arXiv 2304.14767.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.budgets import budgets, held_state_bytes
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.base.part import Portion
from jaxpaint.engine import interpreted
from jaxpaint.engine.layers import run_layer
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import Program, enough_room
from jaxpaint.engine.rows import checked_texts
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import walk
from jaxpaint.models.attention import SCORES_BYTES
from jaxpaint.models.family import require_lm_head
from jaxpaint.models.observed import Edits
from jaxpaint.models.scalings import border
from jaxpaint.plans.events import events
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.tree import prefix_tree

Axis: TypeAlias = Literal["depth", "layer", "event"]
AXES: tuple[Axis, ...] = ("depth", "layer", "event")
ALWAYS = np.iinfo(np.int32).max
SMALLEST_DEPTHS = 64


@dataclass(frozen=True)
class Prompt:
    """Token ids, and for each key set, such as the subject, the positions of its tokens."""

    tokens: tuple[int, ...]
    sets: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Window:
    """Events in which edges are blocked: those whose `axis` is from `start` up to below `stop`.

    An event's depth is the plan's clock, its layer what runs, wherever and however often; events by their numbers are
    those of one branch (`jaxpaint.plans.events.branches`).
    """

    axis: Axis
    start: int
    stop: int


EVERYWHERE = Window("depth", 0, ALWAYS)


def centred(axis: Axis, size: int, count: int) -> tuple[Window, ...]:
    """A window of `size` around each of `count` layers, or depths, cut off at the ends: l - size // 2 to l + size / 2.

    As the notebook of Geva et al. has it: of 9, the window at 24 is 20 to 28; of 10 it is 19 to 28.
    """
    return tuple(
        Window(axis, max(0, centre - size // 2), min(count, centre + -(-size // 2))) for centre in range(count)
    )


@dataclass(frozen=True, eq=False)
class Knockouts:
    """What one plan makes of prompts' next token without some edges, and with all.

    `token` is the plan's own most likely one, `given` another one that was asked for (-1 where none was). For each:
    `logprob` in nats and `logit`, [prompts] with all edges, and [prompts, windows, sets] without. `left` tells where
    `token` is still the most likely one.
    """

    token: Int[np.ndarray, " prompts"]
    logprob: Float[np.ndarray, "prompts leaves"]
    logit: Float[np.ndarray, "prompts leaves"]
    best: Int[np.ndarray, "prompts leaves"]
    given_logprob: Float[np.ndarray, "prompts leaves"]
    windows: int
    sets: int

    @property
    def base(self) -> Float[np.ndarray, " prompts"]:
        """The probability of `token` with all edges."""
        return np.exp(self.logprob[:, 0])

    @property
    def change(self) -> Float[np.ndarray, "prompts windows sets"]:
        """100 (p' - p) / p in per cent, of the probability of `token`."""
        return self._shaped(100 * np.expm1(self.logprob - self.logprob[:, :1]))

    @property
    def logit_change(self) -> Float[np.ndarray, "prompts windows sets"]:
        """Of the logit of `token`."""
        return self._shaped(self.logit - self.logit[:, :1])

    @property
    def left(self) -> Bool[np.ndarray, "prompts windows sets"]:
        """Whether `token` is still the most likely one."""
        return self._shaped(self.best == self.token[:, None])

    def _shaped(self, leaves: np.ndarray) -> np.ndarray:
        return leaves[:, 1:].reshape(len(leaves), self.windows, self.sets)


class _Leaves(NamedTuple):
    """For each copy of the last token: its key set, and where its edges to that are blocked."""

    key_set: Int[np.ndarray, " leaves"]
    axis: Int[np.ndarray, " leaves"]
    start: Int[np.ndarray, " leaves"]
    stop: Int[np.ndarray, " leaves"]


class _Layout(NamedTuple):
    """Rows of prompts with leaves behind them; `members` tells key sets of what comes before, `own` of the leaves."""

    tokens: Int[np.ndarray, "B S"]
    positions: Int[np.ndarray, "B S"]
    visible_until: Int[np.ndarray, "B S"]
    members: Bool[np.ndarray, "B sets before"]
    own: Bool[np.ndarray, "B sets"]


def knock_out(
    model: Model,
    prompts: Sequence[Prompt],
    plans: Sequence[Plan],
    windows: Sequence[Window],
    *,
    given: Sequence[int] | None = None,
    batch_tokens: int | None = None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
) -> tuple[Knockouts, ...]:
    """Every plan's `Knockouts` of the prompts, in the order of `plans`, each key set in each window.

    `given` are tokens whose log-probabilities are wanted beside those of each plan's own. A batch holds at most
    `batch_tokens` positions, leaves included, but one prompt at least. `progress` is given how many layer
    applications times positions there are, and what it returns is called with those just run.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: an encoder, no prompt, one of a single token, positions that it lacks, unequal numbers of key sets.
    """
    require_lm_head(model.config, "what comes next")
    plans = [model.checked_plan(plan).of_whole_layers("blocking attention") for plan in plans]
    _check(model, prompts)
    if not windows:
        raise UserError("there is no window to block edges in; give at least one, such as EVERYWHERE")
    sets = len(prompts[0].sets)
    leaves = _leaves(windows, sets)
    height, size = batch_shape(model, prompts, len(windows), batch_tokens)
    width = size - len(leaves.start)
    asked = np.full(len(prompts), -1) if given is None else np.asarray(given)
    found: list[list[Any]] = [[] for _ in plans]
    whole = prefix_tree(plans).cost * height * size * -(-len(prompts) // height)
    advance = progress(whole) if progress else None
    for start in range(0, len(prompts), height):
        part = list(prompts[start : start + height])
        real = len(part)
        part += [part[-1]] * (height - real)
        own = np.pad(asked[start : start + real], (0, height - real), constant_values=-1).astype(np.int32)
        layout = _laid_out(part, width, len(leaves.start), border(model.config))
        for ends, x in _endings(model, layout, leaves, plans, advance):
            each = jax.device_get(_read(model.graphdef, model.state, x[:, width:], jnp.asarray(own)))
            for plan in ends:
                found[plan].append([value[:real] for value in each])
    names = ("token", "logprob", "logit", "best", "given_logprob")
    joined = [[np.concatenate(each) for each in zip(*parts, strict=True)] for parts in found]
    return tuple(Knockouts(**dict(zip(names, each, strict=True)), windows=len(windows), sets=sets) for each in joined)


def batch_shape(
    model: Model | Source, prompts: Sequence[Prompt], windows: int, batch_tokens: int | None = None
) -> tuple[int, int]:
    """Prompts of a batch of `knock_out`, and positions of each, leaves included."""
    size = max(len(prompt.tokens) for prompt in prompts) + windows * len(prompts[0].sets)
    scores = 4 * model.config.num_attention_heads * size**2
    most = min((batch_tokens or budgets().analysis_tokens) // size, SCORES_BYTES // scores)
    return max(1, min(len(prompts), most)), size


def _check(model: Model, prompts: Sequence[Prompt]) -> None:
    checked_texts([prompt.tokens for prompt in prompts], model.config)
    for number, prompt in enumerate(prompts, 1):
        which, length = f"prompt {number} of {len(prompts)}", len(prompt.tokens)
        if length < 2:
            raise UserError(f"{which} has one token; there is nothing before it to block")
        if not all(prompt.sets):
            raise UserError(f"{which} has a key set without positions, from which nothing would be blocked")
        if len(prompt.sets) != len(prompts[0].sets) or not prompt.sets:
            raise UserError(f"{which} has {len(prompt.sets)} key sets, the first one {len(prompts[0].sets)}")
        if beyond := [at for own in prompt.sets for at in own if not 0 <= at < length]:
            raise UserError(f"{which} has {length} tokens, and key sets with the positions {beyond}")


def _leaves(windows: Sequence[Window], sets: int) -> _Leaves:
    """One without a knockout, and then of each window one for each key set."""
    of_each = [(key, window) for window in windows for key in range(sets)]
    return _Leaves(
        np.array([0, *(key for key, _ in of_each)], np.int32),
        np.array([0, *(AXES.index(window.axis) for _, window in of_each)], np.int32),
        np.array([0, *(window.start for _, window in of_each)], np.int32),
        np.array([0, *(window.stop for _, window in of_each)], np.int32),
    )


def _laid_out(prompts: Sequence[Prompt], width: int, leaves: int, border: float) -> _Layout:
    rows, size, sets = len(prompts), width + leaves, len(prompts[0].sets)
    tokens, positions = np.zeros((rows, size), np.int32), np.zeros((rows, size), np.int32)
    visible_until = np.tile(np.arange(1, size + 1, dtype=np.int32), (rows, 1))
    members, own = np.zeros((rows, sets, width), bool), np.zeros((rows, sets), bool)
    for row, prompt in enumerate(prompts):
        before = len(prompt.tokens) - 1
        tokens[row, :before], tokens[row, width:] = prompt.tokens[:-1], prompt.tokens[-1]
        positions[row, :before], positions[row, width:] = np.arange(before), before
        if before + 1 > border:
            positions[row] += int(border)
        visible_until[row, :before] = size
        for number, places in enumerate(prompt.sets):
            members[row, number, [at for at in places if at < before]] = True
            own[row, number] = before in places
    return _Layout(tokens, positions, visible_until, members, own)


def _endings(
    model: Model, layout: _Layout, leaves: _Leaves, plans: Sequence[Plan], progress: Callable[[int], None] | None
) -> Iterator[tuple[tuple[int, ...], Float[Array, "B S D"]]]:
    """Plans that end, by index, with the last state; states are carried with their depth and how many events were."""
    room = enough_room(plans)

    def advance(state: tuple[Array, int, int], part: Plan, before: int) -> tuple[Array, int, int]:
        x, depth, event = state
        program, own = Program.of(part), events(part)
        depths = np.zeros(max(SMALLEST_DEPTHS, 1 << (len(own) - 1).bit_length()), np.int32)
        depths[: len(own)] = [depth + event.depth for event in own]
        steps = program.instructions, program.length, 0 if part.is_series else room
        x = _advance(model.graphdef, model.state, *steps, x, layout, leaves, depths, event)
        if progress:
            progress(part.applications * layout.tokens.size)
        return x, depth + part.chain_length, event + part.applications

    start = _embed(model.graphdef, model.state, layout.tokens, layout.positions), 0, 0
    for ends, (x, *_), _ in walk(plans, start, advance, held_state_bytes() // start[0].nbytes):
        yield ends, x


@jit("graphdef")
def _embed(graphdef, state, tokens, positions):
    return nnx.merge(graphdef, state).embed(tokens, positions)


# A leaf's own key stands where the leaf does: in order, its place changes no digit.
@jit("graphdef", "room", sums_in_order=True)
def _advance(graphdef, state, instructions, length, room, x, layout, leaves, depths, first):
    model = nnx.merge(graphdef, state)
    model.kernel = None
    context = model.context(layout.positions, layout.visible_until)
    kinds, width = model.layer_kinds, layout.members.shape[2]
    layers, stacked = nnx.split(model.blocks)

    def block(parameters: Any, x: Array, context: Any, blocked: Array) -> Array:
        return nnx.merge(layers, parameters).observed(x, context, Edits(blocked=blocked), frozenset())[0]

    def layer(index: Array, number: Array, _: Portion, x: Array, memory: tuple[()]) -> tuple[Array, tuple[()]]:
        place = jnp.stack([depths[number], index, first + number])[leaves.axis]
        here = (leaves.start <= place) & (place < leaves.stop)
        before = here[None, :, None] & layout.members[:, leaves.key_set]
        itself = (here & layout.own[:, leaves.key_set])[:, :, None] & jnp.eye(len(here), dtype=bool)
        rows = jnp.concatenate([before, itself], axis=2)
        blocked = jnp.pad(rows, ((0, 0), (width, 0), (0, 0)))[:, None]
        own = context if kinds is None else context.of_kind(jnp.array(kinds)[index])
        return run_layer(block, stacked, index, x, own, blocked), memory

    return interpreted.follow(layer, instructions, length, room, x, ())[0]


@jit("graphdef")
def _read(graphdef, state, x, given):
    """Of the leaves' last states, row by row: `Knockouts`' arrays."""
    model = nnx.merge(graphdef, state)

    def of_row(row: tuple[Array, Array]) -> tuple[Array, ...]:
        states, asked = row
        logits = model.logits(states)
        best = logits.argmax(axis=-1)
        token, logprobs = best[0], jax.nn.log_softmax(logits)
        wanted = jnp.where(asked < 0, token, asked)
        return token, logprobs[:, token], logits[:, token], best, logprobs[:, wanted]

    return jax.lax.map(of_row, (x, given))
