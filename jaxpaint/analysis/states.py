"""How the hidden states along layer plans compare with each other, for many plans from one pass.

A plan's states are the embeddings and what each of its steps gives (a layer or a whole parallel group, repeats
unrolled), before the final norm; the full plan of T layers has T + 1. Padding is left out of every number.

The walk of the plans' tree (`jaxpaint.engine.walk`) carries the states so far. A new one is compared on the device with
those before it, a fixed number at a time, so three executables per batch shape serve every plan, and what comes to the
host are a few numbers per pair of states and text.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jaxpaint.analysis.directions import ANGULAR_DISTANCE, BLOCK_INFLUENCE
from jaxpaint.analysis.probes import Probe, Texts, without_padding
from jaxpaint.analysis.whole_states import SIMILARITY, VARIANCE
from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.engine import interpreted
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.model import Model, layer_stack, start
from jaxpaint.engine.program import Program
from jaxpaint.engine.rows import Inputs, TextRows, checked_texts, right_padded
from jaxpaint.engine.walk import place, shards, walk
from jaxpaint.plans.plan import Node, Plan
from jaxpaint.plans.tree import units

# A new probe is a file, a place here, and its name among a study's `ANALYSES` (`jaxpaint.study.spec`).
PROBES = (SIMILARITY, VARIANCE, BLOCK_INFLUENCE, ANGULAR_DISTANCE)
# Every state of a plan is held, and compared with every other.
MAX_STATES = 1024
# States that a new one is compared with in one call.
COMPARED = 8

Row: TypeAlias = tuple[str, Mapping[str, Any], list[Any]]


class Analysis(SimpleNamespace):
    """What the states along one plan have in common: each probe's numbers under its name.

    Arrays in float64, NaN where hidden states were not finite: of each state [states], of each step [steps], or of
    each pair of states [states, states].
    """


def analyse(
    model: Model,
    texts: Sequence[Sequence[int]],
    plans: Sequence[Plan],
    *,
    probes: Sequence[Probe] = PROBES,
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
    devices = shards(model)
    position_bytes = states * model.config.hidden_size * model.dtype.itemsize
    positions = min(batch_tokens or budget.analysis_tokens * devices, budget.analysis_bytes * devices // position_bytes)
    sums: dict[tuple[int, str], np.ndarray] = {}
    for text_rows in right_padded(checked, positions, devices):
        for ends, path, _ in _paths(model, plans, tuple(probes), text_rows, progress):
            read = jax.device_get([step.read for step in path])
            del path
            for probe in probes:
                found = probe.add(_of_texts(probe, read, text_rows.real_rows))
                for plan in ends:
                    sums[plan, probe.name] = sums[plan, probe.name] + found if (plan, probe.name) in sums else found
    counts = {"text": len(checked), "token": sum(len(text) for text in checked)}
    return tuple(
        Analysis(**{probe.name: sums[plan, probe.name] / counts[probe.per] for probe in probes})
        for plan in range(len(plans))
    )


def analysis_rows(analysis: Analysis, settings: Mapping[str, Any], probes: Sequence[Probe] = PROBES) -> list[Row]:
    """`(name, settings, value)` for the results store; `settings` say what was analysed (which texts, how many).

    Values are nested lists of numbers that JSON can carry, None where not finite; of what, the probes say.
    """
    return [(probe.name, dict(settings), _listed(probe.listed(getattr(analysis, probe.name)))) for probe in probes]


def _listed(values: Any) -> Any:
    if isinstance(values, Sequence | np.ndarray):
        return [_listed(value) for value in values]
    return float(values) if math.isfinite(values) else None


class _Step(NamedTuple):
    """A state, and what the probes by their names read there: [B], or of pairs [..., B] per group compared."""

    state: Array
    read: Mapping[str, Any]


def _paths(
    model: Model,
    plans: Sequence[Plan],
    probes: tuple[Probe, ...],
    text_rows: TextRows,
    progress: Callable[[int], None] | None,
) -> Iterator[tuple[tuple[int, ...], tuple[_Step, ...], int]]:
    """Yields plans that end, with all their steps, and work, as `walk` does."""
    tokens, lengths = place(model, (text_rows.tokens, text_rows.lengths))
    pairs = tuple(probe for probe in probes if probe.reads == "pair")

    def arrive(path: tuple[_Step, ...], state: Array, read: Mapping[str, Array]) -> tuple[_Step, ...]:
        states = [*(step.state for step in path), state]
        groups = [states[first : first + COMPARED] for first in range(0, len(states) if pairs else 0, COMPARED)]
        compared = [_compare(state, [*group, *[state] * (COMPARED - len(group))], lengths, pairs) for group in groups]
        of_pairs = {probe.name: [found[probe.name] for found in compared] for probe in pairs}
        return (*path, _Step(state, {**read, **of_pairs}))

    def advance(path: tuple[_Step, ...], part: Plan, before: int) -> tuple[_Step, ...]:
        for unit in units(part):
            program, cost = _program(unit, model.mesh)
            path = arrive(path, *_step(model.graphdef, model.state, *program, path[-1].state, tokens, lengths, probes))
            if progress:
                progress(cost * tokens.size)
        return path

    # States are held as long as the path goes through them, and no longer: all that plans share is on the path.
    return walk(plans, arrive((), *_embed(model.graphdef, model.state, tokens, lengths, probes)), advance, sys.maxsize)


def _of_texts(probe: Probe, read: Sequence[Mapping[str, Any]], texts: int) -> Float[np.ndarray, "*where texts"]:
    """A probe's numbers of the first texts of a batch, in float64: see `Probe.add`."""
    if probe.reads != "pair":
        return np.array([step[probe.name][:texts] for step in read if probe.name in step], np.float64)
    found = np.zeros((len(read), len(read), texts))
    for number, step in enumerate(read):
        column = np.concatenate(step[probe.name])[: number + 1, :texts]
        found[: number + 1, number] = found[number, : number + 1] = column
    return found


@lru_cache(maxsize=64)
def _program(unit: Node, mesh: Mesh | None) -> tuple[tuple[Any, int, int], int]:
    """A step as instructions, how many and the room they need, and its layer applications."""
    plan = Plan.of(unit)
    return (*as_data(plan, mesh), Program.of(plan).room), plan.cost


@jit("graphdef", "probes")
def _embed(graphdef, state, tokens, lengths, probes):
    """The first state, zero where there is padding, as every state here, and what probes read of it."""
    model = nnx.merge(graphdef, state)
    x = without_padding(start(model, Inputs(tokens, lengths, None))[0], lengths)
    return x, _of_states(probes, x, Texts(model, tokens, lengths))


@jit("graphdef", "room", "probes")
def _step(graphdef, state, instructions, length, room, x, tokens, lengths, probes):
    """The next state, and what probes read of it and of the step to it."""
    model = nnx.merge(graphdef, state)
    block, stacked = layer_stack(model)
    context = model.row_context(lengths, x.shape[1])
    y = without_padding(interpreted.run_program(block, stacked, instructions, length, room, x, context), lengths)
    texts = Texts(model, tokens, lengths)
    of_steps = {probe.name: probe.measure(x, y, texts) for probe in probes if probe.reads == "step"}
    return y, {**_of_states(probes, y, texts), **of_steps}


def _of_states(probes: Sequence[Probe], x: Float[Array, "B S D"], texts: Texts) -> dict[str, Float[Array, " B"]]:
    return {probe.name: probe.measure(x, texts) for probe in probes if probe.reads == "state"}


# Not our `jit`: what that asks XLA for the sake of matrix products makes sums on a CPU eight times as slow.
@partial(jax.jit, static_argnames="pairs")
def _compare(state, others, lengths, pairs):
    """What the probes of pairs read of a state and each of the others: [others, B]."""
    return {probe.name: jnp.stack([probe.measure(state, other, lengths) for other in others]) for probe in pairs}
