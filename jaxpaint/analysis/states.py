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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jaxpaint.analysis import lens
from jaxpaint.analysis.cka import CKA
from jaxpaint.analysis.clock import CLOCK
from jaxpaint.analysis.directions import ANGULAR_DISTANCE, BLOCK_INFLUENCE
from jaxpaint.analysis.fits import Fitted, Pass, fit_bytes, held_out, passes, solved
from jaxpaint.analysis.lens import AGREEMENT, ENTROPY, LOGIT_LENS
from jaxpaint.analysis.probes import Probe, Sample, Texts, without_padding
from jaxpaint.analysis.ridge import Moments, Ridge
from jaxpaint.analysis.ridge_lens import RIDGE_LENS
from jaxpaint.analysis.sums import Sums, added
from jaxpaint.analysis.whole_states import SIMILARITY, VARIANCE
from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import all_on_host, on_host
from jaxpaint.base.memory import require_memory
from jaxpaint.engine import interpreted
from jaxpaint.engine.given import GivenTexts, token_ids
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import Program
from jaxpaint.engine.rows import Inputs, TextRows, Tokens, checked_texts, right_padded
from jaxpaint.engine.source import Source
from jaxpaint.engine.walk import endings, place, shards, start_of_rows, walk
from jaxpaint.engine.whole import start
from jaxpaint.models.family import require_lm_head
from jaxpaint.plans.plan import Node, Plan
from jaxpaint.plans.tree import units
from jaxpaint.results.kinds import FIT, STDERR

NOTHING: Mapping[str, Any] = {}
# A new probe is a file, a place here, and its name among a study's `ANALYSES` (`jaxpaint.studies.spec`).
PROBES = (SIMILARITY, VARIANCE, BLOCK_INFLUENCE, ANGULAR_DISTANCE)
BY_NAME = {probe.name: probe for probe in (*PROBES, LOGIT_LENS, ENTROPY, AGREEMENT, CKA, CLOCK, RIDGE_LENS)}
# Every state of a plan is held, and compared with every other.
MAX_STATES = 1024
# States that a new one is compared with in one call.
COMPARED = 8

Row: TypeAlias = tuple[str, Mapping[str, Any], list[Any]]


class Analysis(SimpleNamespace):
    """What the states along one plan have in common: each probe's numbers under its name.

    Arrays in float64, NaN where hidden states were not finite: of each state [states] or [states, numbers], of each
    step [steps], or of each pair of states [states, states]. Their standard errors, texts being the sample, are under
    the same name with `_stderr`: NaN of a single text. Under the name of a fit with `_fit` are its R² on texts that it
    has not seen.
    """


def analyse(
    model: Model,
    texts: GivenTexts,
    plans: Plan | str | Sequence[Plan | str],
    *,
    probes: Sequence[Probe] = PROBES,
    batch_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    done: Callable[[int], None] | None = None,
    fitted: Mapping[str, Fitted] | None = None,
) -> tuple[Analysis, ...]:
    """The analyses of texts, given as such or as token ids, under every plan, in the order of `plans`.

    `probes` are some of `BY_NAME`, or others. Those that read the lens have the full model run once more over each
    batch, and those with fits once over all texts, whatever the number of plans; `fitted` is what `fit` gave of the
    same texts, which is computed here where it is None.

    A batch holds at most `batch_tokens` positions, padding included, and no more than keep the states of the longest
    plan within `Budgets.analysis_bytes`, but one text at least. `progress` is called with the layer applications times
    positions just started, `done` with the texts' tokens times the plans that have just ended on them.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: no text, an empty one, tokens outside the vocabulary, more tokens than the model has positions, a
            plan of more than `MAX_STATES` states, or probes that need a head of a model without one.
    """
    asked, texts = model.checked_plans(plans), token_ids(model, texts)
    checked = checked_texts(texts, model.config)
    if not asked:
        return ()
    if of_lens := [probe.name for probe in probes if probe.reads == "lens"]:
        require_lm_head(model.config, f"the analysis {of_lens[0]}")
    if fitted is None:
        fitted = fit(model, texts, probes, batch_tokens=batch_tokens)
    everywhere = NamedSharding(model.mesh, PartitionSpec()) if model.mesh else None
    parameters = jax.device_put({name: each.parameters for name, each in fitted.items()}, everywhere)
    sums: dict[tuple[int, str], Sums] = {}
    held = held_out(len(checked))
    for text_rows in batches(model, checked, asked, batch_tokens):
        sample = Sample(text_rows.lengths[: text_rows.real_rows], held[list(text_rows.texts)])
        for ends, path, _ in _paths(model, asked, tuple(probes), text_rows, progress, parameters):
            read = all_on_host([step.read for step in path])
            del path
            for probe in probes:
                values = probe.of_texts(_of_texts(probe, read, text_rows.real_rows))
                found = probe.reduction.sums(values, probe.weights(sample))
                for plan in ends:
                    sums[plan, probe.name] = added(sums.get((plan, probe.name)), found)
            if done:
                done(int(sample.lengths.sum()) * len(ends))
    return tuple(
        _analysis(probes, {probe.name: sums[plan, probe.name] for probe in probes}, fitted)
        for plan in range(len(asked))
    )


def fit(
    model: Model,
    texts: Sequence[Sequence[int]],
    probes: Sequence[Probe] = PROBES,
    *,
    batch_tokens: int | None = None,
) -> dict[str, Fitted]:
    """What the probes have to learn of the full model, from half of the texts (`jaxpaint.analysis.fits`).

    By the fits' names; empty where no probe has any. Texts in more or smaller batches give the same but for rounding.
    The full model runs over them once, or where memory does not hold all sums at once, several times
    (`jaxpaint.analysis.fits.passes`), to the same numbers.

    Raises:
        UserError: as `analyse`; less than 2 texts, or less memory than the fits' sums take.
    """
    fits = dict.fromkeys(each for probe in probes for each in probe.fits)
    if not fits:
        return {}
    checked = checked_texts(texts, model.config)
    if len(checked) < 2:
        names = " and ".join(each.name for each in fits)
        raise UserError(f"{names} take half of the texts to fit and read the others; give at least 2 texts, not 1")
    largest = max(fits, key=lambda each: fit_bytes([each], model.config)).name
    advice = f"leave {largest} out, or take a smaller model"
    require_memory(fit_bytes(fits, model.config), f"the fit of {largest}", advice)
    fitted: dict[str, list[Ridge]] = {each.name: [] for each in fits}
    for regressions in passes(fits, model.config):
        sums = _fit_sums(model, checked, regressions, batch_tokens)
        for each, number in regressions:
            own = (sums.pop((each.name, number, half)) for half in (False, True))
            fitted[each.name].append(solved(*own))
    return {
        each.name: Fitted(each.gathered(fitted[each.name]), np.array([found.r2 for found in fitted[each.name]]))
        for each in fits
    }


def _fit_sums(
    model: Model, texts: Sequence[Tokens], regressions: Pass, batch_tokens: int | None
) -> dict[tuple[str, int, bool], Moments]:
    """Each regression's sums over the texts of the fit and over those held out of it, in one run of the full model."""
    plan, held = model.full_plan, held_out(len(texts))
    sums: dict[tuple[str, int, bool], Moments] = {}
    for text_rows in batches(model, texts, [plan], batch_tokens):
        ((_, path, _),) = _paths(model, [plan], (), text_rows, None, {})
        states = [on_host(step.state[: text_rows.real_rows]).astype(np.float32, copy=False) for step in path]
        del path
        is_held, lengths = held[list(text_rows.texts)], text_rows.lengths[: text_rows.real_rows]
        for half in (False, True):
            rows = is_held == half
            own = [state[rows] for state in states]
            for each, number in regressions:
                key, found = (each.name, number, half), each.sums(own, lengths[rows], number)
                sums[key] = sums[key] + found if key in sums else found
    return sums


def batches(
    model: Model | Source, texts: Sequence[Tokens], plans: Sequence[Plan], batch_tokens: int | None = None
) -> Iterator[TextRows]:
    """The batches of `analyse`. Raises UserError for a plan of more than `MAX_STATES` states."""
    states = max(1 + sum(1 for _ in units(plan)) for plan in plans)
    if states > MAX_STATES:
        raise UserError(f"a plan has {states} hidden states, but at most {MAX_STATES} are compared; shorten it")
    budget = budgets()
    devices = shards(model)
    position_bytes = states * model.config.hidden_size * model.dtype.itemsize
    positions = min(batch_tokens or budget.analysis_tokens * devices, budget.analysis_bytes * devices // position_bytes)
    return right_padded(texts, positions, devices)


def _analysis(probes: Sequence[Probe], sums: Mapping[str, Sums], fitted: Mapping[str, Fitted]) -> Analysis:
    found: dict[str, np.ndarray] = {}
    for probe in probes:
        found[probe.name], found[probe.name + STDERR] = probe.reduction.estimate(sums[probe.name])
        found |= {each.name + FIT: fitted[each.name].r2 for each in probe.fits}
    return Analysis(**found)


def analysis_rows(analysis: Analysis, settings: Mapping[str, Any], probes: Sequence[Probe] = PROBES) -> list[Row]:
    """`(name, settings, value)` for the results store; `settings` say what was analysed (which texts, how many).

    Values are nested lists of numbers that JSON can carry, None where not finite; of what, the probes say. An
    analysis comes last of its rows: where a store has it, it has them all.
    """
    rows = []
    for probe in probes:
        rows += [(each.name + FIT, getattr(analysis, each.name + FIT)) for each in probe.fits]
        rows += [(name, probe.listed(getattr(analysis, name))) for name in (probe.name + STDERR, probe.name)]
    return [(name, dict(settings), _listed(value)) for name, value in rows]


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
    fitted: Mapping[str, Any],
) -> Iterator[tuple[tuple[int, ...], tuple[_Step, ...], int]]:
    """Yields plans that end, with all their steps, and work, as `walk` does."""
    tokens, lengths = place(model, (text_rows.tokens, text_rows.lengths))
    answers = _answers(model, text_rows) if any(probe.reads == "lens" for probe in probes) else None
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
            given = (path[-1].state, tokens, lengths, probes, answers, fitted)
            path = arrive(path, *_step(model.graphdef, model.state, *program, *given))
            if progress:
                progress(cost * tokens.size)
        return path

    # States are held as long as the path goes through them, and no longer: all that plans share is on the path.
    first = _embed(model.graphdef, model.state, tokens, lengths, probes, answers, fitted)
    return walk(plans, arrive((), *first), advance, sys.maxsize)


def _answers(model: Model, text_rows: TextRows) -> Int[Array, "B S"]:
    """The tokens that the full model finds most likely after each, of one run that all plans share."""
    start = start_of_rows(model, Inputs(text_rows.tokens, text_rows.lengths, None))
    ((_, x, _),) = endings(model, start, [model.full_plan])
    return _most_likely(model.graphdef, model.state, x)


def _of_texts(probe: Probe, read: Sequence[Mapping[str, Any]], texts: int) -> Float[np.ndarray, "*where texts"]:
    """A probe's numbers of the first texts of a batch, in float64: see `Probe.of_texts`."""
    if probe.reads != "pair":
        return np.array([step[probe.name][..., :texts] for step in read if probe.name in step], np.float64)
    found = np.zeros((len(read), len(read), texts))
    for number, step in enumerate(read):
        column = np.concatenate(step[probe.name])[: number + 1, :texts]
        found[: number + 1, number] = found[number, : number + 1] = column
    return found


@lru_cache(maxsize=64)
def _program(unit: Node, mesh: Mesh | None) -> tuple[tuple[Any, int, int], int]:
    """A step as instructions, how many and the room they need, and its layer applications."""
    plan = Plan.of(unit)
    return (*as_data(plan, mesh), Program.of(plan).room), plan.applications


@jit("graphdef", "probes")
def _embed(graphdef, state, tokens, lengths, probes, answers=None, fitted=NOTHING):
    """The first state, zero where there is padding, as every state here, and what probes read of it."""
    model = nnx.merge(graphdef, state)
    x = without_padding(start(model, Inputs(tokens, lengths, None))[0], lengths)
    return x, _of_states(probes, x, Texts(model, tokens, lengths, answers, fitted))


@jit("graphdef", "room", "probes")
def _step(graphdef, state, instructions, length, room, x, tokens, lengths, probes, answers=None, fitted=NOTHING):
    """The next state, and what probes read of it and of the step to it."""
    model = nnx.merge(graphdef, state)
    block, stacked = layer_stack(model)
    context = model.row_context(lengths, x.shape[1])
    y = without_padding(interpreted.run_program(block, stacked, instructions, length, room, x, context), lengths)
    texts = Texts(model, tokens, lengths, answers, fitted)
    of_steps = {probe.name: probe.measure(x, y, texts) for probe in probes if probe.reads == "step"}
    return y, {**_of_states(probes, y, texts), **of_steps}


def _of_states(
    probes: Sequence[Probe], x: Float[Array, "B S D"], texts: Texts
) -> dict[str, Float[Array, "*numbers B"]]:
    found = {probe.name: probe.measure(x, texts) for probe in probes if probe.reads == "state"}
    readings: dict[Callable[..., Array], lens.Reading] = {}  # one for all probes that read the same
    for probe in probes:
        if probe.reads == "lens":
            if probe.through not in readings:
                readings[probe.through] = lens.read(texts.model, probe.through(x, texts), lens.targets(texts))
            found[probe.name] = probe.measure(readings[probe.through], texts)
    return found


@jit("graphdef")
def _most_likely(graphdef, state, x):
    return lens.read(nnx.merge(graphdef, state), x, jnp.zeros(x.shape[:2], jnp.int32)).top


# Not our `jit`: what that asks XLA for the sake of matrix products makes sums on a CPU eight times as slow.
@partial(jax.jit, static_argnames="pairs")
def _compare(state, others, lengths, pairs):
    """What the probes of pairs read of a state and each of the others: [others, B]."""
    return {probe.name: jnp.stack([probe.measure(state, other, lengths) for other in others]) for probe in pairs}
