"""write on from a prompt under a plan

examples:
  jaxpaint generate --model llama2-7b --prompt 'The capital of France is'
  jaxpaint generate --model llama2-7b --strategy looped-parallel --start 8 \\
      --prompt 'Once upon a time' --temperature 0.8
  jaxpaint generate --model llama2-7b --prompt 'Once upon a time' \\
      --plan '0-31' --plan '0-8 {9-22} 23-31'
  jaxpaint generate --model llama2-7b --prompts-file prompts.jsonl \\
      --output texts.jsonl

One plan's text is printed as it is written; of several the texts stand side by
side. A file of prompts has one a line, or JSON lines with "prompt". --output
has a JSON line for each prompt and plan.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from jaxpaint.base.documents import parse_json
from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, is_stream, write_whole
from jaxpaint.base.progress import say
from jaxpaint.base.texts import read_text
from jaxpaint.base.words import count
from jaxpaint.cli.answers import dumped, give
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import (
    add_cache_option,
    add_host_options,
    add_model_options,
    add_output_option,
    add_plan_options,
    check_plan_options,
    plan_of,
    take_plans,
)
from jaxpaint.cli.streams import read_input
from jaxpaint.cli.written import Written, shown, stream, write_all
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.engine.source import Source
    from jaxpaint.generation import Prompt, Sampling
    from jaxpaint.models.family import Config


class Answer(TypedDict):
    """What was written after each prompt under each plan, prompt by prompt."""

    texts: list[Written]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    prompts = parser.add_mutually_exclusive_group(required=True)
    prompts.add_argument(
        "--prompt", "--text", metavar="TEXT", help="the text to go on from; - reads standard input (default: none)"
    )
    prompts.add_argument("--prompts-file", type=Path, metavar="FILE", help="several, one a line or as JSON lines")
    add_output_option(parser, "what was written as JSON lines")
    parser.add_argument(
        "--max-new-tokens", type=int, default=64, metavar="N", help="tokens to write at most (default: %(default)s)"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given several times"
    )
    parser.add_argument(
        "--truncate-left", action="store_true", help="cut the beginning of a prompt that the model has no room for"
    )
    add_cache_option(parser)
    add_host_options(parser)
    drawing = parser.add_argument_group("drawing tokens (default: always the most likely)")
    drawing.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        metavar="NUMBER",
        help="draw with this temperature (default: 0, greedy)",
    )
    drawing.add_argument("--top-k", type=int, default=0, metavar="N", help="among the N most likely (default: all)")
    drawing.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        metavar="PROBABILITY",
        help="among the fewest that together have this probability",
    )
    drawing.add_argument(
        "--sampling-seed", type=int, default=0, metavar="N", help="of the draws (default: %(default)s)"
    )
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'", several=True)
    parser.add_argument("--compare", action="append", default=[], metavar="PLAN", help="the same as one more --plan")


def run(options: argparse.Namespace) -> int:
    first, others = take_plans(options)
    given = [*([] if first is None else [first]), *others, *options.compare]
    if options.strategy and given:
        raise UserError("give a plan, or several, or one --strategy, not both")
    options.plan = None
    check_plan_options(options)
    compared = [plan_of(text, options.model) for text in given]
    if options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {options.max_new_tokens}; expected 1 or more")
    if options.output is not None:
        check_writable(options.output, "a file of JSON lines")
    texts = _texts(options)
    sampling = _sampling(options)

    def check(config: Config, plan: Plan) -> None:
        from jaxpaint.generation.cache import groups
        from jaxpaint.models.family import require_lm_head

        require_lm_head(config, "writing text")
        for each in compared or [plan]:
            each.validate(config.num_hidden_layers)
            if options.kv == "mean":
                groups(each, each.attentions)
        if all(texts):  # that there is none is told in its place
            _check_new_tokens(options.max_new_tokens, config)

    source, plan = source_with_plan(options, check)
    plans = compared or [plan]
    prompts = [_prompt(source, text, options) for text in texts]
    model = source.loaded
    _tell_settings(model)
    if len(plans) == len(prompts) == 1 and options.output is None and not options.json:
        stream(model, plans[0], prompts[0], sampling, options.kv)
        return 0
    found = write_all(model, plans, texts, prompts, sampling, options.kv)
    if options.output is not None:
        write_whole("".join(f"{dumped(each)}\n" for each in found), options.output)
    is_kept = options.output is not None and not is_stream(options.output)
    words = f"wrote {count(len(found), 'text')} to {options.output}" if is_kept else shown(found, len(plans))
    give(options, {"texts": found}, None if options.output is not None and not is_kept else words)
    return 0


def _texts(options: argparse.Namespace) -> list[str]:
    """The prompts. Raises UserError for a file that cannot be read or has none."""
    if options.prompts_file is None:
        return [read_input("--prompt -") if options.prompt == "-" else options.prompt]
    file: Path = options.prompts_file
    lines = [(number, line) for number, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f'--prompts-file {file} has no prompt; write one a line, or JSON lines with "prompt"')
    if file.suffix != ".jsonl":
        return [line for _, line in lines]
    found = []
    for number, line in lines:
        value = parse_json(line, f"{file}, line {number}")
        prompt = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(prompt, str):
            raise UserError(f'{file}, line {number} is no prompt; expected {{"prompt": "…"}}')
        found.append(prompt)
    return found


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
        say(f"jaxpaint: {line}")
