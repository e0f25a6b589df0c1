"""show the most likely next tokens after a text

example:
  jaxpaint logits --model llama2-7b --plan '0-8 {9-22} 23-31' \\
      --text 'The capital of France is'
"""

from __future__ import annotations

import argparse

from typing_extensions import TypedDict

from jaxpaint.base.limits import require
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import (
    add_host_options,
    add_model_options,
    add_plan_options,
    add_text_option,
    check_plan_options,
    plan_line,
)


class Token(TypedDict):
    """A token that may come next; `probability` is the softmax of `logit` over the vocabulary."""

    id: int
    text: str
    logit: float
    probability: float


class Answer(TypedDict):
    """The most likely next tokens, the first the likeliest."""

    plan: str
    cost: float
    depth: float
    text: str
    next: list[Token]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_text_option(parser, "the text to continue")
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
    answer: Answer = {
        "plan": str(plan),
        "cost": plan.cost,
        "depth": plan.depth,
        "text": options.text,
        "next": [
            {"id": token.id, "text": token.text, "logit": token.logit, "probability": token.probability}
            for token in tokens
        ],
    }
    lines = [plan_line(str(plan), plan.cost, plan.depth), f"{'logit':>9} {'probability':>12}  token"]
    lines += [f"{token.logit:9.3f} {token.probability:12.4f}  {token.text!r} ({token.id})" for token in tokens]
    give(options, answer, "\n".join(lines))
    return 0
