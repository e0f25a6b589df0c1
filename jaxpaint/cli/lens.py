"""show what each step of a plan would say, were it the last (the logit lens)

examples:
  jaxpaint lens --model painter-16 \\
      --text 'question : what is the animal of lumor ? answer :'
  jaxpaint lens --model llama2-7b --plan '0-8 {9-22}*3 23-31' --top 5 \\
      --text 'Beats Music is owned by'

A state goes through the final norm, with its own statistics, and the head: the
last one's tokens are the plan's own. A step is a layer or a whole group.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.limits import require
from jaxpaint.base.shown import visible
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import add_model_options, add_plan_options, add_text_option, check_plan_options, plan_line

if TYPE_CHECKING:
    from jaxpaint.engine.run import Run

LABEL = 20  # characters; longer labels are cut


class Answer(TypedDict):
    """Of every state the tokens that it would say at every position: {"step", "layers", "said"}."""

    plan: str
    tokens: list[str]
    states: list[dict[str, Any]]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, parallel=False)
    add_text_option(parser, "the text to read")
    parser.add_argument("--position", type=int, default=-1, metavar="N", help="of the token (default: -1, the last)")
    parser.add_argument("--top", type=int, default=3, metavar="N", help="tokens of each state (default: %(default)s)")
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")


def run(options: argparse.Namespace) -> int:
    check_plan_options(options)
    require(computing=True)
    from jaxpaint.engine.interventions import places
    from jaxpaint.engine.next_tokens import encoded, require_count
    from jaxpaint.models.family import require_lm_head

    require_count(options.top)
    options.tensor_parallel = options.layer_parallel = 1
    options.offload = False
    source, plan = source_with_plan(options, lambda config, _: require_lm_head(config, "the lens"))
    tokens = encoded(source, options.text)  # what cannot be read is told before the weights are
    (position,) = places([options.position], len(tokens))
    seen = source.loaded.run([tokens], plan)
    if options.json:
        give(options, _answer(seen, options.top), None)
    else:
        print(_table(seen, options.top, position))
    return 0


def _table(seen: Run, top: int, position: int) -> str:
    lens, decode = seen.logit_lens(top, position), seen.model.tokenizer.decode
    read = visible(repr(seen.texts()[position]))
    lines = [
        plan_line(str(seen.plan), seen.plan.cost, seen.plan.depth),
        f"after {read}, position {position} of {seen.lengths[0]}: what each state would say, and its probability",
        f"{'step':>4}  {'layers':<{LABEL}}",
    ]
    for number, label in enumerate(("embeddings", *(step.label for step in seen.steps))):
        chosen = zip(lens.tokens[number, 0, 0], lens.logprobs[number, 0, 0], strict=True)
        said = "  ".join(
            f"{visible(repr(decode([int(each)]))):<11} {math.exp(logprob):.3f}" for each, logprob in chosen
        )
        shown = label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"
        lines.append(f"{number:4}  {shown:<{LABEL}} {said}".rstrip())
    return "\n".join(lines)


def _answer(seen: Run, top: int) -> Answer:
    lens, decode = seen.logit_lens(top), seen.model.tokenizer.decode
    states = []
    for number, label in enumerate(("embeddings", *(step.label for step in seen.steps))):
        said = [
            [
                {"id": int(token), "text": decode([int(token)]), "logprob": float(logprob)}
                for token, logprob in zip(lens.tokens[number, 0, at], lens.logprobs[number, 0, at], strict=True)
            ]
            for at in range(seen.lengths[0])
        ]
        states.append({"step": number, "layers": label, "said": said})
    return {"plan": str(seen.plan), "tokens": list(seen.texts()), "states": states}
