"""The `jaxpaint` command: parses, calls, prints. Heavy packages are imported by the subcommands that need them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from jaxpaint import __version__
from jaxpaint.errors import UserError
from jaxpaint.plan import Plan
from jaxpaint.strategies import STRATEGIES, build

if TYPE_CHECKING:
    from jaxpaint.model import Model

INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Mistakes in the arguments are one line too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"jaxpaint: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxpaint: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader, such as `head`, has seen enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        reason = error.strerror or next(iter(str(error).splitlines()), type(error).__name__)
        print(f"jaxpaint: error: {where}{reason}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # jax.errors.JaxRuntimeError, without importing jax
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("jaxpaint: error: the device is out of memory; try a lower --batch-tokens", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxpaint",
        description="Run a frozen pretrained transformer under any layer plan, and score it on standard benchmarks.",
        epilog="Plans: 7 one layer, 0-8 a range, 22-9 backwards, {9-22} side by side and averaged, sum{9 10} with "
        "updates summed, x*3 three times. Try: jaxpaint plan '0-8 {9-22}*3 23-31' --layers 32",
    )
    parser.add_argument("--version", action="version", version=f"jaxpaint {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_convert(commands)
    _add_export(commands)
    _add_eval(commands)
    _add_logits(commands)
    _add_plan(commands)
    return parser


def _command(commands, name: str, run, help: str, epilog: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=help, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        metavar="M",
        help="a converted store, a Hugging Face or Meta folder, or a hub id (converted into a cache on first use)",
    )
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the computation; auto is float32 on CPU and bfloat16 on accelerators (default: %(default)s)",
    )
    parser.add_argument(
        "--tensor-parallel",
        type=int,
        default=1,
        metavar="N",
        help="devices that share each weight, for models larger than one device; the others share the rows",
    )


def _add_plan_options(parser: argparse.ArgumentParser, plan_help: str) -> None:
    group = parser.add_argument_group("layer plan (default: every layer in order)")
    group.add_argument("--plan", metavar="PLAN", help=plan_help)
    _add_strategy_options(group)


def _add_strategy_options(group) -> None:
    group.add_argument("--strategy", metavar="NAME", help=f"a strategy by name: {', '.join(STRATEGIES)}")
    group.add_argument("--start", type=int, metavar="S", help="layers 0-S and T-S to the last stay as they are")
    group.add_argument("--seed", type=int, metavar="N", help="of strategy random")
    group.add_argument("--iterations", type=int, metavar="N", help="of strategy looped-parallel (default: 3)")
    group.add_argument("--times", type=int, metavar="N", help="of strategy block-repeat (default: 2)")
    group.add_argument("--layer", type=int, metavar="I", help="of strategies skip-one and switch")


def _check_plan_options(options: argparse.Namespace) -> None:
    """What can be said without a model, before the long work of loading one."""
    if options.strategy is not None and options.plan is not None:
        raise UserError("give a plan or a --strategy, not both")
    if options.plan is not None:
        Plan.parse(options.plan)
    if options.strategy is None and (stray := [f"--{name}" for name in _strategy_details(options)]):
        raise UserError(
            f"{', '.join(stray)}: belongs to a --strategy, and none is given; name one of {', '.join(STRATEGIES)}"
        )


def _chosen_plan(options: argparse.Namespace, num_layers: int) -> Plan:
    """The plan that the options name, checked against the model's layers."""
    _check_plan_options(options)
    if options.strategy is not None:
        return build(options.strategy, num_layers, **_strategy_details(options)).plan
    return Plan.of(range(num_layers)) if options.plan is None else Plan.parse(options.plan).validate(num_layers)


def _strategy_details(options: argparse.Namespace) -> dict[str, int]:
    given = {name: getattr(options, name) for name in ("start", "seed", "iterations", "times", "layer")}
    return {name: value for name, value in given.items() if value is not None}


# --- convert, export ----------------------------------------------------------------------------------------


def _add_convert(commands) -> None:
    parser = _command(
        commands,
        "convert",
        _convert,
        "convert a checkpoint into a store of stacked parameters, once",
        """examples:
  jaxpaint convert path/to/llama-2-7b-hf llama2-7b
  jaxpaint convert HuggingFaceTB/SmolLM2-135M smollm2 --dtype float32
  jaxpaint convert path/to/meta/llama-2-7b llama2-7b

A folder has Hugging Face's config.json and weights, or Meta's params.json and
consolidated.*.pth. A hub id needs the network, or a filled Hugging Face cache
with HF_HUB_OFFLINE=1; a gated one needs HF_TOKEN in the environment.""",
    )
    parser.add_argument("source", metavar="SRC", help="a Hugging Face folder, a Meta folder, or a hub id")
    parser.add_argument("destination", metavar="DST", type=Path, help="the store to write (a folder)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the store (default: the checkpoint's)")
    parser.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def _convert(options: argparse.Namespace) -> int:
    from convert import convert
    from jaxpaint.progress import byte_bar

    with byte_bar() as progress:
        store = convert(
            options.source,
            options.destination,
            dtype=options.dtype,
            revision=options.revision,
            overwrite=options.overwrite,
            progress=progress,
        )
    print(f"converted {options.source} into {store}")
    return 0


def _add_export(commands) -> None:
    parser = _command(
        commands,
        "export",
        _export,
        "write a series plan back as a Hugging Face folder",
        """example:
  jaxpaint export llama2-7b llama2-7b-short --plan '0-20 25-31'

The layers of the plan, dropped, repeated or reordered, become the layers of an
ordinary checkpoint that transformers loads. Parallel groups have no such form.""",
    )
    parser.add_argument("store", metavar="STORE", help="a converted store, a folder or a hub id")
    parser.add_argument("destination", metavar="DST", type=Path, help="the folder to write")
    parser.add_argument("--plan", metavar="PLAN", required=True, help="a series plan, such as '0-20 25-31'")


def _export(options: argparse.Namespace) -> int:
    from convert import export
    from jaxpaint.progress import byte_bar

    plan = Plan.parse(options.plan)
    store = _store(options.store)
    with byte_bar() as progress:
        folder = export(store, options.destination, plan, progress=progress)
    print(f"exported {plan} ({plan.cost} layers) into {folder}")
    return 0


# --- eval ---------------------------------------------------------------------------------------------------


def _add_eval(commands) -> None:
    parser = _command(
        commands,
        "eval",
        _eval,
        "score a model under a plan on lm-evaluation-harness tasks",
        """examples:
  jaxpaint eval --model llama2-7b --tasks lambada_openai,hellaswag
  jaxpaint eval --model llama2-7b --tasks arc_challenge --limit 200 \\
      --plan '0-8 {9-22}*3 23-31'
  jaxpaint eval --model llama2-7b --tasks winogrande --output skip8.json \\
      --strategy skip --start 8
  jaxpaint eval --model llama2-7b --tasks hellaswag \\
      --data hellaswag=hellaswag.jsonl      (without a network)

Prompts, few-shot examples and metrics are lm-eval's. The paper's runs used
--bos off. Ctrl-C keeps the tasks that are finished.""",
    )
    _add_model_options(parser)
    parser.add_argument("--tasks", required=True, metavar="A,B", help="tasks, groups or task YAML files, by commas")
    parser.add_argument("--limit", type=float, metavar="N", help="documents per task, or a fraction below 1")
    parser.add_argument("--num-fewshot", type=int, metavar="N", help="examples in the prompt (default: the task's)")
    parser.add_argument(
        "--bos",
        choices=("auto", "on", "off"),
        default="auto",
        help="begin texts with the BOS token; auto leaves it to the tokenizer (default: %(default)s)",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="TASK[:SPLIT]=FILE",
        help="a local JSONL or Parquet file in place of a task's dataset; give it once per split",
    )
    parser.add_argument("--batch-tokens", type=int, metavar="N", help="tokens per batch (default: by device)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write results as JSON in lm-eval's schema")
    parser.add_argument("--log-samples", action="store_true", help="add each request's log-likelihood to --output")
    _add_plan_options(parser, "what runs, for example '0-8 {9-22}*3 23-31'")


def _eval(options: argparse.Namespace) -> int:
    from convert.sources import require_known
    from jaxpaint.checkpoint import read_config
    from jaxpaint.evaluation import check_writable, evaluate_tasks, refuse_generative, write_json
    from jaxpaint.task_data import parse_data_option
    from jaxpaint.tasks import load_tasks, results_table

    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if options.output:
        check_writable(options.output)
    elif options.log_samples:
        raise UserError("--log-samples needs --output FILE to write to")
    if options.batch_tokens is not None and options.batch_tokens < 1:
        raise UserError(f"--batch-tokens is {options.batch_tokens}; expected 1 or more")
    data = parse_data_option(options.data)
    _check_plan_options(options)
    require_known(options.model)
    tasks = load_tasks(names, data=data, num_fewshot=options.num_fewshot)
    refuse_generative(tasks)
    store = _store(options.model, options.revision)
    plan = _chosen_plan(options, read_config(store).num_hidden_layers)
    model = _load(store, options)

    from jaxpaint.harness import PlanLM
    from jaxpaint.progress import token_bar

    with token_bar("scoring") as progress:
        lm = PlanLM(model, plan, bos=options.bos, batch_tokens=options.batch_tokens, progress=progress)
        results = evaluate_tasks(lm, tasks, limit=options.limit, log_samples=options.log_samples)
    try:
        # What is there already is worth more than a file of nothing.
        if options.output and results.get("results"):
            write_json(results, options.output)
    finally:  # hours of work are not lost to a full disk
        _report(results, results_table(results) if results.get("results") else "")
    return INTERRUPTED if "interrupted" in results else 2 if "failed" in results else 0


def _report(results: dict, table: str) -> None:
    for task, reason in results.get("failed", {}).items():
        print(f"jaxpaint: error: {task}: {reason}", file=sys.stderr)
    if not table:
        if "interrupted" in results:
            print("jaxpaint: interrupted; no task was finished", file=sys.stderr)
        return
    config, timing = results["config"], results["timing"]
    print(f"plan {config['plan']} (cost {config['plan_cost']}, depth {config['plan_depth']} layers)")
    print(
        f"{config['dtype']}, BOS {config['bos']} ({'added' if config['bos_token_added'] else 'not added'}), "
        f"{timing['wall_seconds']:.1f} s, {timing['tokens_per_second']:.0f} tokens/s"
    )
    print(table)
    if missing := results.get("interrupted"):
        print(f"jaxpaint: interrupted; not finished: {', '.join(missing)}", file=sys.stderr)


def _store(model: str, revision: str | None = None) -> Path:
    """The model's converted store, made on first use."""
    from convert import store_for
    from jaxpaint.progress import byte_bar

    with byte_bar() as progress:
        return store_for(model, revision, progress=progress)


def _load(store: Path, options: argparse.Namespace) -> Model:
    from jaxpaint.model import load
    from jaxpaint.sharding import device_mesh

    return load(store, dtype=options.dtype, mesh=device_mesh(options.tensor_parallel))


# --- logits, plan -------------------------------------------------------------------------------------------


def _add_logits(commands) -> None:
    parser = _command(
        commands,
        "logits",
        _logits,
        "show the most likely next tokens after a text",
        """example:
  jaxpaint logits --model llama2-7b --plan '0-8 {9-22} 23-31' \\
      --text 'The capital of France is'""",
    )
    _add_model_options(parser)
    parser.add_argument("--text", required=True, metavar="T", help="the text to continue")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="tokens to show (default: %(default)s)")
    _add_plan_options(parser, "what runs, for example '0-8 {9-22} 23-31'")


def _logits(options: argparse.Namespace) -> int:
    from jaxpaint.checkpoint import read_config
    from jaxpaint.next_tokens import most_likely_next

    _check_plan_options(options)
    store = _store(options.model, options.revision)
    plan = _chosen_plan(options, read_config(store).num_hidden_layers)
    model = _load(store, options)
    tokens = most_likely_next(model, plan, options.text, options.top)
    print(f"plan {plan} (cost {plan.cost}, depth {plan.depth} layers)")
    print(f"{'logit':>9} {'probability':>12}  token")
    for token in tokens:
        print(f"{token.logit:9.3f} {token.probability:12.4f}  {token.text!r} ({token.id})")
    return 0


def _add_plan(commands) -> None:
    parser = _command(
        commands,
        "plan",
        _plan,
        "draw a layer plan and say what it costs",
        """examples:
  jaxpaint plan '0-8 {9-22}*3 23-31' --layers 32
  jaxpaint plan --strategy looped-parallel --start 8 --layers 32""",
    )
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="the plan's text (or give --strategy)")
    parser.add_argument("--layers", type=int, required=True, metavar="T", help="layers that the model has")
    _add_strategy_options(parser.add_argument_group("or a strategy"))


def _plan(options: argparse.Namespace) -> int:
    if options.layers < 1:
        raise UserError(f"--layers is {options.layers}; a model has at least 1")
    if options.plan is None and options.strategy is None:
        raise UserError("give a plan such as '0-8 {9-22}*3 23-31', or --strategy NAME")
    plan = _chosen_plan(options, options.layers)
    print(plan.draw())
    print()
    print(f"plan    {plan}")
    print(f"cost    {plan.cost} layer applications ({plan.cost / options.layers:.2f} of the full model's)")
    print(f"depth   {plan.depth} layers, if parallel layers truly run at once")
    print(f"layers  {len(plan.layers)} of {options.layers} used")
    return 0


if __name__ == "__main__":
    sys.exit(main())
