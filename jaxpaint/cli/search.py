"""search for layer plans within a budget, confirmed on documents not seen

examples:
  jaxpaint search --model painter-16 --tasks painter_facts,painter_places \\
      --budget cost=0.75 --store search.sqlite --report search
  jaxpaint search --model llama2-7b --tasks lambada_openai,hellaswag \\
      --held-out-tasks winogrande --limit 200 --budget depth=24 \\
      --methods beam,evolution --calibration texts.jsonl --store search.sqlite

A plan's score is the log-likelihood of the right answers, in nats, less that of
the full model on the same documents. Half of every task's documents are held
out (--held-out): the search never sees them, and they alone say whether what it
found is better than the plan without its middle layers, or the full model.

--methods, by commas, one after the other, each from the best plans so far:
  greedy      leaves out one layer after the other, always the best to lose
  beam        the same with the --width best plans kept
  sublayers   leaves out one attention or feed-forward after the other
  blocks      every block (i, j), a sample of them, then what trees that were
              fitted to these scores expect most of
  evolution   leaves out, repeats, swaps, puts in parallel, loops, crosses
  halving     many plans on few documents, few on all
  random      plans at random, to be beaten
With a budget above the full model's (cost=1.2) blocks are repeated instead.

The same command again continues where it stopped; several processes may run it
on one store at once. All scores stay in the store, also for other searches.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable
from jaxpaint.cli import studies
from jaxpaint.cli.clusters import add_cluster_options, chosen_cluster
from jaxpaint.cli.hosts import led
from jaxpaint.cli.options import add_host_options, add_model_options, add_setting, add_task_options
from jaxpaint.cli.studies import carry_out, check

if TYPE_CHECKING:
    from jaxpaint.report.search import SearchSummary
    from jaxpaint.search.spec import SearchSpec
    from jaxpaint.studies.hosts import Hosts

_OF_A_STUDY = (
    *("model", "revision", "dtype", "weights", "tensor_parallel", "layer_parallel", "offload", "tasks", "limit"),
    *("num_fewshot", "bos", "data", "data_dir", "trust_tasks", "batch_tokens", "no_document_texts"),
    *("store", "calibration"),
)


Answer = studies.Answer


def add(parser: argparse.ArgumentParser) -> None:
    add_setting(parser, "store", required=True)
    parser.add_argument(
        "--report", metavar="DIR", type=Path, help="write the report at the end, with the best plan of each cost"
    )
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write the best plan of each cost as a table")
    add_model_options(parser.add_argument_group("model"), defaults=False)
    tasks = parser.add_argument_group("tasks")
    add_task_options(tasks, defaults=False, writes=False)
    tasks.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="share of each task's documents that the search never sees (default: 0.5)",
    )
    tasks.add_argument("--held-out-tasks", metavar="TASK,TASK", help="tasks that the search never sees, to confirm on")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--budget",
        metavar="BUDGET",
        required=True,
        help="what a plan may take at most: cost=0.75 (of the full model's layer applications), cost=24 (of them), "
        "depth=24 (one after the other), latency=0.8 (of the full model's) or latency=40ms",
    )
    search.add_argument("--methods", metavar="NAME,NAME", help="by commas, as above (default: greedy,evolution)")
    search.add_argument(
        "--plans",
        type=int,
        metavar="N",
        help="how many blocks, evolution, halving and random each look at (default: 200)",
    )
    search.add_argument("--width", type=int, metavar="N", help="plans that the beam keeps (default: 4)")
    search.add_argument(
        "--finalists", type=int, metavar="N", help="of the best plans so many are confirmed, at most (default: 8)"
    )
    search.add_argument("--seed", type=int, metavar="N", help="of the documents' split and all draws (default: 0)")
    search.add_argument(
        "--calibration",
        metavar="FILE",
        help='texts to measure the model on: one a line, or JSON lines with "text". Its Block Influence and angular '
        "distance propose plans to begin with, and to compare with (default: none, or painter-16's own)",
    )
    latency = parser.add_argument_group("with --budget latency=…, how it is measured: by writing after random prompts")
    for name, what in (
        ("batch-size", "prompts at once (default: 1)"),
        ("prompt-length", "tokens of a prompt (default: 128)"),
        ("new-tokens", "tokens to write after each (default: 32)"),
        ("rounds", "turns of every plan that is measured (default: 5)"),
    ):
        latency.add_argument(f"--{name}", type=int, metavar="N", help=what)
    add_cluster_options(parser)
    add_host_options(parser)


def run(options: argparse.Namespace) -> int:
    return led(options, partial(_run, options))


def _run(options: argparse.Namespace, hosts: Hosts | None) -> int:
    spec = _spec(options)
    check(spec.study, options.report)
    cluster = hosts or chosen_cluster(options)
    if options.csv is not None:
        check_writable(options.csv, "a CSV file", "--csv")

    def search() -> SearchSummary:
        from jaxpaint.base.progress import bar, byte_bar, say
        from jaxpaint.report.search import SearchSummary, write_csv
        from jaxpaint.search.run import run_search

        with byte_bar() as converting, bar("search") as progress:
            command = shlex.join(sys.argv)
            how = {"progress": progress, "converting": converting, "command": command, "cluster": cluster}
            result = run_search(spec, tell=say, **how)  # type: ignore[arg-type]
        if options.csv is not None:
            write_csv(result, options.csv)
        return SearchSummary(result)

    return carry_out(options, spec.study, options.report, search)


def _spec(options: argparse.Namespace) -> SearchSpec:
    from jaxpaint.search.budget import Budget
    from jaxpaint.search.spec import SearchSpec, Timing, proposals
    from jaxpaint.studies import values
    from jaxpaint.studies.settings import checked_options
    from jaxpaint.studies.spec import StudySpec

    budget = Budget.parse(options.budget)
    settings = checked_options(
        {name.replace("_", "-"): getattr(options, name) for name in _OF_A_STUDY if name != "calibration"}
    )
    for name, example in (("model", "llama2-7b"), ("tasks", "lambada_openai,arc_easy")):
        if not settings.get(name):
            raise UserError(f"a search needs {name}; give --{name} {example}")
    held = values.names(options.held_out_tasks or "")
    calibration = None if options.calibration is None else values.path(options.calibration)
    strategies = proposals(settings["model"], calibration)
    own = {name.replace("-", "_"): value for name, value in settings.items()}
    own["tasks"] = tuple(dict.fromkeys([*own["tasks"], *held]))
    study = StudySpec(**own, strategies=strategies, calibration=calibration)
    given = _given(options, ("held_out", "plans", "width", "finalists", "seed"))
    if options.methods is not None:
        given["methods"] = values.names(options.methods)
    timing = _given(options, [field.name for field in fields(Timing)])
    if timing and budget.kind != "latency":
        raise UserError(f"--{next(iter(timing)).replace('_', '-')} belongs to a latency; give --budget latency=0.8")
    return SearchSpec(study, budget, held_out_tasks=held, timing=Timing(**timing), **given)


def _given(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}
