"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import WEIGHTS
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.proposals import MEASURED
from jaxpaint.plans.strategies import EVERY, STRATEGIES, build, taking


def add_model_options(parser, *, defaults: bool = True, parallel: bool = True, decoder: bool = True) -> None:
    """--model and how to load it. Without `defaults` nothing is required, and what is not given is None.

    Without `parallel` it is not spread over devices. `decoder` says that one will do, so that painter-16 is named.
    """
    parser.add_argument(
        "--model",
        required=defaults,
        metavar="M",
        help="a converted store, a Hugging Face or Meta folder, or a hub id (converted into a cache on first use)"
        + ("; painter-16 comes with jaxpaint" if decoder else ""),
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto" if defaults else None,
        help="of the computation; auto is float32 on CPU and bfloat16 on accelerators (default: auto)",
    )
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=WEIGHTS[0] if defaults else None,
        help="what the layers' kernels are kept in: as --dtype says, or integers, in a half or a third of bfloat16's "
        "memory; not for fine-tuning (default: float)",
    )
    if parallel:
        parser.add_argument(
            "--tensor-parallel",
            type=int,
            default=1 if defaults else None,
            metavar="N",
            help="devices that share each weight, for models larger than one device; the others share the rows",
        )
        parser.add_argument(
            "--layer-parallel",
            type=int,
            default=1 if defaults else None,
            metavar="N",
            help="lanes of devices that run the branches of parallel groups side by side, each with all weights",
        )
        parser.add_argument(
            "--offload",
            action="store_true",
            default=False if defaults else None,
            help="keep the layers' kernels in the host's memory, from which each comes as its layer runs",
        )


def add_host_options(parser) -> None:
    """--coordinator and its like, of commands that run on several processes as one."""
    group = parser.add_argument_group("several processes, or machines, as one")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the first process listens; auto under SLURM, Open MPI or on a TPU pod. Every process runs the same "
        "command on a model that is converted; the first one prints",
    )
    group.add_argument("--num-processes", type=int, metavar="N", help="how many processes there are")
    group.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")


def add_task_options(parser, *, defaults: bool = True, writes: bool = True) -> None:
    """--tasks and how they are asked. Without `defaults` nothing is required, and what is not given is None.

    `writes` says that there may be tasks whose answers are written.
    """
    parser.add_argument("--tasks", required=defaults, metavar="A,B", help="tasks, groups or task YAML files, by commas")
    parser.add_argument("--limit", type=float, metavar="N", help="documents per task, or a fraction below 1")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="examples in the prompt (default: the task's)")
    parser.add_argument(
        "--bos",
        choices=("auto", "on", "off"),
        default="auto" if defaults else None,
        help="begin texts with the BOS token; auto leaves it to the tokenizer (default: auto)",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[] if defaults else None,
        metavar="TASK[:SPLIT]=FILE",
        help="a local JSONL, CSV or Parquet file in place of a task's dataset; give it once per split",
    )
    parser.add_argument(
        "--trust-tasks",
        action="store_true",
        default=False if defaults else None,
        help="let task YAML files of your own run the Python that they name (!function)",
    )
    if writes:
        add_cache_option(parser, defaults=defaults)
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens per batch (default: by device)")


def add_cache_option(parser, *, defaults: bool = True) -> None:
    """--kv, of generation."""
    parser.add_argument(
        "--kv",
        choices=("exact", "mean"),
        default="exact" if defaults else None,
        help="keys and values while generating: each executed layer's own, or a parallel group's mean, as the "
        "paper's code has it (default: exact)",
    )


def add_plan_options(parser: argparse.ArgumentParser, plan_help: str, *, seed: bool = True) -> None:
    """--plan, or a --strategy with its options; --seed is one, unless the command itself has it."""
    group = parser.add_argument_group("layer plan (default: every layer in order)")
    group.add_argument("--plan", metavar="PLAN", help=plan_help)
    add_strategy_options(group, seed=seed)


def add_strategy_options(group, *, seed: bool = True) -> None:
    """--strategy with the options that make one plan of it."""
    group.add_argument("--strategy", metavar="NAME", help=f"a strategy by name: {', '.join(STRATEGIES)}")
    for option, metavar, help in (
        ("start", "S", "layers 0-S and T-S to the last stay as they are"),
        ("seed", "N", _of("seed")),
        ("iterations", "N", f"{_of('iterations')} (default: 3)"),
        ("times", "N", f"{_of('times')} (default: 2)"),
        ("layer", "I", _of("layer")),
        ("first", "I", f"the block's first layer, {_of('first')}"),
        ("last", "J", f"the block's last layer, {_of('last')}"),
    ):
        if seed or option != "seed":
            group.add_argument(f"--{option}", type=int, metavar=metavar, help=help)


def _of(option: str) -> str:
    takers = taking(option)
    return f"of {'strategies' if len(takers) > 1 else 'strategy'} {' and '.join(takers)}"


def check_plan_options(options: argparse.Namespace) -> None:
    """What can be said without a model, before the long work of loading one. Raises UserError."""
    if options.strategy is not None and options.plan is not None:
        raise UserError("give a plan or a --strategy, not both")
    if options.plan is not None:
        Plan.parse(options.plan)
    if options.strategy is None and (stray := [f"--{name}" for name in _strategy_details(options)]):
        raise UserError(
            f"{', '.join(stray)}: belongs to a --strategy, and none is given; name one of {', '.join(STRATEGIES)}"
        )


def chosen_plan(options: argparse.Namespace, num_layers: int) -> Plan:
    """The plan that the options name, checked against the model's layers. Raises UserError."""
    check_plan_options(options)
    if options.strategy is not None:
        return build(options.strategy, num_layers, **_strategy_details(options)).plan
    return Plan.of(range(num_layers)) if options.plan is None else Plan.parse(options.plan).validate(num_layers)


def plan_line(plan: str, cost: float, depth: float) -> str:
    """What ran, above what came of it."""
    return f"plan {plan} (cost {cost}, depth {depth} layers)"


_DETAILS = ("start", "seed", "iterations", "times", "layer", "first", "last")


def _strategy_details(options: argparse.Namespace) -> dict[str, int]:
    given = {name: getattr(options, name) for name in _DETAILS}
    return {name: value for name, value in given.items() if value is not None}


def variant_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_variant_options` adds, by the names of a study's settings; None is not given."""
    names = ("strategies", "starts", "seeds", "loops", "times", "plans-file")
    return {name: getattr(options, name.replace("-", "_")) for name in names}


def add_variant_options(plans, *, measured: bool = False) -> None:
    """--strategies with what many plans are made of, and --plans-file; `measured` names those of measurements, too."""
    names = EVERY if measured else STRATEGIES
    plans.add_argument("--strategies", metavar="A,B", help=f"by commas, of {', '.join(names)}")
    plans.add_argument("--starts", metavar="NUMBERS", help="start layers (default: all that the model has)")
    plans.add_argument("--seeds", metavar="N", help="of random: how many, or NUMBERS such as 3-7 (default: 10)")
    plans.add_argument("--loops", metavar="NUMBERS", help="iterations of looped-parallel (default: 3)")
    plans.add_argument("--times", metavar="NUMBERS", help="of block-repeat (default: 2,3)")
    plans.add_argument("--plans-file", metavar="F", help="plans of your own, one a line, # for comments")


def add_measured_options(plans) -> None:
    """What strategies of measurements take."""
    plans.add_argument(
        "--counts", metavar="NUMBERS", help=f"layers left out, or put in parallel, of {', '.join(MEASURED)}"
    )
    plans.add_argument(
        "--calibration",
        metavar="F",
        help='texts that those measure the model on: one a line, or JSON lines with "text" (painter-16 has its own)',
    )
