"""Texts that `jaxpaint generate` wrote: as they come, side by side, below each other, as JSON lines."""

from __future__ import annotations

import logging
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import SHOWN, bar, logger
from jaxpaint.cli.options import plan_line
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.generation import Prompt, Sampling

ENDINGS = {"end": "", "stop": "", "length": " …", "not finite": " [NaN or infinite logits]"}
GAP, NARROWEST = 3, 24


class Written(TypedDict):
    """`ending` says why the text ends: end (a token that ends texts), stop, length, or "not finite"."""

    prompt: str
    plan: str
    text: str
    tokens: int
    ending: str


def compiling() -> None:
    """Says what the silence before the first token is; off a terminal, in a log alone."""
    extra = None if sys.stderr.isatty() else SHOWN
    logger.log(logging.INFO, "compiling, and reading the prompt …", extra=extra)


def stream(model: Model, plan: Plan, prompt: Prompt, sampling: Sampling, kv: Any) -> None:
    """Prints the text of one plan as it is written."""
    from jaxpaint.generation import generate
    from jaxpaint.generation.text import Stream, finished_text

    written = Stream(model.tokenizer, prompt.stop)

    def show(plan: int, prompt: int, tokens: tuple[int, ...]) -> None:
        print(written.more(tokens), end="", flush=True)

    texts = generate(model, [prompt], [plan], sampling=sampling, kv=kv, on_tokens=show)
    logger.info("%s", plan_line(str(plan), plan.cost, plan.depth))
    compiling()
    (found,) = texts
    print(written.rest(finished_text(model.tokenizer, found.tokens, prompt.stop)))
    if found.ending == "not finite":
        raise UserError(f"NaN or infinite logits under plan {plan}; the text ends before them")


def write_all(
    model: Model, plans: Sequence[Plan], texts: Sequence[str], prompts: Sequence[Prompt], sampling: Sampling, kv: Any
) -> list[Written]:
    """Every prompt under every plan, plan by plan, with a bar."""
    from jaxpaint.generation import generate
    from jaxpaint.generation.text import finished_text

    compiling()
    found: dict[tuple[int, int], Written] = {}
    with bar("writing") as start:
        advance = start(len(plans) * sum(prompt.max_new_tokens for prompt in prompts))

        def count(plan: int, prompt: int, tokens: tuple[int, ...]) -> None:
            advance(len(tokens))

        for each in generate(model, prompts, plans, sampling=sampling, kv=kv, on_tokens=count):
            text = finished_text(model.tokenizer, each.tokens, prompts[each.prompt].stop)
            found[each.prompt, each.plan] = {
                "prompt": texts[each.prompt],
                "plan": str(plans[each.plan]),
                "text": text,
                "tokens": len(each.tokens),
                "ending": each.ending,
            }
    return [found[key] for key in sorted(found)]


def shown(found: Sequence[Written], plans: int) -> str:
    """One prompt's texts in columns as wide as the terminal allows, below each other where that is too narrow; of
    several prompts, prompt by prompt."""
    if len(found) > plans:
        return "\n\n".join(
            f"{found[first]['prompt'].strip()}\n{_below(found[first : first + plans])}"
            for first in range(0, len(found), plans)
        )
    width = (shutil.get_terminal_size().columns - GAP * (plans - 1)) // plans
    return _below(found) if width < NARROWEST else "\n".join(_beside(found, width))


def _below(found: Sequence[Written]) -> str:
    width = shutil.get_terminal_size().columns - 2
    parts = []
    for each in found:
        parts += [each["plan"], textwrap.indent("\n".join(_wrapped(_ended(each), width)), "  "), ""]
    return "\n".join(parts)


def _beside(found: Sequence[Written], width: int) -> Iterator[str]:
    heads = [_wrapped(each["plan"], width) for each in found]
    tallest = max(map(len, heads))
    columns = [
        [*[""] * (tallest - len(head)), *head, "─" * width, *_wrapped(_ended(each), width)]
        for head, each in zip(heads, found, strict=True)
    ]
    for cells in zip_longest(*columns, fillvalue=""):
        yield (" " * GAP).join(f"{cell:<{width}}" for cell in cells).rstrip()


def _ended(each: Written) -> str:
    return each["text"] + ENDINGS[each["ending"]]


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.strip().splitlines() for part in textwrap.wrap(line, width) or [""]]
