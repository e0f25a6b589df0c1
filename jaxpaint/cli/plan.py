"""draw a layer plan and say what it costs

examples:
  jaxpaint plan '0-8 {9-22}*3 23-31' --layers 32
  jaxpaint plan --strategy looped-parallel --start 8 --layers 32
"""

from __future__ import annotations

import argparse

from jaxpaint.base.errors import UserError
from jaxpaint.cli.options import add_strategy_options, chosen_plan


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="the plan's text (or give --strategy)")
    parser.add_argument("--layers", type=int, required=True, metavar="T", help="layers that the model has")
    add_strategy_options(parser.add_argument_group("or a strategy"))


def run(options: argparse.Namespace) -> int:
    if options.layers < 1:
        raise UserError(f"--layers is {options.layers}; a model has at least 1")
    if options.plan is None and options.strategy is None:
        raise UserError("give a plan such as '0-8 {9-22}*3 23-31', or --strategy NAME")
    plan = chosen_plan(options, options.layers)
    print(plan.draw())
    print()
    print(f"plan    {plan}")
    print(f"cost    {plan.cost} layer applications ({plan.cost / options.layers:.2f} of the full model's)")
    print(f"depth   {plan.depth} layers, if parallel layers truly run at once")
    print(f"layers  {len(plan.layers)} of {options.layers} used")
    return 0
