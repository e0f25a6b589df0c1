"""draw a layer plan and say what it costs

examples:
  jaxpaint plan '0-8 {9-22}*3 23-31'
  jaxpaint plan --strategy looped-parallel --start 8 --model smollm2
  jaxpaint plan '0-8 {9-22}*3 23-31' --format svg --output plan.svg
  jaxpaint plan --from mergekit.yml --layers 32
  jaxpaint plan '0-23 8-31' --layers 32 --to mergekit --model org/model

The model has the layers of --model, or --layers of them; without either, as
many as the plan names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, write_whole
from jaxpaint.base.texts import read_text
from jaxpaint.cli.answers import dumped, give
from jaxpaint.cli.loading import model_config
from jaxpaint.cli.options import add_output_option, add_strategy_options, chosen_plan
from jaxpaint.plans.merges import from_mergekit, from_repeats, to_mergekit, to_repeats
from jaxpaint.plans.nodes import MAX_LAYER
from jaxpaint.plans.plan import Plan

FORMATS = ("text", "svg", "mermaid", "json")


class Answer(TypedDict):
    """`layers` are those that the plan runs, of the model's `num_layers`."""

    plan: str
    cost: float
    depth: float
    num_layers: int
    relative_cost: float
    layers: list[int]
    drawing: str


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="the plan's text (or give --strategy, or --from)")
    parser.add_argument(
        "--layers", type=int, metavar="N", help="layers that the model has (default: the highest in the plan and 1)"
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="in place of --layers: a store, a folder, a hub id, painter-16"
    )
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a hub id, as owner/name@NAME (default: main)"
    )
    parser.add_argument("--format", choices=FORMATS, help="of what is printed (default: text)")
    add_output_option(parser, "the drawing")
    add_strategy_options(parser.add_argument_group("or a strategy"))
    tools = parser.add_argument_group("other tools' notations, of series plans")
    tools.add_argument(
        "--from", dest="source", metavar="FILE", help="a mergekit YAML file, or exllamav2's '[(0, 20), (10, 32)]'"
    )
    tools.add_argument(
        "--to", choices=("mergekit", "repeats"), help="print the plan as one of these instead; mergekit's has --model"
    )


def run(options: argparse.Namespace) -> int:
    if options.layers is not None and options.layers < 1:
        raise UserError(f"--layers is {options.layers}; a model has at least 1")
    if options.to is not None and (options.format is not None or options.json):
        raise UserError("--to is a notation of its own; leave --format and --json away")
    if options.to == "mergekit" and options.model is None:
        raise UserError("--to mergekit copies a model's layers, and none is named; give --model")
    if options.output is not None:
        check_writable(options.output, "a file")
    given = _given_layers(options)
    plan = _plan(options, MAX_LAYER + 1 if given is None else given)
    num_layers = max(plan.layers) + 1 if given is None else given
    answer: Answer = {
        "plan": str(plan),
        "cost": plan.cost,
        "depth": plan.depth,
        "num_layers": num_layers,
        "relative_cost": plan.cost / num_layers,
        "layers": sorted(plan.layers),
        "drawing": plan.draw(),
    }
    text = _text(options, plan, answer)
    if options.output is not None:
        write_whole(text + "\n", options.output)
        text = f"wrote {options.output}"
    give(options, answer, text)
    return 0


def _text(options: argparse.Namespace, plan: Plan, answer: Answer) -> str:
    if options.to == "mergekit":
        return to_mergekit(plan, options.model).rstrip("\n")
    if options.to == "repeats":
        return to_repeats(plan, answer["num_layers"])
    match options.format:
        case "svg":
            from jaxpaint.plans.svg import svg

            return svg(answer["drawing"])
        case "mermaid":
            from jaxpaint.plans.mermaid import mermaid

            return mermaid(plan.root)
        case "json":
            return dumped(answer)
    return "\n".join(
        [
            answer["drawing"],
            "",
            f"plan    {plan}",
            f"cost    {plan.cost} layer applications ({answer['relative_cost']:.2f} of the full model's)",
            f"depth   {plan.depth} layers, if parallel layers truly run at once",
            f"layers  {len(plan.layers)} of {answer['num_layers']} used",
        ]
    )


def _given_layers(options: argparse.Namespace) -> int | None:
    """Raises UserError where they are given twice, or needed and lacking."""
    if options.model is not None and options.to != "mergekit":
        if options.layers is not None:
            raise UserError(f"--model {options.model} says how many layers there are; leave --layers away")
        return model_config(options.model, options.revision).num_hidden_layers
    if options.layers is None and options.strategy is not None:
        raise UserError("a --strategy is of a number of layers; give --layers 32, or --model")
    return options.layers


def _plan(options: argparse.Namespace, num_layers: int) -> Plan:
    if options.source is None:
        if options.plan is None and options.strategy is None:
            raise UserError("give a plan such as '0-8 {9-22}*3 23-31', or --strategy NAME, or --from FILE")
        return chosen_plan(options, num_layers)
    if options.plan is not None or options.strategy is not None:
        raise UserError("a plan is --from a file, or written, or of a --strategy: give one of them")
    if options.source.lstrip().startswith(("[", "(")):
        return from_repeats(options.source, num_layers)
    return from_mergekit(read_text(Path(options.source)))[0].validate(num_layers)
