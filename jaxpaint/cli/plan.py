"""draw a layer plan and say what it costs

examples:
  jaxpaint plan '0-8 {9-22}*3 23-31' --layers 32
  jaxpaint plan --strategy looped-parallel --start 8 --layers 32
  jaxpaint plan --from mergekit.yml --layers 32
  jaxpaint plan '0-23 8-31' --layers 32 --to mergekit --model org/model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.cli.options import add_strategy_options, chosen_plan
from jaxpaint.plans.merges import from_mergekit, from_repeats, to_mergekit, to_repeats
from jaxpaint.plans.plan import Plan


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="the plan's text (or give --strategy, or --from)")
    parser.add_argument("--layers", type=int, required=True, metavar="T", help="layers that the model has")
    add_strategy_options(parser.add_argument_group("or a strategy"))
    tools = parser.add_argument_group("other tools' notations, of series plans")
    tools.add_argument(
        "--from", dest="source", metavar="F", help="a mergekit YAML file, or exllamav2's '[(0, 20), (10, 32)]'"
    )
    tools.add_argument("--to", choices=("mergekit", "repeats"), help="print the plan as one of these instead")
    tools.add_argument("--model", metavar="M", help="whose layers mergekit copies: a hub id or a folder")


def run(options: argparse.Namespace) -> int:
    if options.layers < 1:
        raise UserError(f"--layers is {options.layers}; a model has at least 1")
    if (options.model is None) == (options.to == "mergekit"):
        raise UserError("--model names whose layers --to mergekit copies: give both, or neither")
    plan = _plan(options)
    if options.to == "mergekit":
        print(to_mergekit(plan, options.model), end="")
    elif options.to == "repeats":
        print(to_repeats(plan, options.layers))
    else:
        print(plan.draw())
        print()
        print(f"plan    {plan}")
        print(f"cost    {plan.cost} layer applications ({plan.cost / options.layers:.2f} of the full model's)")
        print(f"depth   {plan.depth} layers, if parallel layers truly run at once")
        print(f"layers  {len(plan.layers)} of {options.layers} used")
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    if options.source is None:
        if options.plan is None and options.strategy is None:
            raise UserError("give a plan such as '0-8 {9-22}*3 23-31', or --strategy NAME, or --from FILE")
        return chosen_plan(options, options.layers)
    if options.plan is not None or options.strategy is not None:
        raise UserError("a plan is --from a file, or written, or of a --strategy: give one of them")
    if options.source.lstrip().startswith(("[", "(")):
        return from_repeats(options.source, options.layers)
    return from_mergekit(read_text(Path(options.source)))[0].validate(options.layers)
