"""time plans on the device here, or say what they would cost on another

examples:
  jaxpaint bench --model llama2-7b --plan '0-31' --plan '0-8 {9-22} 23-31'
  jaxpaint bench --model llama2-7b --plan '0-31' --plan '0-20 25-31' \\
      --batch-size 8 --prompt-length 512 --new-tokens 128 --store study.sqlite
  jaxpaint bench --compile-for v5e --shape llama2-7b \\
      --plan '0-7 {8-23}*3 24-31' --program static
  jaxpaint bench --compile-for v5e:2x2 --shape llama2-7b
  jaxpaint bench --compile-for h100 --shape mistral-7b \\
      --program decode --rows 16 --length 640

With --model, plans write after random prompts: the time to the first new token,
that of each further one, and the memory at the peak, by rounds in which every
plan has its turn. --store keeps them beside a study's scores, for its report.

With --compile-for, nothing runs: memory and copies are what the device's
compiler decided; times are its own cost model's (TPU), so they are called
predicted. The compilers are extras, under their makers' licences:
jaxpaint[tpu-aot], [cuda-aot].
"""

from __future__ import annotations

import argparse
import dataclasses
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import described
from jaxpaint.bench.kinds import KINDS, Target, prepare
from jaxpaint.bench.shapes import SHAPES, config_of
from jaxpaint.cli import latency
from jaxpaint.cli.answers import give
from jaxpaint.cli.options import add_model_options, add_plan_options, check_plan_options, chosen_plan, take_plans

if TYPE_CHECKING:
    from jaxpaint.bench.ahead import Figures
    from jaxpaint.bench.programs import What, Work

Timed = latency.Answer


class Compiled(TypedDict):
    """With --compile-for: what the compiler decided (bytes a chip) and predicts; `problem` says why it does not fit."""

    versions: str
    problem: str | None
    compile_seconds: float
    arguments: float
    temporaries: float
    peak: float
    weight_copies: list[Any]
    gathers_in_loops: int
    collectives: list[Any]
    group_collectives: list[Any]
    predicted_seconds: float | None
    layer_cycles: float | None
    kernel_cycles: float | None
    ideal_cycles: float | None


Answer = Timed | Compiled

# Rows and tokens of a row, by what runs.
SIZES = {"score": (8, 1024), "static": (8, 1024), "decode": (4, 640)}


# The options of the one use, which mean nothing in the other.
OF_SHAPES = ("shape", "program", "rows", "length")
OF_MODELS = (
    *("revision", "dtype", "compare", "plans_file", "batch_size", "prompt_length", "new_tokens", "rounds", "store"),
    "output",
)


def add(parser: argparse.ArgumentParser) -> None:
    kinds = ", ".join(KINDS)
    add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'", several=True)
    parser.add_argument("--tensor-parallel", type=int, metavar="N", help="devices that share each weight")
    parser.add_argument(
        "--layer-parallel", type=int, metavar="N", help="lanes that share the members of parallel groups (default: 1)"
    )
    parser.add_argument("--offload", action="store_true", help="the layers' kernels stay in the host's memory")
    here = parser.add_argument_group("on the device that is here")
    add_model_options(here, defaults=False, parallel=False)
    here.add_argument("--compare", action="append", default=[], metavar="PLAN", help="another plan, as one more --plan")
    here.add_argument("--plans-file", type=Path, metavar="FILE", help="more plans, one a line, # for comments")
    for name, what in (
        ("batch_size", "prompts at once"),
        ("prompt_length", "tokens of a prompt"),
        ("new_tokens", "tokens to write after each"),
        ("rounds", "turns of every plan"),
    ):
        how = f"{what} (default: {latency.DEFAULTS[name]})"
        here.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=how)
    here.add_argument("--store", type=Path, metavar="FILE", help="a results store to keep them in, made or added to")
    here.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the figures as JSON")
    ahead = parser.add_argument_group("compiled for a device that is not here")
    ahead.add_argument("--compile-for", metavar="DEVICE", help=f"{kinds}; v5e:2x2 or h100:4 for several chips")
    ahead.add_argument("--shape", choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    ahead.add_argument(
        "--program",
        choices=SIZES,
        help="score: layers under the plan as data; static: the plan compiled in, with logits; decode: writing text "
        "(default: score)",
    )
    ahead.add_argument("--rows", type=int, metavar="N", help="rows of a batch (default: 8; 4 for decode)")
    ahead.add_argument("--length", type=int, metavar="N", help="tokens of a row (default: 1024; 640 for decode)")


def run(options: argparse.Namespace) -> int:
    if (options.model is None) == (options.compile_for is None):
        raise UserError("give --model M to measure it here, or --compile-for DEVICE --shape SHAPE, and not both")
    used, others = ("--model", OF_SHAPES) if options.model is not None else ("--compile-for", OF_MODELS)
    if stray := [name for name in others if getattr(options, name)]:
        raise UserError(f"--{stray[0].replace('_', '-')} does not go with {used}")
    for name in ("rows", "length", "tensor_parallel", "layer_parallel"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise UserError(f"--{name.replace('_', '-')} is {given}; give at least 1")
    options.plan, more = take_plans(options)
    options.compare = [*more, *options.compare]
    if options.compile_for is not None and more:
        raise UserError("--compile-for compiles one plan; give --plan once")
    check_plan_options(options)
    if options.model is not None:
        options.dtype = options.dtype or "auto"
        return latency.run(options)
    if options.shape is None:
        raise UserError(f"--compile-for needs a --shape, one of {', '.join(SHAPES)}")
    return _compile(options)


def _compile(options: argparse.Namespace) -> int:
    target, config = Target.parse(options.compile_for), config_of(options.shape)
    program: What = options.program or "score"
    if program == "decode" and not config.capabilities.decoder:
        raise UserError(f"{options.shape} is an encoder and writes no text; try --program score")
    if options.offload and target.kind.platform != "tpu":
        raise UserError(f"--offload: the compiler for {target.kind.name} says nothing of the host's memory; try a TPU")
    lanes = options.layer_parallel or 1
    if target.chips % lanes:
        raise UserError(f"{target.chips} chips cannot be split into {lanes} lanes for the layers of parallel groups")
    split = options.tensor_parallel or target.chips // lanes
    if target.chips // lanes % split:
        raise UserError(f"{target.chips // lanes} chips cannot be split into groups of {split} that share each weight")
    rows, length = SIZES[program]
    layers, positions = config.num_hidden_layers, config.max_position_embeddings
    if options.length and options.length > positions:
        raise UserError(f"--length is {options.length}; {options.shape} has {positions} positions")
    plan = chosen_plan(options, layers)
    prepare(target.kind)
    from jaxpaint.base.progress import say
    from jaxpaint.bench.ahead import compiled_figures
    from jaxpaint.bench.programs import Work

    length = options.length or min(length, positions)
    work = Work(program, plan, options.rows or rows, length, options.weights or "float", options.offload)
    say(f"compiling for {options.compile_for}, about a minute")
    figures = compiled_figures(config, work, target, split, "bfloat16", lanes)
    words = _said(options.shape, work, target, split, lanes, figures)
    give(options, {"versions": _versions(), **dataclasses.asdict(figures)}, "\n".join(words))
    return 1 if figures.problem else 0


def _said(shape: str, work: Work, target: Target, split: int, lanes: int, figures: Figures) -> list[str]:
    chips = "1 chip" if target.chips == 1 else f"{target.chips} chips, each weight over {split}"
    chips += f", groups over {lanes} lanes" if lanes > 1 else ""
    rows = f"{work.rows} row{'s' * (work.rows > 1)} of {work.length} tokens"
    lines = [
        f"{shape}, plan {work.plan}, {rows}, {described('bfloat16', work.weights)}",
        f"program      {work.what}, compiled for {target.kind.name} ({chips}) in {figures.compile_seconds:.0f} s",
    ]
    memory = target.kind.memory
    if figures.problem:
        return [*lines, f"fits         no: {figures.problem}"]
    parts = f"{_gib(figures.arguments)} of arguments, {_gib(figures.temporaries)} of temporaries"
    fits = "yes" if figures.peak <= memory else "no"
    lines.append(f"fits         {fits}: {_gib(figures.peak)} of {_gib(memory)} a chip ({parts})")
    copies, size = len(figures.weight_copies), sum(each for _, each in figures.weight_copies)
    lines.append(f"copies       {copies} of a weight's shape{f', {_gib(size)}' if copies else ''}")
    lines.append(f"gathers      {figures.gathers_in_loops} in loops")
    for name, each, count in figures.collectives:
        lines.append(f"collective   {count} {name} of {each / 1e6:.1f} MB a layer")
    for name, each, count in figures.group_collectives:
        lines.append(f"collective   {count} {name} of {each / 1e6:.1f} MB a group")
    if figures.predicted_seconds and figures.layer_cycles and figures.ideal_cycles:
        ideal = (figures.layer_cycles + figures.kernel_cycles) / figures.ideal_cycles
        kernel = f" and {figures.kernel_cycles / 1e6:.2f} of its kernel at the peak" if figures.kernel_cycles else ""
        lines.append(
            f"a layer      {figures.layer_cycles / 1e6:.2f} million cycles{kernel}, {ideal:.2f} times the chip's ideal"
        )
        tokens = work.rows * (1 if work.what == "decode" else work.length)
        lines.append(
            f"predicted    {tokens / figures.predicted_seconds:,.0f} tokens/s, without collectives, by {_versions()}"
        )
    else:
        lines.append("predicted    nothing: this compiler has no cost model for loops")
    return lines


def _gib(size: float) -> str:
    return f"{size / (1 << 30):.2f} GiB"


def _versions() -> str:
    found = []
    for name in ("jax", "libtpu", "jax-cuda12-plugin"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
