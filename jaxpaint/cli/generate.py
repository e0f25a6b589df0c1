"""write on from a prompt under a plan

examples:
  jaxpaint generate --model llama2-7b --prompt 'The capital of France is'
  jaxpaint generate --model llama2-7b --strategy looped-parallel --start 8 \\
      --prompt 'Once upon a time' --temperature 0.8
  jaxpaint generate --model llama2-7b --prompt 'Once upon a time' \\
      --compare '0-31' --compare '0-8 {9-22} 23-31'
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import (
    add_cache_option,
    add_host_options,
    add_model_options,
    add_plan_options,
    check_plan_options,
    plan_line,
)
from jaxpaint.cli.streams import read_input
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source
    from jaxpaint.generation import Prompt, Sampling
    from jaxpaint.models.family import Config


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument("--prompt", required=True, metavar="T", help="the text to go on from; - reads standard input")
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, metavar="N", help="tokens to write at most (default: %(default)s)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="T", help="end before this text; may be given several times"
    )
    parser.add_argument(
        "--truncate-left", action="store_true", help="cut the beginning of a prompt that the model has no room for"
    )
    add_cache_option(parser)
    add_host_options(parser)
    drawing = parser.add_argument_group("drawing tokens (default: always the most likely)")
    drawing.add_argument(
        "--temperature", type=float, default=0.0, metavar="X", help="draw with this temperature (default: 0, greedy)"
    )
    drawing.add_argument("--top-k", type=int, default=0, metavar="N", help="among the N most likely (default: all)")
    drawing.add_argument(
        "--top-p", type=float, default=1.0, metavar="P", help="among the fewest that together have this probability"
    )
    drawing.add_argument(
        "--sampling-seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)"
    )
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")
    parser.add_argument(
        "--compare", action="append", default=[], metavar="PLAN", help="show plans side by side; give it for each"
    )


def run(options: argparse.Namespace) -> int:
    compared = [Plan.parse(text) for text in options.compare]
    if compared and (options.plan or options.strategy):
        raise UserError("give --compare for each plan, or one --plan or --strategy, not both")
    check_plan_options(options)
    if options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {options.max_new_tokens}; expected 1 or more")
    text = read_input("--prompt -") if options.prompt == "-" else options.prompt
    sampling = _sampling(options)

    def check(config: Config, plan: Plan) -> None:
        from jaxpaint.generation.cache import groups
        from jaxpaint.models.family import require_lm_head

        require_lm_head(config, "writing text")
        for each in compared or [plan]:
            each.validate(config.num_hidden_layers)
            if options.kv == "mean":
                groups(each, each.attentions)
        if text:  # that there is none is told in its place
            _check_new_tokens(options.max_new_tokens, config)

    source, plan = source_with_plan(options, check)
    plans = compared or [plan]
    prompt = _prompt(source, text, options)
    model = source.loaded
    _tell_settings(model)
    if compared:
        _compare(model, plans, prompt, sampling, options.kv)
    else:
        _stream(model, plan, prompt, sampling, options.kv)
    return 0


def _sampling(options: argparse.Namespace) -> Sampling:
    if not options.temperature and (options.top_k or options.top_p != 1.0 or options.sampling_seed):
        raise UserError("--top-k, --top-p and --sampling-seed need a --temperature above 0, such as 0.8")
    from jaxpaint.generation.sampling import Sampling

    return Sampling(options.temperature, options.top_k, options.top_p, options.sampling_seed)


def _check_new_tokens(new: int, config: Config) -> None:
    positions = config.max_position_embeddings
    if new >= positions:
        raise UserError(
            f"--max-new-tokens is {new}, and the model has {positions} positions for prompt and answer; expected at "
            f"most {positions - 1}"
        )


def _prompt(model: Source, text: str, options: argparse.Namespace) -> Prompt:
    from jaxpaint.generation import Prompt
    from jaxpaint.generation.serve import EMPTY

    tokens = model.tokenizer.encode(text, verbose=False)
    if not tokens:
        raise UserError(EMPTY)
    positions = model.config.max_position_embeddings
    excess = len(tokens) + options.max_new_tokens - positions
    if excess > 0 and not options.truncate_left:
        raise UserError(
            f"the prompt has {len(tokens)} tokens; with {options.max_new_tokens} new ones that is {excess} more than "
            f"the model's {positions} positions; shorten it, lower --max-new-tokens, or cut "
            "its beginning with --truncate-left"
        )
    return Prompt(tuple(tokens[max(excess, 0) :]), options.max_new_tokens, tuple(options.stop))


def _tell_settings(model: Model) -> None:
    from dataclasses import replace

    from jaxpaint.generation.settings import generation_settings

    # How long a text becomes is --max-new-tokens' to say.
    for line in replace(generation_settings(model), max_new_tokens=None).lines(model.tokenizer.eos_token_id):
        print(f"jaxpaint: {line}", file=sys.stderr)


def _stream(model: Model, plan: Plan, prompt: Prompt, sampling: Sampling, kv: Any) -> None:
    from jaxpaint.generation import generate
    from jaxpaint.generation.text import Stream, finished_text

    stream = Stream(model.tokenizer, prompt.stop)

    def show(plan: int, prompt: int, tokens: tuple[int, ...]) -> None:
        print(stream.more(tokens), end="", flush=True)

    texts = generate(model, [prompt], [plan], sampling=sampling, kv=kv, on_tokens=show)
    print(plan_line(str(plan), plan.cost, plan.depth), file=sys.stderr)
    (found,) = texts
    print(stream.rest(finished_text(model.tokenizer, found.tokens, prompt.stop)))
    if found.ending == "not finite":
        raise UserError(f"NaN or infinite logits under plan {plan}; the text ends before them")


def _compare(model: Model, plans: Sequence[Plan], prompt: Prompt, sampling: Sampling, kv: Any) -> None:
    """The texts in columns as wide as the terminal allows, below each other where that is too narrow."""
    from jaxpaint.generation import generate
    from jaxpaint.generation.text import finished_text

    endings = {"end": "", "stop": "", "length": " …", "not finite": " [NaN or infinite logits]"}
    texts = [""] * len(plans)
    for found in generate(model, [prompt], plans, sampling=sampling, kv=kv):
        texts[found.plan] = finished_text(model.tokenizer, found.tokens, prompt.stop) + endings[found.ending]
    gap, terminal = 3, shutil.get_terminal_size().columns
    width = (terminal - gap * (len(plans) - 1)) // len(plans)
    if width < 24:
        for plan, text in zip(plans, texts, strict=True):
            print(plan, textwrap.indent("\n".join(_wrapped(text, terminal - 2)), "  "), "", sep="\n")
        return
    heads = [_wrapped(str(plan), width) for plan in plans]
    tallest = max(map(len, heads))
    columns = [
        [*[""] * (tallest - len(head)), *head, "─" * width, *_wrapped(text, width)]
        for head, text in zip(heads, texts, strict=True)
    ]
    for cells in zip_longest(*columns, fillvalue=""):
        print((" " * gap).join(f"{cell:<{width}}" for cell in cells).rstrip())


def _wrapped(text: str, width: int) -> list[str]:
    return [part for line in text.strip().splitlines() for part in textwrap.wrap(line, width) or [""]]
