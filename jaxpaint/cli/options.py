"""Options that several subcommands share."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.plans.names import NamedLayersError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import STRATEGIES, build, taking

if TYPE_CHECKING:
    from jaxpaint.studies.settings import Setting


def add_setting(parser, name: str, *flags: str, defaults: bool = False, **how: Any) -> None:
    """An option, `--name` or the flags, that is a setting of a study, made of its declaration there; `how` goes before.

    What is not given is None, or with `defaults` the setting's own default.
    """
    from jaxpaint.studies.settings import SETTINGS

    setting = SETTINGS[name]
    own = {"help": setting.help.replace("%", "%%"), "default": setting.default if defaults else None}
    parser.add_argument(*(flags or (f"--{name}",)), **{**own, **_value(setting), **how})


def _value(setting: Setting) -> dict[str, Any]:
    """How argparse reads what the setting takes; what is wrong with it is the setting's own to say."""
    takes = setting.kind.schema
    if takes.get("type") == "boolean":
        return {"action": "store_true"}
    if "enum" in takes and setting.metavar is None:
        return {"choices": tuple(takes["enum"])}
    kind = {"integer": int, "number": float}.get(takes.get("type", ""))
    return {"metavar": setting.metavar} | ({} if kind is None else {"type": kind})


def add_model_options(parser, *, defaults: bool = True, parallel: bool = True, decoder: bool = True) -> None:
    """--model and how to load it. Without `defaults` nothing is required, and what is not given is None.

    Without `parallel` it is not spread over devices. `decoder` says that one will do, so that painter-16 is named.
    """
    from jaxpaint.studies.settings import SETTINGS

    any_model = SETTINGS["model"].help
    add_setting(parser, "model", required=defaults, help=any_model if decoder else any_model.partition(";")[0])
    add_setting(parser, "revision")
    add_setting(parser, "dtype", defaults=defaults)
    add_setting(parser, "weights", defaults=defaults)
    if parallel:
        for name in ("tensor-parallel", "layer-parallel", "offload"):
            add_setting(parser, name, defaults=defaults)


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


def add_task_options(parser, *, defaults: bool = True, writes: bool = True, keeps: bool = True) -> None:
    """--tasks and how they are asked. Without `defaults` nothing is required, and what is not given is None.

    `writes` says that there may be tasks whose answers are written, `keeps` that scores go into a store.
    """
    add_setting(parser, "tasks", required=defaults)
    add_setting(parser, "limit")
    add_setting(parser, "num-fewshot")
    add_setting(parser, "bos", defaults=defaults)
    add_setting(parser, "data", action="append", default=[] if defaults else None)
    add_data_folder_option(parser)
    add_setting(parser, "trust-tasks", defaults=defaults)
    if writes:
        add_cache_option(parser, defaults=defaults)
    add_setting(parser, "batch-tokens")
    if keeps:
        add_setting(parser, "no-document-texts", defaults=defaults)


def add_data_folder_option(parser) -> None:
    """--data-dir."""
    add_setting(parser, "data-dir", type=Path)


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
    add_setting(parser, "kv", defaults=defaults)


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
    add_setting(plans, "plans", "--plan", action="append")
    add_setting(plans, "plans-file")
    of_names: dict[str, Any] = {} if measured else {"help": f"by commas, of {', '.join(STRATEGIES)}"}
    add_setting(plans, "strategies", **of_names)
    add_setting(plans, "starts", "--starts", "--start")
    add_setting(plans, "seeds")
    add_setting(plans, "loops", "--loops", "--iterations")
    add_setting(plans, "times")


def add_measured_options(plans) -> None:
    """What strategies of measurements take."""
    add_setting(plans, "counts")
    add_setting(plans, "calibration")
