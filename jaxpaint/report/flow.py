"""What a store's flows of facts say, in words and rows: the same for a terminal and a page."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxpaint.base.words import count
from jaxpaint.plans.events import branches
from jaxpaint.report.tables import Table, Value
from jaxpaint.results.flow import LEAST_PROMPTS, PLACES, ROLES, SETS, SHARES, WRITERS, Flow, FlowSetting, Mean, Verdict
from jaxpaint.results.story import Story, StorySetting

WITH_ERRORS = "two standard errors over prompts"


@dataclass(frozen=True, eq=False)
class LabelledFlow:
    """A plan's flow under the name that it has in a study."""

    label: str
    flow: Flow


@dataclass(frozen=True, eq=False)
class LabelledStory:
    """A plan's story under the name that it has in a study."""

    label: str
    story: Story


@dataclass(frozen=True, eq=False)
class FlowStudy:
    """All plans of a model that were asked for the same facts in the same way; the full model first."""

    setting: FlowSetting
    found: tuple[LabelledFlow, ...]


@dataclass(frozen=True, eq=False)
class StoryStudy:
    """One prompt under several plans; the full model first."""

    setting: StorySetting
    found: tuple[LabelledStory, ...]


def about(setting: FlowSetting) -> str:
    """Which facts, in words."""
    before = f", examples in front: “{setting.before.strip()}”" if setting.before.strip() else ""
    bos = "" if setting.bos else ", without a beginning-of-sequence token"
    extras = f", with {' and '.join(setting.extras)}" if setting.extras else ""
    which = f"{count(setting.count, 'fact')} (digest {setting.facts[:8]}), the first “{setting.first}”"
    return f"{which}{before}{bos}; windows of {setting.size}{extras}"


def summary_table(found: Sequence[LabelledFlow]) -> Table:
    """A row for each plan: what it knows, what is left without a key set, where it reads them, what extracts."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        flow, known = each.flow, int(each.flow.known.sum())
        row: list[Value] = [each.label, known, len(flow.known)]
        for key in (0, 1):
            row += [_finite(flow.everywhere.value[0, key]), _finite(flow.everywhere.stderr[0, key]), _step(flow, key)]
        row += [next((v.answer for v in flow.verdicts if v.claim == "order"), None)]
        shares = [None] * len(SHARES) if flow.extraction is None else [float(s) for s in flow.extraction.shares]
        rows.append((*row, *shares))
    of_sets = [f"{name} {what}" for name in SETS[:2] for what in ("blocked, %", "stderr", "read around step")]
    columns = ("plan", "known", "asked", *of_sets, "rest before subject", *(f"extracts: {name}" for name in SHARES))
    return Table("flow", "How facts reach the last token, plan by plan", columns, tuple(rows))


def windows_table(found: Sequence[LabelledFlow]) -> Table:
    """A row for each plan, window and key set: mean changes and answers left, and their standard errors."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        flow = each.flow
        of_branches: list[Value] = [branch.label for branch in branches(flow.plan)]
        parts: list[tuple[str, str, Sequence[Value]]] = [
            ("all", "everywhere", [""]),
            ("steps around", "by_depth", range(len(flow.by_depth.value))),
            ("layers around", "by_layer", range(len(flow.by_layer.value))),
            ("branch", "by_branch", of_branches[: len(flow.by_branch.value)]),
        ]
        for axis, field, places in parts:
            means = [None if of is None else getattr(of, field) for of in (flow, flow.logit, flow.answers_left)]
            for at, place in enumerate(places):
                for key, name in enumerate(SETS):
                    numbers = [number for mean in means for number in _both(mean, at, key)]
                    rows.append((each.label, axis, place, name, *numbers))
    measures = ("change, %", "change of the logit", "answers left")
    columns = ("plan", "blocked", "where", "key set", *(name for each in measures for name in (each, "stderr")))
    return Table("flow-windows", "Every window that was blocked", columns, tuple(rows))


def _both(mean: Mean | None, at: int, key: int) -> tuple[Value, Value]:
    """A mean and its standard error, if there are any."""
    return (None, None) if mean is None else (_finite(mean.value[at, key]), _finite(mean.stderr[at, key]))


def written_table(found: Sequence[LabelledFlow]) -> Table:
    """A row for each plan, step and writer: the mean part of the answer's logit, and its standard error."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        if (mean := each.flow.written) is not None:
            for step, (values, errors) in enumerate(zip(mean.value, mean.stderr, strict=True)):
                for name, value, error in zip(WRITERS, values, errors, strict=True):
                    rows.append((each.label, step, name, _finite(value), _finite(error)))
    columns = ("plan", "step", "by", "logit", "stderr")
    return Table("flow-written", "What writes the answer's logit", columns, tuple(rows))


def enriched_table(found: Sequence[LabelledFlow]) -> Table:
    """A row for each plan, state or branch's end, and place: shares told of a subject, and of another as a control."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        if (told := each.flow.enriched) is None:
            continue
        of_branches: list[Value] = [branch.label for branch in branches(each.flow.plan)]
        parts: list[tuple[str, Sequence[Value], Mean | None, Mean | None]] = [
            ("state", range(len(told.own.value)), told.own, told.control),
            ("branch", of_branches, told.own_by_branch, told.control_by_branch),
        ]
        for axis, labels, own, control in parts:
            for at, label in enumerate(labels if own is not None else []):
                for place, name in enumerate(PLACES[: told.own.value.shape[1]]):
                    rows.append((each.label, axis, label, name, *_both(own, at, place), *_both(control, at, place)))
    columns = ("plan", "after", "where", "token", "own", "stderr", "another's", "stderr")
    return Table("flow-enrichment", "What states tell of subjects", columns, tuple(rows))


def clock_table(found: Sequence[LabelledFlow]) -> Table:
    """A row for each plan, state and role: the clock's R² on the full model, its reading, what both lenses say."""
    rows: list[tuple[Value, ...]] = []
    for each in found:
        if (clock := each.flow.clock) is not None:
            for role, name in enumerate(ROLES):
                of_role = (*_both(clock.r2, 0, role), _finite(clock.off.value[0, role]))
                for state in range(len(clock.reading.value)):
                    means = (clock.reading, clock.logit_lens, clock.ridge_lens)
                    numbers = [number for mean in means for number in _both(mean, state, role)]
                    rows.append((each.label, name, state, *of_role, *numbers))
    of_states = [column for name in ("reading", "logit lens", "ridge lens") for column in (name, "stderr")]
    columns = ("plan", "role", "state", "R²", "stderr", "layers off", *of_states)
    return Table("flow-clock", "Which depth of the full model states look like", columns, tuple(rows))


def verdict_words(verdict: Verdict) -> str:
    """What was measured of a claim."""
    of = "subject" if verdict.claim in ("enriched", "told", "built") else "prompt"
    if verdict.prompts < LEAST_PROMPTS:
        return f"{count(verdict.prompts, of)}, too few to tell"
    error = f"{2 * verdict.stderr:.2g}" if math.isfinite(verdict.stderr) else "-"
    shown = f"{verdict.mean:+.1f}" if abs(verdict.mean) >= 1 else f"{verdict.mean:+.3f}"
    return f"{shown} ± {error} over {count(verdict.prompts, of)}; it holds below {verdict.below:g}"


def chosen(study: FlowStudy, most: int) -> list[LabelledFlow]:
    """For figures: the full model, and of the others those that know most facts, where any is known."""
    first, others = study.found[:1], study.found[1:]
    others = tuple(sorted(others, key=lambda each: -int(each.flow.known.sum())))
    return [each for each in (*first, *others) if each.flow.known.any()][:most]


def flow_studies(
    rows: Mapping[FlowSetting, Mapping[str, Flow]], labels: Mapping[str, str], full: str
) -> Iterator[FlowStudy]:
    """By setting; `labels` and flows by the plans' texts."""
    for setting, flows in rows.items():
        yield FlowStudy(setting, tuple(LabelledFlow(labels[text], flows[text]) for text in _full_first(flows, full)))


def story_studies(
    rows: Mapping[StorySetting, Mapping[str, Story]], labels: Mapping[str, str], full: str
) -> Iterator[StoryStudy]:
    """As `flow_studies`; plans that give the full model's answer before those that do not."""
    for setting, stories in rows.items():
        answer = stories[full].answer if full in stories else None
        order = sorted(_full_first(stories, full), key=lambda text: stories[text].answer != answer)
        yield StoryStudy(setting, tuple(LabelledStory(labels[text], stories[text]) for text in order))


def _full_first(texts: Mapping[str, object], full: str) -> list[str]:
    return sorted(texts, key=lambda text: text != full)


def _step(flow: Flow, key: int) -> int | None:
    """Around which a window on a key set hurts most; None where none hurts."""
    values = flow.by_depth.value[:, key]
    return int(np.nanargmin(values)) if len(values) and np.nanmin(values, initial=0.0) < 0 else None


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
