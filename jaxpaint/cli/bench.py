"""what a plan would cost on a device that is not here: compiled for it, nothing runs

examples:
  jaxpaint bench --compile-for v5e --shape llama2-7b --plan '0-7 {8-23}*3 24-31' --program static
  jaxpaint bench --compile-for v5e:2x2 --shape llama2-7b
  jaxpaint bench --compile-for h100 --shape mistral-7b --program decode --rows 16 --length 640

Memory and copies are what the compiler decided; times are its own cost model's (TPU), so they are called predicted.
The compilers are extras, under their makers' licences: jaxpaint[tpu-aot], jaxpaint[cuda-aot].
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import WEIGHTS, described
from jaxpaint.bench.kinds import KINDS, Target, prepare
from jaxpaint.bench.shapes import SHAPES, config_of
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.bench.ahead import Figures
    from jaxpaint.bench.programs import Work

# Rows and tokens of a row, by what runs.
SIZES = {"score": (8, 1024), "static": (8, 1024), "decode": (4, 640)}


def add(parser: argparse.ArgumentParser) -> None:
    kinds = ", ".join(KINDS)
    parser.add_argument(
        "--compile-for", required=True, metavar="DEVICE", help=f"{kinds}; v5e:2x2 or h100:4 for several chips"
    )
    parser.add_argument("--shape", required=True, choices=SHAPES, metavar="SHAPE", help=", ".join(SHAPES))
    parser.add_argument("--plan", metavar="PLAN", help="the plan's text (default: all layers in order)")
    parser.add_argument(
        "--program",
        choices=SIZES,
        default="score",
        help="score: layers under the plan as data; static: the plan compiled in, with logits; decode: writing text "
        "(default: %(default)s)",
    )
    parser.add_argument("--rows", type=int, metavar="N", help="rows of a batch (default: 8; 4 for decode)")
    parser.add_argument("--length", type=int, metavar="N", help="tokens of a row (default: 1024; 640 for decode)")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="float", help="what the layers' kernels are kept in (default: bfloat16)"
    )
    parser.add_argument("--tensor-parallel", type=int, metavar="N", help="chips per weight (default: all)")
    parser.add_argument(
        "--layer-parallel", type=int, metavar="N", help="lanes that share the members of parallel groups (default: 1)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(options: argparse.Namespace) -> int:
    for name in ("rows", "length", "tensor_parallel", "layer_parallel"):
        if (given := getattr(options, name)) is not None and given < 1:
            raise UserError(f"--{name.replace('_', '-')} is {given}; give at least 1")
    target, config = Target.parse(options.compile_for), config_of(options.shape)
    if options.program == "decode" and not config.capabilities.decoder:
        raise UserError(f"{options.shape} is an encoder and writes no text; try --program score")
    lanes = options.layer_parallel or 1
    if target.chips % lanes:
        raise UserError(f"{target.chips} chips cannot be split into {lanes} lanes for the layers of parallel groups")
    split = options.tensor_parallel or target.chips // lanes
    if target.chips // lanes % split:
        raise UserError(f"{target.chips // lanes} chips cannot be split into groups of {split} that share each weight")
    rows, length = SIZES[options.program]
    layers, positions = config.num_hidden_layers, config.max_position_embeddings
    if options.length and options.length > positions:
        raise UserError(f"--length is {options.length}; {options.shape} has {positions} positions")
    plan = (Plan.parse(options.plan) if options.plan else Plan.of(range(layers))).validate(layers)
    prepare(target.kind)
    from jaxpaint.base.progress import say
    from jaxpaint.bench.ahead import compiled_figures
    from jaxpaint.bench.programs import Work

    length = options.length or min(length, positions)
    work = Work(options.program, plan, options.rows or rows, length, options.weights)
    say(f"compiling for {options.compile_for}, about a minute")
    figures = compiled_figures(config, work, target, split, "bfloat16", lanes)
    if options.json:
        print(json.dumps({"versions": _versions(), **dataclasses.asdict(figures)}))
    else:
        print("\n".join(_said(options.shape, work, target, split, lanes, figures)))
    return 1 if figures.problem else 0


def _said(shape: str, work: Work, target: Target, split: int, lanes: int, figures: Figures) -> list[str]:
    chips = "1 chip" if target.chips == 1 else f"{target.chips} chips, each weight over {split}"
    chips += f", groups over {lanes} lanes" if lanes > 1 else ""
    lines = [
        f"{shape}, plan {work.plan}, {work.rows} rows of {work.length} tokens, {described('bfloat16', work.weights)}",
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
