"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.precision import WEIGHTS
from jaxpaint.plans.names import NamedLayersError
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
        metavar="MODEL",
        help="a converted store, a Hugging Face or Meta folder, a GGUF file, or a hub id "
        "(converted into a cache on first use)" + ("; painter-16 comes with jaxpaint" if decoder else ""),
    )
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a hub id, as owner/name@NAME (default: main)"
    )
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
            help="devices that share each weight, for models larger than one device; the others share the rows "
            "(default: 1)",
        )
        parser.add_argument(
            "--layer-parallel",
            type=int,
            default=1 if defaults else None,
            metavar="N",
            help="lanes of devices that run the branches of parallel groups side by side, each with all weights "
            "(default: 1)",
        )
        parser.add_argument(
            "--offload",
            action="store_true",
            default=False if defaults else None,
            help="keep the layers' kernels in the host's memory, from which each comes as its layer runs",
        )


def add_output_options(parser: argparse.ArgumentParser, *, answers: bool) -> None:
    """What every command has: how much is told on the way, and --json where it `answers`."""
    group = parser.add_argument_group("what is printed")
    if answers:
        group.add_argument("--json", action="store_true", help="the answer as one JSON document, and nothing else")
    told = group.add_mutually_exclusive_group()
    told.add_argument("-q", "--quiet", action="store_true", help="no progress and no notes: the answer and errors")
    told.add_argument("-v", "--verbose", action="store_true", help="what libraries have to say, too")
    group.add_argument("--log-file", type=Path, metavar="FILE", help="add all that is told to this file, with the time")


def add_host_options(parser) -> None:
    """--coordinator and its like, of commands that run on several processes as one."""
    group = parser.add_argument_group("several processes, or machines, as one")
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="where the first process listens; auto under SLURM, Open MPI or on a TPU pod. Every process runs the same "
        "command on a model that is converted; the first one prints (default: this process alone)",
    )
    group.add_argument(
        "--num-processes", type=int, metavar="N", help="how many processes there are (default: as auto finds)"
    )
    group.add_argument("--process-id", type=int, metavar="N", help="which one this is, from 0 (default: as auto finds)")


def add_task_options(parser, *, defaults: bool = True, writes: bool = True) -> None:
    """--tasks and how they are asked. Without `defaults` nothing is required, and what is not given is None.

    `writes` says that there may be tasks whose answers are written.
    """
    parser.add_argument(
        "--tasks", required=defaults, metavar="TASK,TASK", help="tasks, groups or task YAML files, by commas"
    )
    parser.add_argument(
        "--limit", type=float, metavar="N", help="documents per task, or a fraction below 1 (default: all)"
    )
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
    add_data_folder_option(parser)
    parser.add_argument(
        "--trust-tasks",
        action="store_true",
        default=False if defaults else None,
        help="let task YAML files of your own run the Python that they name (!function)",
    )
    if writes:
        add_cache_option(parser, defaults=defaults)
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens per batch (default: by device)")


def add_data_folder_option(parser) -> None:
    """--data-dir."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="where files of the tasks lie, as TASK.jsonl or TASK_SPLIT.jsonl (or .csv, .parquet); --data goes before",
    )


def add_output_option(parser, what: str, *, required: bool = False, default: str = "standard output") -> None:
    """-o, a file to write `what` to."""
    parser.add_argument(
        *("-o", "--output"),
        **{"type": Path, "metavar": "FILE", "required": required},
        help=f"the file to write {what} to" + ("" if required else f" (default: {default})"),
    )


def add_text_option(parser, help: str) -> None:
    """--text, also called --prompt."""
    parser.add_argument("--text", "--prompt", required=True, metavar="TEXT", help=help)


def add_cache_option(parser, *, defaults: bool = True) -> None:
    """--kv, of generation."""
    parser.add_argument(
        "--kv",
        choices=("exact", "mean"),
        default="exact" if defaults else None,
        help="keys and values while generating: each executed layer's own, or a parallel group's mean, as the "
        "paper's code has it (default: exact)",
    )


def add_plan_options(
    parser: argparse.ArgumentParser,
    plan_help: str,
    *,
    seed: bool = True,
    several: bool = False,
    default: str = "all layers in order",
) -> None:
    """--plan, or a --strategy with its options; --seed is one, unless the command itself has it.

    `several` plans may be given where `take_plans` parts them. `default` says what runs without any.
    """
    group = parser.add_argument_group("layer plan")
    how: dict[str, Any] = {"action": "append"} if several else {}
    many = "; may be given several times" if several else ""
    group.add_argument("--plan", metavar="PLAN", help=f"{plan_help}{many} (default: {default})", **how)
    add_strategy_options(group, seed=seed)


def add_strategy_options(group, *, seed: bool = True) -> None:
    """--strategy with the options that make one plan of it."""
    group.add_argument("--strategy", metavar="NAME", help=f"a strategy by name: {', '.join(STRATEGIES)}")
    for option, metavar, help in (
        ("start", "LAYER", "the last of the first layers that stay as they are, as do as many of the last"),
        ("seed", "N", _of("seed")),
        ("iterations", "N", f"{_of('iterations')} (default: 3)"),
        ("times", "N", f"{_of('times')} (default: 2)"),
        ("layer", "LAYER", _of("layer")),
        ("first", "LAYER", f"the block's first layer, {_of('first')}"),
        ("last", "LAYER", f"the block's last layer, {_of('last')}"),
    ):
        if seed or option != "seed":
            group.add_argument(f"--{option}", type=int, metavar=metavar, help=help)


def _of(option: str) -> str:
    takers = taking(option)
    return f"of {'strategies' if len(takers) > 1 else 'strategy'} {' and '.join(takers)}"


def take_plans(options: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The first --plan and the others, of a command that takes several."""
    first, *others = options.plan or [None]
    return first, others


def check_plan_options(options: argparse.Namespace) -> None:
    """What can be said without a model, before the long work of loading one. Raises UserError."""
    if options.strategy is not None and options.plan is not None:
        raise UserError("give a plan or a --strategy, not both")
    if options.plan is not None:
        check_plan(options.plan)
    if options.strategy is None and (stray := [f"--{name}" for name in _strategy_details(options)]):
        raise UserError(
            f"{', '.join(stray)}: belongs to a --strategy, and none is given; name one of {', '.join(STRATEGIES)}"
        )


def check_plan(text: str) -> None:
    """Raises PlanError for a text that is no plan, whatever the model."""
    with suppress(NamedLayersError):
        Plan.parse(text)


def plan_of(text: str, model: str | None) -> Plan:
    """The plan of a text; names of layers are those of the composed model. Raises PlanError, UserError."""
    try:
        return Plan.parse(text)
    except NamedLayersError:
        if model is None:
            raise
        require(computing=False)
        from convert.layer_names import names_of

        return Plan.parse(text, names_of(model))


def chosen_plan(options: argparse.Namespace, num_layers: int) -> Plan:
    """The plan that the options name, checked against the model's layers. Raises UserError."""
    check_plan_options(options)
    if options.strategy is not None:
        return build(options.strategy, num_layers, **_strategy_details(options)).plan
    plan = Plan.of(range(num_layers)) if options.plan is None else plan_of(options.plan, options.model)
    return plan.validate(num_layers)


def plan_line(plan: str, cost: float, depth: float) -> str:
    """What ran, above what came of it."""
    return f"plan {plan} (cost {cost}, depth {depth} layers)"


SEEDS = "a number N stands for the N seeds from 0, and 3-7 or 1,4 for these"
_DETAILS = ("start", "seed", "iterations", "times", "layer", "first", "last")


def _strategy_details(options: argparse.Namespace) -> dict[str, int]:
    given = {name: getattr(options, name) for name in _DETAILS}
    return {name: value for name, value in given.items() if value is not None}


def variant_options(options: argparse.Namespace) -> dict[str, Any]:
    """What `add_variant_options` adds, by the names of a study's settings; None is not given."""
    names = ("strategies", "starts", "seeds", "loops", "times", "plans-file")
    return {"plans": options.plan, **{name: getattr(options, name.replace("-", "_")) for name in names}}


def study_options(options: argparse.Namespace) -> dict[str, Any]:
    """Those of the options that are a study's settings, by their names there."""
    from jaxpaint.studies.settings import KINDS

    given = {name.replace("_", "-"): value for name, value in vars(options).items()}
    named = {name: value for name, value in given.items() if name in KINDS}
    return named | {"plans": options.plan} if "plan" in given else named


def add_variant_options(plans, *, measured: bool = False) -> None:
    """--strategies with what many plans are made of, and --plans-file; `measured` names those of measurements, too."""
    names = EVERY if measured else STRATEGIES
    plans.add_argument("--plan", action="append", metavar="PLAN", help="a plan of your own; may be given several times")
    plans.add_argument("--plans-file", metavar="FILE", help="more of them, one a line, # for comments")
    plans.add_argument("--strategies", metavar="NAME,NAME", help=f"by commas, of {', '.join(names)}")
    plans.add_argument(
        "--starts",
        "--start",
        metavar="NUMBERS",
        help="start layers; /3 for each third that the model has (default: all)",
    )
    plans.add_argument("--seeds", metavar="NUMBERS", help=f"of random; {SEEDS} (default: 10)")
    plans.add_argument("--loops", "--iterations", metavar="NUMBERS", help="iterations of looped-parallel (default: 3)")
    plans.add_argument("--times", metavar="NUMBERS", help="of block-repeat (default: 2,3)")


def add_measured_options(plans) -> None:
    """What strategies of measurements take."""
    plans.add_argument(
        "--counts",
        metavar="NUMBERS",
        help=f"layers left out, or put in parallel, of {', '.join(MEASURED)}",
    )
    plans.add_argument(
        "--calibration",
        metavar="FILE",
        help='texts that those measure the model on: one a line, or JSON lines with "text" (painter-16 has its own)',
    )
