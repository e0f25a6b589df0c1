"""What the states of subjects tell of them along a plan, and late in it where sublayers are switched off.

Geva et al. (arXiv 2304.14767) read the state after layer 40 of 0 to 47, with sublayers of 11 layers off, from each of
the first 40 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from jaxpaint.analysis.asking import SUBLAYERS, Asked
from jaxpaint.analysis.enrichment import Enrichment, attributes_said, branch_ends, states_at, words_said
from jaxpaint.analysis.runs import batches
from jaxpaint.engine.interventions import Intervention, Scale
from jaxpaint.engine.model import Model
from jaxpaint.engine.run import Run
from jaxpaint.plans.events import events, steps
from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import Enriched, Mean, Silenced, Verdict

# Of the steps, before the state that is asked what it tells of a subject.
LATE = 41 / 48
# Of the layers, those without a sublayer at once, of these: 11 in the first 40 of 48.
SILENCED, LAST_SILENCED = 11 / 48, 40 / 48


def what_subjects_tell(
    model: Model, to_ask: Asked, plan: Plan
) -> tuple[Enriched | None, Silenced | None, list[Verdict]]:
    """Of each subject once, at `PLACES`, after each step and at the end of each branch. None of one subject alone."""
    numbers = first_facts(to_ask)
    if len(numbers) < 2 or not (to_ask.attributes or to_ask.words):
        return None, None, []
    whole = _shares(model, to_ask, plan, numbers, None)
    count = 1 + len(steps(plan))
    own, control = (each[:, :count] for each in whole)
    less, at = control[0] - own[0], late(len(own[0]) - 1)
    if to_ask.attributes:
        verdicts = [Verdict.of("enriched", less[int(less.mean(axis=1).argmin())], below=-0.5)]
    else:
        verdicts = [Verdict.of("told", less[at])]
    parts = (own, control, *(each[:, count:] for each in whole if each.shape[1] > count))
    enriched = Enriched(*(Mean.of(each.transpose(2, 1, 0)) for each in parts))
    if SUBLAYERS not in to_ask.setting.extras:
        return enriched, None, verdicts

    def without(what: Literal["attention", "mlp"]) -> Float[np.ndarray, "windows subjects"]:
        starts = windows_without(model.num_layers)
        return np.stack([late_without(model, to_ask, plan, numbers, what, start) for start in starts])

    attention, mlp = without("attention"), without("mlp")
    verdicts.append(Verdict.of("built", mlp[0] - attention[0]))
    means = (Mean.of(each.T[..., None]) for each in (own[0, at : at + 1], attention, mlp))
    return enriched, Silenced(*means), verdicts


def first_facts(to_ask: Asked) -> list[int]:
    """Of each subject the number of its first fact."""
    firsts = {fact.subject: number for number, fact in reversed(list(enumerate(to_ask.facts)))}
    return sorted(firsts.values())


def windows_without(num_layers: int) -> range:
    """The first layers of those without a sublayer at once."""
    return range(max(1, round(LAST_SILENCED * num_layers)))


def late_without(
    model: Model, to_ask: Asked, plan: Plan, numbers: Sequence[int], what: Literal["attention", "mlp"], start: int
) -> Float[np.ndarray, " subjects"]:
    """What subjects' last tokens tell late in the plan, were a run of layers without a sublayer."""
    stop = min(start + max(1, round(SILENCED * model.num_layers)), round(LAST_SILENCED * model.num_layers))
    layers = range(start, max(stop, start + 1))
    has_any = any(event.layer in layers for event in events(plan))
    changes = [Scale(what=what, factor=0, layers=layers)] if has_any else []
    own, _ = _shares(model, to_ask, plan, numbers, [late(len(steps(plan)))], *changes)
    return np.asarray(own[0, 0])


def _shares(
    model: Model,
    to_ask: Asked,
    plan: Plan,
    numbers: Sequence[int],
    states: Sequence[int] | None,
    *changes: Intervention,
) -> tuple[Float[np.ndarray, "places states subjects"], Float[np.ndarray, "places states subjects"]]:
    """Of facts, by their numbers, what states tell of the subject, and of the next one's.

    All states unless some are given, and after them the ends of branches.
    """
    parts: list[tuple[Enrichment, ...]] = []
    done = 0
    for part, run in batches(model, [to_ask.prompts[number] for number in numbers], plan, *changes):
        rows = [*range(len(part)), *[len(part) - 1] * (len(run.lengths) - len(part))]
        own = [numbers[done + row] for row in rows]
        others = [numbers[(done + row + 1) % len(numbers)] for row in rows]
        each = _told(run, to_ask, own, others, states)
        parts.append(tuple(Enrichment(one.own[:, : len(part)], one.control[:, : len(part)]) for one in each))
        done += len(part)
    by_place = list(zip(*parts, strict=True))
    whole, control = (
        np.stack([np.concatenate([getattr(each, name) for each in place], axis=1) for place in by_place])
        for name in ("own", "control")
    )
    return whole, control


def late(count: int) -> int:
    """Of so many steps the state that is asked what it tells of: 41 of 48, as in Geva et al. after layer 40."""
    return round(LATE * count)


def _told(
    run: Run, to_ask: Asked, own: Sequence[int], others: Sequence[int], states: Sequence[int] | None
) -> tuple[Enrichment, ...]:
    """Of each row's fact, and another as a control, at `PLACES`; a subject never ends its prompt."""
    prompts = [to_ask.prompts[number] for number in own]
    places = [
        (prompt.sets[0][-1], prompt.sets[0][0], prompt.sets[0][-1] + 1, len(prompt.tokens) - 1) for prompt in prompts
    ]
    ends = [branch_ends(run, places)] if states is None else []  # first, which computes all in one pass
    here = np.concatenate([states_at(run, places, states), *ends])
    if to_ask.attributes:
        theirs, another = ([to_ask.attributes[number] for number in which] for which in (own, others))
        return attributes_said(run, here, theirs, another)
    words, of_others = ([to_ask.words[number] for number in which] for which in (own, others))
    return words_said(run, here, words, of_others)
