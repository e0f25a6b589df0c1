"""see how facts reach the last token: attention to a part of the prompt blocked

examples:
  jaxpaint flow --model painter-16 --plan '0-3 {4-11}*2 12-15'
  jaxpaint flow --model painter-16 --strategies skip,parallel --starts 2,4 \\
      --store flow.sqlite && jaxpaint report flow.sqlite -o report
  jaxpaint flow --model llama2-7b --facts known_1000.json --limit 200 \\
      --plan '0-8 {9-22}*3 23-31' --figure flow.png --story 1
  jaxpaint flow --model llama2-7b --facts known_1000.json --strategies skip \\
      --store flow.sqlite --dry-run       (how much it is, and how long)

Of the facts that a plan knows, how does the answer's probability change when
the last token does not attend to the subject, to the rest of the prompt, or to
itself: everywhere, and in windows of steps and of layers (Geva et al., arXiv
2304.14767). The full model is always asked, too. FILE is a JSON list of
{"prompt": …, "subject": …, "answer": …}, each prompt ending before its answer.

With --store, plans are kept as they are done: the same command goes on, and
`jaxpaint report` draws them, with the story of one prompt.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, write_whole
from jaxpaint.base.limits import require
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import model_config, model_store
from jaxpaint.cli.options import add_model_options, add_variant_options, variant_options
from jaxpaint.studies.settings import checked_options
from jaxpaint.studies.spec import numbered, variants_of

if TYPE_CHECKING:
    from jaxpaint.analysis.asking import Asked
    from jaxpaint.analysis.facts import Fact
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source
    from jaxpaint.plans.strategies import Variant
    from jaxpaint.report.flow import FlowStudy, StoryStudy
    from jaxpaint.results.flow import Flow, Mean, Windows
    from jaxpaint.results.story import Story

IN_FULL = 3  # plans; of more, a line each


class Flows(TypedDict):
    """The full model first, then every plan; what each number is, docs/flow.md says."""

    plans: list[dict[str, Any]]
    stories: list[dict[str, Any]]


class Foreseen(TypedDict):
    """With --dry-run: what there is to do, in words and in numbers; `seconds` is how long it may take."""

    lines: list[str]
    numbers: dict[str, float]


Answer = Flows | Foreseen


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do and how long it may take")
    parser.add_argument("--story", type=int, metavar="N", help="tell the story of the Nth fact under each plan")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the curves here, PNG or PDF")
    parser.add_argument("--store", type=Path, metavar="FILE", help="a results store to keep it in, made or added to")
    add_model_options(parser.add_argument_group("model"), parallel=False)
    facts = parser.add_argument_group("facts")
    facts.add_argument(
        "--facts", type=Path, metavar="FILE", help="facts as JSON; needed, but of painter-16 (default: its own)"
    )
    facts.add_argument("--limit", type=int, metavar="N", help="ask for the first N facts (default: all)")
    facts.add_argument("--before", default="", metavar="TEXT", help="examples in front of each prompt")
    asked = parser.add_argument_group("what is asked")
    asked.add_argument(
        "--window",
        type=int,
        metavar="N",
        help="steps or layers in which attention is blocked together (default: 9 of every 48 layers)",
    )
    asked.add_argument(
        "--branches", action="store_true", help="block attention in each branch of a parallel group by itself, too"
    )
    asked.add_argument(
        "--patches", action="store_true", help="ask what attention would say of earlier states of the prompt, too"
    )
    asked.add_argument(
        "--sublayers",
        action="store_true",
        help="switch attention, or feed-forwards, of some layers off, and see what the subject's state tells, too",
    )
    asked.add_argument(
        "--clock", action="store_true", help="ask which depth of the full model each state looks like, too"
    )
    add_variant_options(parser.add_argument_group("plans, beside the full model"))


def run(options: argparse.Namespace) -> int:
    values = checked_options(variant_options(options))
    for name in ("limit", "window", "story"):
        if (number := getattr(options, name)) is not None and number < 1:
            raise UserError(f"--{name} {number}: give 1 or more")
    if options.figure is not None:
        if options.figure.suffix not in (".png", ".pdf"):
            raise UserError(f"--figure {options.figure}: give a name that ends in .png or .pdf")
        check_writable(options.figure, "the figure", "--figure")
    require(computing=True)
    config = model_config(options.model, options.revision)
    values["plans"] = numbered(values.get("plans", ()), options.model)
    variants = variants_of(config.num_hidden_layers, **values)

    from jaxpaint.analysis.asking import BRANCHES, CLOCK, PATCHES, SUBLAYERS, asked
    from jaxpaint.engine.source import Source
    from jaxpaint.models.family import require_lm_head

    require_lm_head(config, "what comes next")
    facts = _facts(options)[: options.limit]
    if options.story is not None and options.story > len(facts):
        raise UserError(f"--story {options.story}: there are {count(len(facts), 'fact')}")
    source = Source.of(model_store(options.model, options.revision), options.dtype, options.weights)
    wanted = [name for name in (BRANCHES, PATCHES, SUBLAYERS, CLOCK) if getattr(options, name)]
    to_ask = asked(source, facts, before=options.before, size=options.window, extras=wanted)
    if options.dry_run:
        return _dry_run(options, source, variants, to_ask)
    model = source.loaded
    story = None if options.story is None else options.story - 1
    if options.store is None:
        found, told, new = _computed(model, variants, to_ask, story)
    else:
        found, told, new = _kept(options.store, model, variants, to_ask, story)
    study, stories = _studies(variants, found, told, to_ask, story)
    if options.json:
        give(options, {"plans": [_values(each) for each in found], "stories": [_story(each) for each in told]}, None)
    else:
        print("\n".join(_shown(study, stories)))
        if options.store is not None:
            kept = f"{count(len(study.found), 'plan')} in {options.store}, {new} of them new"
            print(f"\n{kept}\ndraw them: jaxpaint report {options.store} -o report")
    if options.figure is not None:
        write_whole(_figure(study, options.figure.suffix[1:]), options.figure)
    return 0


def _dry_run(options: argparse.Namespace, source: Source, variants: Sequence[Variant], to_ask: Asked) -> int:
    from jaxpaint.studies.flow_estimate import describe_flow

    lines: list[str] = []
    numbers: dict[str, float] = {}
    for line in describe_flow(source, to_ask, [variant.plan for variant in variants], options.store):
        print(line, flush=True)
        lines.append(str(line))
        numbers |= line.numbers
    give(options, {"lines": lines, "numbers": numbers}, None)
    return 0


def _facts(options: argparse.Namespace) -> Sequence[Fact]:
    if options.facts is not None:
        from jaxpaint.analysis.facts import read_facts

        return read_facts(options.facts)
    if options.model == "painter-16":
        from jaxpaint.painter.facts import facts

        return facts()
    raise UserError("--facts FILE is lacking: a JSON list of {'prompt': …, 'subject': …, 'answer': …}")


def _computed(
    model: Model, variants: Sequence[Variant], to_ask: Asked, story: int | None
) -> tuple[Sequence[Flow], Sequence[Story], int]:
    from jaxpaint.analysis.flow import flows
    from jaxpaint.analysis.story import stories
    from jaxpaint.base.progress import bar

    plans = [variant.plan for variant in variants]
    with bar("blocking") as progress:
        found = flows(model, to_ask, plans, progress=progress)
    return found, () if story is None else stories(model, to_ask, story, plans), len(plans)


def _kept(
    file: Path, model: Model, variants: Sequence[Variant], to_ask: Asked, story: int | None
) -> tuple[Sequence[Flow], Sequence[Story], int]:
    """As `_computed`, of what the store lacks. Without a `story` it chooses one."""
    from jaxpaint.base.progress import bar
    from jaxpaint.results.store import Store
    from jaxpaint.studies.cells import register
    from jaxpaint.studies.flow import kept_flows, kept_stories, telling, told_before

    with Store.open(file, create=True) as store:
        about = register(store, model, variants, [])
        plans = dict(zip(about.plan_ids, about.plans, strict=True))
        with bar("blocking", "plans") as progress:
            found, new = kept_flows(model, store, about.model_id, plans, to_ask, progress=progress)
        place = told_before(store, about.model_id, to_ask) if story is None else story
        if place is None:
            place = telling(model, to_ask, list(found.values()))
        told = kept_stories(model, store, about.model_id, plans, to_ask, place)
    by_plan = {plan: number for number, plan in plans.items()}
    order = [by_plan[variant.plan] for variant in variants]
    return [found[number] for number in order], [told[number] for number in order], new


def _studies(
    variants: Sequence[Variant], found: Sequence[Flow], told: Sequence[Story], to_ask: Asked, story: int | None
) -> tuple[FlowStudy, StoryStudy | None]:
    from jaxpaint.analysis.story import setting_of
    from jaxpaint.report.flow import FlowStudy, LabelledFlow, LabelledStory, StoryStudy

    labels = [variant.label for variant in variants]
    flows = tuple(LabelledFlow(label, flow) for label, flow in zip(labels, found, strict=True))
    study = FlowStudy(to_ask.setting, flows)
    if story is None:
        return study, None
    stories = tuple(LabelledStory(label, each) for label, each in zip(labels, told, strict=True))
    return study, StoryStudy(setting_of(to_ask, story), stories)


def _shown(study: FlowStudy, stories: StoryStudy | None) -> list[str]:
    from jaxpaint.report.flow_text import plan_lines, story_lines, summary_lines

    size = study.setting.size
    if len(study.found) > IN_FULL:
        lines = [*plan_lines(study.found[0], size), "", *summary_lines(study.found)]
    else:
        lines = [line for each in study.found for line in (*plan_lines(each, size), "")][:-1]
    if stories is not None:
        lines += ["", *story_lines(stories.setting, stories.found)]
    return lines


def _figure(study: FlowStudy, kind: str) -> bytes:
    from jaxpaint.report.figures import as_bytes
    from jaxpaint.report.figures.flow import flow_figures

    drawn = next(flow_figures(study), None)
    if drawn is None:
        raise UserError("no plan knows any of the facts, so there is no figure to draw")
    return as_bytes(drawn, "", kind)


def _values(flow: Flow) -> dict[str, Any]:
    from jaxpaint.plans.events import branches, events
    from jaxpaint.results.flow import PLACES, ROLES, SETS, SHARES, WRITERS, nested

    def listed(mean: Mean | None) -> Any:
        return None if mean is None else {"value": nested(mean.value), "stderr": nested(mean.stderr)}

    def windows(each: Windows | None) -> Any:
        names = {"everywhere": "everywhere", "by_step": "by_depth", "by_layer": "by_layer", "by_branch": "by_branch"}
        return None if each is None else {name: listed(getattr(each, own)) for name, own in names.items()}

    extracted, patched, enriched, silenced = flow.extraction, flow.patched, flow.enriched, flow.silenced
    rates = {"attention", "mlp", "steps"}
    return {
        "plan": str(flow.plan),
        "sets": SETS,
        "known": flow.known.tolist(),
        "everywhere": listed(flow.everywhere),
        "left": nested(flow.left),
        "by_step": listed(flow.by_depth),
        "by_layer": listed(flow.by_layer),
        "logit": windows(flow.logit),
        "answers_left": windows(flow.answers_left),
        "branches": [branch.label for branch in branches(flow.plan)][: len(flow.by_branch.value)],
        "by_branch": listed(flow.by_branch),
        "written": None if flow.written is None else {"by": WRITERS, **listed(flow.written)},
        "extraction": None
        if extracted is None
        else {
            "shares": dict(zip(SHARES, nested(extracted.shares), strict=True)),
            "rates": {name: nested(getattr(extracted, name)) for name in sorted(rates)},
            "events": [{"step": event.depth, "layer": event.layer} for event in events(flow.plan)],
        },
        "patched": None
        if patched is None
        else {"states": patched.donors, "own": listed(patched.own), "share": listed(patched.share)},
        "enriched": None
        if enriched is None
        else {
            "places": PLACES[: enriched.own.value.shape[1]],
            "own": listed(enriched.own),
            "control": listed(enriched.control),
            "own_by_branch": listed(enriched.own_by_branch),
            "control_by_branch": listed(enriched.control_by_branch),
        },
        "without_sublayers": None
        if silenced is None
        else {name: listed(getattr(silenced, name)) for name in ("own", "attention", "mlp")},
        "clock": None
        if flow.clock is None
        else {
            "roles": ROLES,
            **{
                name: listed(getattr(flow.clock, name)) for name in ("r2", "off", "reading", "logit_lens", "ridge_lens")
            },
        },
        "verdicts": [
            {**asdict(each), "claim": each.words, "answer": each.answer, **_numbers(each.mean, each.stderr)}
            for each in flow.verdicts
        ],
    }


def _numbers(mean: float, stderr: float) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {"mean": mean if math.isfinite(mean) else None, "stderr": stderr if math.isfinite(stderr) else None}


def _story(story: Story) -> dict[str, Any]:
    from jaxpaint.results.flow import SETS, nested
    from jaxpaint.results.story import sentences

    names = ("tokens", "answer", "labels", "depths", "said", "said_logprob", "answer_logprob")
    return {
        "plan": str(story.plan),
        "sets": dict(zip(SETS, nested(story.sets), strict=True)),
        **{name: nested(getattr(story, name)) for name in (*names, "reads", "feed_forward", "change")},
        "sentences": list(sentences(story)),
    }
