"""How facts flow: what blocking attention does by steps and layers, what writes the answer, what extracts it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from jaxpaint.plans.events import steps
from jaxpaint.report.figures import style
from jaxpaint.report.figures.style import Drawn
from jaxpaint.report.flow import FlowStudy, LabelledFlow, about, chosen
from jaxpaint.results.flow import PLACES, ROLES, SETS, WRITERS, Mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PLANS = 4
MOST_CHARACTERS = 40
Series: TypeAlias = tuple[str, np.ndarray, np.ndarray, np.ndarray]
"""A name, places along the plan, values, and their standard errors."""


def _of(mean: Mean, names: Sequence[str], before: str = "") -> list[Series]:
    places = np.arange(len(mean.value))
    return [(before + name, places, mean.value[:, k], mean.stderr[:, k]) for k, name in enumerate(names)]


def _written(each: LabelledFlow) -> list[Series]:
    return [] if each.flow.written is None else _of(each.flow.written, WRITERS)


def _extracted(each: LabelledFlow) -> list[Series]:
    """Branches that run at one step by their mean; a whole group at its last step."""
    flow, found = each.flow, each.flow.extraction
    if found is None:
        return []
    own, known = steps(flow.plan), int(flow.known.sum())
    depths = np.array([event.depth for step in own for event in step.events])
    places = np.unique(depths)
    ends = np.array([max(event.depth for event in step.events) for step in own])
    rates = [
        (name, places, np.array([rate[depths == place].mean() for place in places]))
        for name, rate in (("attention", found.attention), ("feed-forward", found.mlp))
    ]
    return [(*rate, np.sqrt(rate[2] * (1 - rate[2]) / known)) for rate in (*rates, ("whole step", ends, found.steps))]


def _extracted_by_layer(each: LabelledFlow) -> list[Series]:
    """Of a layer that runs several times the mean; nothing where layers are steps."""
    flow, found = each.flow, each.flow.extraction
    if found is None or flow.in_order:
        return []
    layers = np.array([event.layer for step in steps(flow.plan) for event in step.events])
    places, known = np.unique(layers), int(flow.known.sum())
    rates = [
        (name, np.array([rate[layers == place].mean() for place in places]))
        for name, rate in (("attention", found.attention), ("feed-forward", found.mlp))
    ]
    return [(name, places, rate, np.sqrt(rate * (1 - rate) / known)) for name, rate in rates]


def _enriched(each: LabelledFlow) -> list[Series]:
    found = each.flow.enriched
    if found is None:
        return []
    both = (("its own", found.own), ("another's", found.control))
    return [series for name, mean in both for series in _of(mean, (name,))]


def _enriched_elsewhere(each: LabelledFlow) -> list[Series]:
    """Where there are other places; a subject's first token is its last one where it is one token in all facts."""
    found = each.flow.enriched
    if found is None or found.own.value.shape[1] < len(PLACES):
        return []
    last, first, *others = _of(found.own, PLACES)
    return [("subject's last", *last[1:]), *([] if np.array_equal(first[2], last[2]) else [first]), *others]


def _enriched_by_branch(each: LabelledFlow) -> list[Series]:
    found = each.flow.enriched
    if found is None or found.own_by_branch is None or found.control_by_branch is None:
        return []
    both = (("its own", found.own_by_branch), ("another's", found.control_by_branch))
    return [series for name, mean in both for series in _of(mean, (name,))]


def _clock(each: LabelledFlow) -> list[Series]:
    """In layers; of the roles that have a clock, which are the same under all plans."""
    found, layers = each.flow.clock, len(each.flow.by_layer.value)
    if found is None or np.isnan(found.reading.value).all():
        return []
    names = [f"{role} (R² {r2:.3f})" for role, r2 in zip(ROLES, found.r2.value[0], strict=True)]
    own = [(name, at, layers * value, layers * error) for name, at, value, error in _of(found.reading, names)]
    straight = np.minimum(own[0][1], layers).astype(np.float64)
    told = [series for series in own if not np.isnan(series[2]).all()]
    return [*told, ("one layer a step", own[0][1], straight, np.zeros_like(straight))]


def _lenses(each: LabelledFlow) -> list[Series]:
    found = each.flow.clock
    if found is None or np.isnan(found.ridge_lens.value).all():
        return []
    lenses = ("logit lens", found.logit_lens), ("ridge lens", found.ridge_lens)
    own = [_of(mean, [f"{role}, {name}" for role in ROLES])[:2] for name, mean in lenses]  # not of all other tokens
    return [series for of_lens in own for series in of_lens if not np.isnan(series[2]).all()]


def _silenced(each: LabelledFlow) -> list[Series]:
    found = each.flow.silenced
    if found is None:
        return []
    whole = Mean(*(np.repeat(each, len(found.mlp.value), axis=0) for each in found.own))
    named = (("with all", whole), ("without attention", found.attention), ("without feed-forwards", found.mlp))
    return [series for name, mean in named for series in _of(mean, (name,))]


_ALONG: tuple[tuple[str, str, str, str, str, Callable[[LabelledFlow], list[Series]]], ...] = (
    (
        "flow-written",
        "What writes the answer's logit",
        "What attention of the last token to each part of the prompt adds to the answer's logit at each step, and what "
        "feed-forwards add, by the weights of branches. With embeddings and biases they add up to the logit.",
        "logit",
        "step",
        _written,
    ),
    (
        "flow-extraction",
        "Updates that say the answer",
        "The share of facts whose answer is on top of what a sublayer writes at the last token, and of what a whole "
        "step adds; of branches side by side the mean.",
        "share of facts",
        "step",
        _extracted,
    ),
    (
        "flow-extraction-by-layer",
        "Updates that say the answer, layer by layer",
        "The share of facts whose answer is on top of what a layer's sublayers write at the last token, wherever it "
        "runs; of a layer that runs several times the mean.",
        "share of facts",
        "layer",
        _extracted_by_layer,
    ),
    (
        "flow-enrichment",
        "Is the subject enriched?",
        "The share of a subject's attributes among as many tokens that the logit lens reads off its last token, and of "
        "another subject's. Over all subjects, known or not.",
        "share of attributes",
        "state (0: the embeddings)",
        _enriched,
    ),
    (
        "flow-enrichment-places",
        "What states tell of the subject, and where",
        "The share of a subject's attributes that the logit lens reads off its last and first token, the token after "
        "it and the last one of the prompt. Over all subjects, known or not.",
        "share of attributes",
        "state (0: the embeddings)",
        _enriched_elsewhere,
    ),
    (
        "flow-enrichment-branches",
        "What branches tell of the subject",
        "The share of a subject's attributes, and of another's, that the logit lens reads off its last token at the "
        "end of each branch of the plan's groups, in the order of the plan.",
        "share of attributes",
        "branch",
        _enriched_by_branch,
    ),
    (
        "flow-clock",
        "Which depth states look like",
        "The clock's reading in layers of the full model, at a subject's last token, the last one and all others, by "
        "ridge regressions on the full model with half of the subjects held out; of these prompts R² and what is "
        "read, known or not. A role below an R² of 0.9 has no clock.",
        "layers of the full model",
        "state (0: the embeddings)",
        _clock,
    ),
    (
        "flow-clock-lens",
        "What states say by the clock",
        "The share of prompts, of those held out, whose state says at its token what the plan's last state says there: "
        "through the logit lens, and through the ridge lens of the depth that the clock reads off the state.",
        "share of prompts",
        "state (0: the embeddings)",
        _lenses,
    ),
    (
        "flow-sublayers",
        "What builds up the subject",
        "The share of a subject's attributes that its last token tells late in the plan (after 41 in 48 of its steps), "
        "without attention or the feed-forwards of layers from each one on (11 in 48 of them). Over all subjects.",
        "share of attributes",
        "first layer without",
        _silenced,
    ),
)


def flow_figures(study: FlowStudy) -> Iterator[Drawn]:
    """Those that a study has data for: of the full model, and of the plans that know most facts."""
    found = chosen(study, MOST_PLANS)
    if not found:
        return
    shown = f"{about(study.setting)}. Bands are two standard errors; facts are those that a plan knows by itself."
    blocked: list[tuple[str, list[Series]]] = []
    for each in found:
        blocked.append((f"{each.label}, by steps", _of(each.flow.by_depth, SETS, "from ")))
        if not each.flow.in_order:
            blocked.append((f"{each.label}, by layers", _of(each.flow.by_layer, SETS, "from ")))
    yield Drawn(
        "flow",
        "flow",
        "Attention knocked out, by steps and by layers",
        "The change of the answer's probability where the last token does not attend to a part of the prompt, in "
        f"windows around each step of the plan's clock, and around each layer wherever it runs. {shown}",
        partial(_panels, panels=blocked, y="change of the answer's\nprobability, per cent", x="step or layer"),
        _size(blocked),
    )
    for slug, title, caption, y, x, series in _ALONG:
        with_data = [(each.label, series(each)) for each in found]
        if panels := [(name, of) for name, of in with_data if of]:
            draw = partial(_panels, panels=panels, y=y, x=x)
            yield Drawn(slug, slug, title, f"{caption} {shown}", draw, _size(panels))


def _size(panels: Sequence[object]) -> tuple[float, float]:
    return (9.2 if len(panels) > 1 else 6.0), 1.0 + 2.8 * -(-len(panels) // 2)


def _panels(figure: Figure, panels: Sequence[tuple[str, Sequence[Series]]], y: str, x: str) -> None:
    """Two abreast, with one scale."""
    grid = figure.subplots(-(-len(panels) // 2), min(2, len(panels)), sharey=True, squeeze=False)
    for axes, (title, series) in zip(grid.flat, panels, strict=False):
        _curves(axes, series)
        axes.set_title(title if len(title) < MOST_CHARACTERS else f"{title[: MOST_CHARACTERS - 1]}…")
        axes.set_xlabel(x)
    for axes in grid[:, 0]:
        axes.set_ylabel(y)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    style.legend_below(figure, grid[0, 0])


def _curves(axes: Axes, series: Sequence[Series]) -> None:
    for number, (name, places, value, stderr) in enumerate(series):
        style.band(axes, places, value, 2 * stderr, style.look(number), name)
    style.whole_numbers(axes.xaxis)
    axes.axhline(0, color=style.BLACK, linewidth=0.6)
