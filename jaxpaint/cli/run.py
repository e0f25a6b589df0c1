"""run a text under a plan: which steps wrote the next token, and what changes it

examples:
  jaxpaint run --model llama2-7b --text 'Beats Music is owned by' \\
      --plan '0-8 {9-22}*3 23-31'
  jaxpaint run --model llama2-7b --text 'Beats Music is owned by' \\
      --block 'Beats Music' --layers 10-20
  jaxpaint run --model llama2-7b --text 'Beats Music is owned by' --json

A token's logit is the sum of what the embeddings and each step's attention and
feed-forward wrote. With --block the last token does not attend to words of the
text ('kettle#2' where there are several, 'kettle#all' for all of them); with
--off a sublayer gives nothing; both in --layers or --steps, if named.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.numbers import parse_numbers
from jaxpaint.base.shown import visible
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import add_model_options, add_plan_options, add_text_option, check_plan_options, plan_line

if TYPE_CHECKING:
    import numpy as np

    from jaxpaint.engine.interventions import Intervention
    from jaxpaint.engine.run import Run

LABEL = 30  # characters; longer labels are cut


class Said(TypedDict):
    """A token that may come next."""

    id: int
    text: str
    logprob: float


class Answer(TypedDict):
    """`events` are the layers and sublayers in the order in which they run, `steps` the plan's parts, which name them;
    `attribution` has what each event wrote of the logit of `token`: a sum."""

    plan: str
    tokens: list[str]
    steps: list[dict[str, Any]]
    events: list[dict[str, Any]]
    changed: dict[str, str]
    next: list[Said]
    attribution: dict[str, Any]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser, parallel=False)
    add_text_option(parser, "the text to read")
    parser.add_argument("--token", metavar="TOKEN", help="the token to explain (default: the most likely one)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="next tokens to show (default: %(default)s)")
    changes = parser.add_argument_group("what is changed")
    changes.add_argument("--block", metavar="WORDS", help="words of the text that the last token does not attend to")
    changes.add_argument("--off", choices=("attention", "mlp"), help="a sublayer that gives nothing")
    changes.add_argument("--layers", metavar="NUMBERS", help="in these layers, such as 3,8-12 (default: all)")
    changes.add_argument("--steps", metavar="NUMBERS", help="in these steps of the plan, from 1 (default: all)")
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")


def run(options: argparse.Namespace) -> int:
    check_plan_options(options)
    if not (options.block or options.off) and (options.layers or options.steps):
        raise UserError("--layers and --steps say where something is changed; add --block PART or --off attention")
    where: dict[str, Any] = {
        name: parse_numbers(text) for name in ("layers", "steps") if (text := getattr(options, name)) is not None
    }
    require(computing=True)
    from jaxpaint.engine.interventions import Knockout, Scale, Where, require_event
    from jaxpaint.engine.next_tokens import encoded, require_count
    from jaxpaint.models.family import require_lm_head
    from jaxpaint.plans.events import steps

    require_count(options.top)
    options.tensor_parallel = options.layer_parallel = 1
    options.offload = False
    source, plan = source_with_plan(options, lambda config, _: require_lm_head(config, "what comes next"))
    require_event(Where(**where), steps(plan))
    tokens = encoded(source, options.text)  # what cannot be read is told before the weights are
    model = source.loaded
    plain = model.run([tokens], plan)
    changes: list[Intervention] = []
    if options.block:
        changes.append(Knockout(queries=-1, keys=plain.positions(options.block), **where))
    if options.off:
        changes.append(Scale(what=options.off, factor=0.0, **where))
    seen = model.run([tokens], plan, *changes) if changes else plain
    if options.json:
        give(options, _answer(seen, options), None)
        return 0
    lines = [plan_line(str(plan), plan.cost, plan.depth)]
    if options.block:
        blocked = plain.positions(options.block)
        lines.append(f"blocked: {', '.join(visible(repr(plain.texts()[at])) for at in blocked)}")
    print("\n".join([*lines, _next(seen, plain, options.top), _attribution(seen, options.token)]))
    return 0


def _next(seen: Run, plain: Run, top: int) -> str:
    """The next tokens, with the unchanged run's probabilities beside them where something was changed."""
    changed, decode = seen is not plain, seen.model.tokenizer.decode
    lines = [f"{'probability':>11}  {'unchanged':>9}  next token" if changed else f"{'probability':>11}  next token"]
    logprobs, before = _logprobs(seen), _logprobs(plain)
    for token in (-logprobs).argsort(kind="stable")[:top]:
        unchanged = f"  {math.exp(before[token]):9.4f}" if changed else ""
        lines.append(f"{math.exp(logprobs[token]):11.4f}{unchanged}  {visible(repr(decode([int(token)])))} ({token})")
    return "\n".join(lines)


def _logprobs(seen: Run) -> np.ndarray:
    """Of the token after the text."""
    import jax
    import numpy as np

    return np.asarray(jax.nn.log_softmax(seen.last_logits[0]))


def _attribution(seen: Run, token: str | None) -> str:
    found = seen.attribution(token)
    name = visible(repr(seen.model.tokenizer.decode([int(found.token[0])])))
    lines = [
        f"\nlogit {found.logit[0]:.3f} of {name}, and what wrote it",
        f"{'step':>4}  {'layers':<{LABEL}}  {'attention':>9}  {'mlp':>9}",
        f"{0:4}  {'embeddings':<{LABEL}}  {found.embedding[0]:9.3f}",
    ]
    for step in seen.steps:
        numbers = [event.number for event in step.events]
        shown = step.label if len(step.label) <= LABEL else f"{step.label[: LABEL - 1]}…"
        attention, mlp = found.attention[numbers, 0].sum(), found.mlp[numbers, 0].sum()
        lines.append(f"{step.number:4}  {shown:<{LABEL}}  {attention:9.3f}  {mlp:9.3f}")
    if abs(found.bias[0]) > 0:
        lines.append(f"      {'the final norm’s bias':<{LABEL}}  {found.bias[0]:9.3f}")
    return "\n".join(lines)


def _answer(seen: Run, options: argparse.Namespace) -> Answer:
    decode, found, logprobs = seen.model.tokenizer.decode, seen.attribution(options.token), _logprobs(seen)
    likely = [(int(token), float(logprobs[token])) for token in (-logprobs).argsort(kind="stable")[: options.top]]
    return {
        "plan": str(seen.plan),
        "tokens": list(seen.texts()),
        "steps": [
            {"step": step.number, "layers": step.label, "events": [event.number for event in step.events]}
            for step in seen.steps
        ],
        "events": [asdict(event) for event in seen.events],
        "changed": {name: value for name in ("block", "off", "layers", "steps") if (value := getattr(options, name))},
        "next": [{"id": token, "text": decode([token]), "logprob": logprob} for token, logprob in likely],
        "attribution": {
            "token": {"id": int(found.token[0]), "text": decode([int(found.token[0])])},
            "logit": float(found.logit[0]),
            "embedding": float(found.embedding[0]),
            "attention": found.attention[:, 0].tolist(),
            "mlp": found.mlp[:, 0].tolist(),
            "bias": float(found.bias[0]),
        },
    }
