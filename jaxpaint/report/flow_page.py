"""The page's part on how facts flow: what was claimed and what came out, figures, tables and stories."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from jaxpaint.base.words import count
from jaxpaint.report.data import Study
from jaxpaint.report.figures.flow import MOST_PLANS, flow_figures
from jaxpaint.report.flow import (
    FlowStudy,
    LabelledFlow,
    StoryStudy,
    about,
    chosen,
    clock_table,
    enriched_table,
    flow_studies,
    story_studies,
    summary_table,
    verdict_words,
    windows_table,
    written_table,
)
from jaxpaint.report.parts import MOST_ROWS, Listing, Picture, pictures, saved
from jaxpaint.report.story_picture import StoryBox
from jaxpaint.results.flow import Answer, Flow, FlowSetting
from jaxpaint.results.story import Story, StorySetting


@dataclass(frozen=True)
class Claim:
    """A claim, what became of it, and by what number."""

    words: str
    answer: Answer
    measured: str


@dataclass(frozen=True)
class PlanClaims:
    """What became of the claims under one plan."""

    label: str
    known: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class FlowSection:
    """One set of facts."""

    anchor: str
    about: str
    plans: tuple[PlanClaims, ...]
    pictures: tuple[Picture, ...]

    @property
    def claims(self) -> list[tuple[str, list[Claim | None]]]:
        """Each claim in words, and what became of it under each plan: None where it could not be asked."""
        found = [{claim.words: claim for claim in plan.claims} for plan in self.plans]
        return [(words, [each.get(words) for each in found]) for words in dict.fromkeys(chain(*found))]


def flow_parts(
    study: Study, folder: Path, prefix: str
) -> tuple[tuple[FlowSection, ...], tuple[StoryBox, ...], list[Listing]]:
    """Of a study: its sections, its stories, and tables."""
    sections, listings = [], []
    flows = flows_of(study)
    for number, found in enumerate(flows, 1):
        where = "-".join(part for part in (prefix, f"flow-{number}" if len(flows) > 1 else "") if part)
        sections.append(_section(found, study, folder, where))
        for table in (summary_table, windows_table, written_table, enriched_table, clock_table):
            made = table(found.found)
            if made.rows:
                listings.append(saved(made, made.texts()[:MOST_ROWS], folder, where))
    boxes = [
        StoryBox.of(found, "-".join(part for part in (prefix, f"story-{number}") if part))
        for number, found in enumerate(stories_of(study), 1)
    ]
    return tuple(sections), tuple(boxes), listings


def flows_of(study: Study) -> list[FlowStudy]:
    """A study's flows, by what was asked."""
    texts, labels = _names(study)
    flows: dict[FlowSetting, dict[str, Flow]] = defaultdict(dict)
    for row in study.flows:
        flows[row.setting][texts[row.plan]] = row.flow
    return list(flow_studies(flows, labels, _full(study)))


def stories_of(study: Study) -> list[StoryStudy]:
    """A study's stories, by their prompts."""
    texts, labels = _names(study)
    stories: dict[StorySetting, dict[str, Story]] = defaultdict(dict)
    for told in study.stories:
        stories[told.setting][texts[told.plan]] = told.story
    return list(story_studies(stories, labels, _full(study)))


def _names(study: Study) -> tuple[dict[int, str], dict[str, str]]:
    """Plans' texts by id, and by their texts the names that they have in the study."""
    labels = {plan.text: plan.text for plan in study.plans}
    for variant in reversed(study.variants):
        labels[study.plans[variant.column].text] = variant.label
    return {plan.id: plan.text for plan in study.plans}, labels


def _full(study: Study) -> str:
    return "" if study.full is None else study.plans[study.full].text


def _section(found: FlowStudy, study: Study, folder: Path, where: str) -> FlowSection:
    drawn = pictures(list(flow_figures(found)), study.model.name, folder, where)
    plans = tuple(_claims(each) for each in chosen(found, MOST_PLANS))
    return FlowSection("-".join(part for part in ("facts", where) if part), about(found.setting), plans, tuple(drawn))


def _claims(each: LabelledFlow) -> PlanClaims:
    flow = each.flow
    known = f"{int(flow.known.sum())} of {count(len(flow.known), 'fact')} known"
    claims = tuple(Claim(verdict.words, verdict.answer, verdict_words(verdict)) for verdict in flow.verdicts)
    return PlanClaims(each.label, known, claims)
