"""show the most likely next tokens after a text

example:
  jaxpaint logits --model llama2-7b --plan '0-8 {9-22} 23-31' \\
      --text 'The capital of France is'
"""

from __future__ import annotations

import argparse

from jaxpaint.base.limits import require
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import add_host_options, add_model_options, add_plan_options, check_plan_options, plan_line


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument("--text", required=True, metavar="T", help="the text to continue")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="tokens to show (default: %(default)s)")
    add_host_options(parser)
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")


def run(options: argparse.Namespace) -> int:
    check_plan_options(options)
    require(computing=True)
    from jaxpaint.engine.next_tokens import encoded, most_likely_next, require_count
    from jaxpaint.models.family import require_lm_head

    require_count(options.top)
    source, plan = source_with_plan(options, lambda config, _: require_lm_head(config, "what comes next"))
    encoded(source, options.text)  # what cannot be continued is told before the weights are read
    model = source.loaded
    tokens = most_likely_next(model, plan, options.text, options.top)
    print(plan_line(str(plan), plan.cost, plan.depth))
    print(f"{'logit':>9} {'probability':>12}  token")
    for token in tokens:
        print(f"{token.logit:9.3f} {token.probability:12.4f}  {token.text!r} ({token.id})")
    return 0
