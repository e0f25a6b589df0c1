"""Flows of facts kept in a results store: what it lacks is computed in parts, each written when it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.flow import flows
from jaxpaint.analysis.knockouts import centred, knock_out
from jaxpaint.analysis.story import setting_of, stories
from jaxpaint.engine.model import Model
from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import SETS, Flow, settings_of
from jaxpaint.results.kinds import FLOW, STORY
from jaxpaint.results.schema import canonical_json
from jaxpaint.results.store import Store
from jaxpaint.results.story import Story

CANDIDATES = 16
PLANS_AT_ONCE = 16  # so many plans' flows may be lost, and are computed with what they share


def kept_flows(
    model: Model,
    store: Store,
    model_id: int,
    plans: Mapping[int, Plan],
    asked: Asked,
    *,
    progress: Callable[[int], Callable[[int, str], None]],
) -> tuple[dict[int, Flow], int]:
    """The flow of each plan, by its id in the store, and how many of them the store had lacked.

    `progress` counts plans.
    """
    settings = settings_of(asked.setting)
    stored = {number: store.analysis(model_id, number, FLOW, settings) for number in plans}
    lacking = sorted((number for number, value in stored.items() if value is None), key=lambda each: str(plans[each]))
    advance = progress(len(lacking)) if lacking else None
    for start in range(0, len(lacking), PLANS_AT_ONCE):
        part = lacking[start : start + PLANS_AT_ONCE]
        # Windows of all plans, so that this part and what a later call computes are one executable's.
        found = flows(model, asked, [plans[number] for number in part], among=list(plans.values()))
        for number, flow in zip(part, found, strict=True):
            store.add_record(model_id, number, FLOW, settings, flow.value)
            stored[number] = flow.value
        if advance is not None:
            advance(len(part), f"{start + len(part)} of {len(lacking)} plans")
    return {number: Flow.read(str(plan), stored[number]) for number, plan in plans.items()}, len(lacking)


def kept_stories(
    model: Model, store: Store, model_id: int, plans: Mapping[int, Plan], asked: Asked, fact: int
) -> dict[int, Story]:
    """The story of one of the facts, by its place, under each plan by its id in the store."""
    settings = asdict(setting_of(asked, fact))
    stored = {number: store.analysis(model_id, number, STORY, settings) for number in plans}
    lacking = [number for number, value in stored.items() if value is None]
    for number, story in zip(lacking, stories(model, asked, fact, [plans[each] for each in lacking]), strict=True):
        store.add_record(model_id, number, STORY, settings, story.value)
        stored[number] = story.value
    return {number: Story.read(str(plan), stored[number]) for number, plan in plans.items()}


def told_before(store: Store, model_id: int, asked: Asked) -> int | None:
    """The place of a fact whose story the store has under some plan; None where it has none."""
    known = {canonical_json(asdict(setting_of(asked, place))): place for place in reversed(range(len(asked.facts)))}
    query = "SELECT DISTINCT settings FROM analyses WHERE (model, name) = (?, ?) ORDER BY settings"
    rows = store.connection.execute(query, (model_id, STORY)).fetchall()
    return next((known[settings] for (settings,) in rows if settings in known), None)


def telling(model: Model, asked: Asked, flows: Sequence[Flow]) -> int:
    """The place of the fact whose story tells most.

    Of the first that most plans know, the one whose answer the full model loses by the surest window on either of
    subject and rest.
    """
    count = np.sum([flow.known for flow in flows], axis=0)
    places = np.flatnonzero(count == count.max())[:CANDIDATES]
    windows = centred("depth", asked.setting.size, model.num_layers)
    full = Plan.of(range(model.num_layers))
    (found,) = knock_out(model, [asked.prompts[place] for place in places], [full], windows)
    hurts = found.change[:, :, : SETS.index("last")].min(axis=1).max(axis=1)
    return int(places[hurts.argmin()])
