"""Flows and stories for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.plans.events import branches
from jaxpaint.report.flow import FlowStudy, LabelledFlow, LabelledStory, summary_table, verdict_words
from jaxpaint.results.flow import ROLES, SETS, SHARES, Flow, Mean
from jaxpaint.results.story import Story, StorySetting, sentences

WIDTH = 80
FIRST = 24


def plan_lines(each: LabelledFlow, size: int) -> Iterator[str]:
    """Everything of one plan."""
    flow, known = each.flow, int(each.flow.known.sum())
    asked = count(len(flow.known), "fact")
    yield each.label if each.label == str(flow.plan) else f"{each.label}: plan {flow.plan}"
    if not known:
        yield f"none of {asked} known, so there is nothing to block"
    else:
        yield f"{known} of {asked} known; mean change of the answer's probability, per cent"
        yield f"{'last token blocked from':<{FIRST}}" + "".join(f"{name:>18}" for name in SETS)
        yield f"{'  in every event':<{FIRST}}" + _cells(flow.everywhere, 0)
        yield f"{'  answers left':<{FIRST}}" + "".join(f"{share:>18.3f}" for share in flow.left)
        for name, mean in (("step", flow.by_depth), ("layer", flow.by_layer)):
            if name == "step" or not flow.in_order:
                yield f"{size} {name}s at once, around" if size > 1 else f"{name} by {name}"
                yield from (f"{f'  {name} {at}':<{FIRST}}" + _cells(mean, at) for at in range(len(mean.value)))
        if len(flow.by_branch.value):
            yield "one branch of a group, the others not"
            own = branches(flow.plan)
            yield from (f"{_cut(f'  {own[at].label}'):<{FIRST}}" + _cells(flow.by_branch, at) for at in range(len(own)))
    yield from _inside(flow)
    for verdict in flow.verdicts:
        yield from textwrap.wrap(f"{verdict.answer}: {verdict.words}", WIDTH, subsequent_indent="    ")
        yield f"    {verdict_words(verdict)}"


def _inside(flow: Flow) -> Iterator[str]:
    if flow.extraction is not None:
        shares = zip(SHARES, flow.extraction.shares, strict=True)
        yield "answer on top of an update: " + "  ".join(f"{name} {share:.2f}" for name, share in shares)
        attention, mlp = (rates.sum() for rates in (flow.extraction.attention, flow.extraction.mlp))
        yield f"  events of each fact: {attention:.1f} of attention, {mlp:.1f} of feed-forwards, of {flow.plan.cost}"
    if flow.clock is not None:
        yield "clock, R² on prompts held out of its fit (layers off, of the full model):"
        both = zip(ROLES, flow.clock.r2.value[0], flow.clock.off.value[0], strict=True)
        yield "  " + "  ".join(f"{name} {r2:.3f} ({off:.2f})" for name, r2, off in both)
        yield f"{'layers it reads after':<{FIRST}}" + "".join(f"{name:>18}" for name in ROLES)
        layers = len(flow.by_layer.value)
        reading = Mean(*(layers * each for each in flow.clock.reading))
        yield from (f"{f'  part {at}':<{FIRST}}" + _cells(reading, at) for at in range(len(reading.value)))
    if flow.patched is not None:
        yield f"share of events whose attention says the answer ({flow.patched.own.value[0, 0]:.3f}), were it to read"
        yield f"{'  as it was after part':<{FIRST}}" + "".join(f"{name:>18}" for name in SETS)
        for at, donor in enumerate(flow.patched.donors):
            yield f"{f'  {donor}':<{FIRST}}" + _cells(flow.patched.share, at, 3)


def flow_lines(study: FlowStudy) -> Iterator[str]:
    """What became of the claims under the full model, and a line for each plan."""
    for verdict in study.found[0].flow.verdicts:
        head = f"{verdict.answer:<16}"
        yield from textwrap.wrap(f"{head}{verdict.words}", WIDTH, subsequent_indent=" " * len(head))
        yield f"{'':16}{verdict_words(verdict)}"
    yield ""
    yield from summary_lines(study.found)


def summary_lines(found: Sequence[LabelledFlow]) -> Iterator[str]:
    """A line for each plan."""
    table = summary_table(found)
    width = min(22, max(len("plan"), *(len(each.label) for each in found)))
    yield f"{'':{width}}            blocked from the subject    from the rest    rest"
    yield f"{'plan':{width}} {'known':>9}  {'per cent':>14} {'step':>5} {'per cent':>14} {'step':>5}  first"
    for row in table.rows:
        label, known, asked, *numbers = row
        subject, subject_error, subject_at, rest, rest_error, rest_at, order, *_ = numbers
        cells = (
            f"{_with_error(subject, subject_error)} {_at(subject_at)} {_with_error(rest, rest_error)} {_at(rest_at)}"
        )
        told = {"holds": "yes", "does not hold": "no"}.get(str(order), "?")
        yield f"{_cut(str(label), width):{width}} {f'{known}/{asked}':>9}  {cells}  {told}"
    yield "Step: around which a window hurts most. First: whether the rest is read before"
    yield "the subject, by two standard errors (±) over facts. --json has everything."


def _with_error(value: object, error: object) -> str:
    if not isinstance(value, float):
        return f"{'-':>14}"
    return f"{value:>7.1f} ±{2 * error:>5.1f}" if isinstance(error, float) else f"{value:>7.1f} ±    -"


def _at(step: object) -> str:
    return f"{'-' if step is None else step:>5}"


def story_lines(setting: StorySetting, found: Sequence[LabelledStory]) -> Iterator[str]:
    """What the prompt is, and of each plan what happens, and what each state says at the last token."""
    yield from textwrap.wrap(f"“{visible_name(setting.prompt)}” → “{visible_name(setting.answer)}”", WIDTH)
    for each in found:
        story = each.story
        yield ""
        yield each.label if each.label == str(story.plan) else f"{each.label}: plan {story.plan}"
        for sentence in sentences(story):
            yield from textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")
        yield f"  {'after':<20}{'says':<18}{'answer':>8}   attention writes, to"
        yield f"  {'':<20}{'':<18}{'':>8}   {'subject':>10}{'rest':>10}"
        yield from _states(story)


def _states(story: Story) -> Iterator[str]:
    for number, label in enumerate(("embeddings", *story.labels)):
        chance = math.exp(story.answer_logprob[number, -1])
        line = f"  {_cut(label, 19):<20}{_cut(repr(story.said[number][-1]), 17):<18}{chance:>8.3f}"
        if number:
            depths = slice(story.depths[number - 1], story.depths[number])
            of_sets = [story.reads[depths, list(places)].sum() for places in story.sets[:2]]
            line += "   " + "".join(f"{value:>+10.2f}" for value in of_sets)
        yield line


def _cells(mean: Mean, at: int, decimals: int = 1) -> str:
    """Means and two standard errors, one for each key set."""
    both = zip(mean.value[at], mean.stderr[at], strict=True)
    return "".join(f"{_shown(value, decimals):>10} ±{_shown(2 * error, decimals):>6}" for value, error in both)


def _shown(value: float, decimals: int) -> str:
    """A dash where there is none, such as the error of one number."""
    return f"{value:.{decimals}f}" if math.isfinite(value) else "-"


def _cut(text: str, width: int = FIRST - 1) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"
