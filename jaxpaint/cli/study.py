"""score a model under many plans on many tasks, every result kept

examples:
  jaxpaint study               # the demo: painter-16, minutes, no network
  jaxpaint study --model llama2-7b --tasks lambada_openai,hellaswag \\
      --strategies skip,reverse,random --seeds 5 --store study.sqlite
  jaxpaint study --model llama2-7b --tasks arc_challenge --limit 200 \\
      --strategies looped-parallel --loops 1-28 --starts 0-14/2 \\
      --store map.sqlite
  jaxpaint study --model llama2-7b --preset paper --store paper.sqlite --dry-run
  jaxpaint study study.toml --limit 100
  jaxpaint study --models smollm2,llama2-7b --preset quick \\
      --tasks lambada_openai,arc_easy --store both.sqlite --report both

  jaxpaint study --model llama2-7b --tasks arc_challenge --counts 4,8 \\
      --strategies drop-by-influence,drop-span-by-angle \\
      --calibration texts.jsonl --store dropped.sqlite

The full model is always scored, too. Of --models each is studied, one after
the other, and the report has them beside each other. The same command again
continues where it stopped, by Ctrl-C or otherwise; more plans, tasks or
documents compute what is missing. Several processes may work on one store. In
a job array every job has --shard I/N and a store of its own; jaxpaint results
--merge joins them. With --ray HOST:PORT the workers of a Ray cluster compute,
each with a whole model, lost ones' parts run again, and this process alone
keeps the store. With --coordinator several processes compute together, for one
model that no single host holds; the first keeps the store.

NUMBERS are 4, or 0,2,4, or 0-14, or 0-14/2. A FILE.toml (or .yaml) has the same
names as the options, which go before it; jaxpaint init writes one:

  model = "llama2-7b"
  tasks = ["lambada_openai", "hellaswag"]
  strategies = ["skip", "looped-parallel"]
  loops = "1-28"
  plans = ["0-8 {9-22}*3 23-31"]
  store = "study.sqlite"

--preset paper is the paper's study: every strategy at every start, 10 seeds,
1 to 28 iterations of looped-parallel, without BOS, on lambada_openai,
hellaswag, arc_challenge, winogrande and gsm8k (written with a mean cache, as
the paper's code does), and the similarity and variance of hidden states on 100
LAMBADA texts under the full model, skip and middle-repeat. Other options go
before it.

--preset quick is a first look at a model: the six strategies that the paper
ranks, each third start, 3 seeds, 100 documents a task.

--preset demo, or no settings but --limit, --starts and --seeds, is a study of
painter-16, the small model that comes with jaxpaint, with a report.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count
from jaxpaint.cli import studies
from jaxpaint.cli.answers import give
from jaxpaint.cli.asking import add_asking_options
from jaxpaint.cli.clusters import add_cluster_options, chosen_cluster
from jaxpaint.cli.hosts import led
from jaxpaint.cli.loading import model_config, model_store
from jaxpaint.cli.options import (
    add_host_options,
    add_measured_options,
    add_model_options,
    add_setting,
    add_task_options,
    add_variant_options,
    study_options,
)
from jaxpaint.cli.studies import carry_out, check
from jaxpaint.studies.settings import DEMO, DEMO_REPORT, report_from, specs_from
from jaxpaint.studies.spec import StudySpec

if TYPE_CHECKING:
    from jaxpaint.studies.hosts import Hosts
    from jaxpaint.studies.run import StudySummary

# What may be given beside nothing else: it is still the demo.
_OF_THE_DEMO = frozenset({"limit", "starts", "seeds", "dtype", "batch-tokens"})


class Foreseen(TypedDict):
    """With --dry-run: what there is to do, in words and in numbers (those that are known).

    `plans` of `variants`; `applications` of layers a token and `separate_applications` plan by plan; `tokens` that
    differ; `memory_bytes` at the peak; `seconds` of scoring, `analysis_seconds`, and
    `report_seconds` where there is one.
    """

    store: str
    lines: list[str]
    numbers: dict[str, float]


Answer = studies.Answer | Foreseen


@dataclass(frozen=True)
class Several:
    """How the studies of several models stand, by their names."""

    models: Mapping[str, StudySummary]

    def __str__(self) -> str:
        """A line each."""
        return "\n  ".join(
            [count(len(self.models), "model"), *(f"{name}: {each}" for name, each in self.models.items())]
        )


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE.toml", nargs="?", type=Path, help="settings (TOML or YAML), in place of options"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what there is to do and how long it may take")
    parser.add_argument("--compile-for", metavar="DEVICE", help="with --dry-run: whether it fits v5e, h100:4, …")
    add_cluster_options(parser)
    add_host_options(parser)
    add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The options that a file of settings may have, too."""
    for name in ("preset", "models", "store"):
        add_setting(parser, name)
    add_setting(parser, "report", type=Path)
    add_setting(parser, "shard")
    add_model_options(parser.add_argument_group("model"), defaults=False)
    add_task_options(parser.add_argument_group("tasks"), defaults=False)
    plans = parser.add_argument_group("plans")
    add_variant_options(plans, measured=True)
    add_measured_options(plans)
    add_asking_options(parser)
    analyses = parser.add_argument_group("analyses of hidden states")
    for name in ("analyses", "analysis-strategies", "analysis-samples", "analysis-task"):
        add_setting(analyses, name)


def run(options: argparse.Namespace) -> int:
    return led(options, partial(_run, options))


def _run(options: argparse.Namespace, hosts: Hosts | None) -> int:
    settings = study_options(options)
    given = {name for name, value in settings.items() if value is not None}
    if options.file is None and given <= _OF_THE_DEMO:
        settings["preset"] = "demo"
    specs = specs_from(settings, options.file)
    spec = specs[0]
    of_demo = len(specs) == 1 and (spec.model, str(spec.store)) == (DEMO["model"], DEMO["store"])
    in_file = None if options.file is None else report_from(options.file)
    folder = options.report or in_file or (DEMO_REPORT if of_demo else None)
    for each in specs:
        check(each, folder)
    if options.dry_run and options.ray is not None:
        raise UserError("--dry-run computes nothing, and needs no cluster; leave --ray away")
    cluster = hosts or chosen_cluster(options)
    if options.dry_run:
        return _dry_run(options, specs, folder is not None)
    if options.compile_for is not None:
        raise UserError("--compile-for says whether a study fits a device that is not here; it goes with --dry-run")

    def study(spec: StudySpec) -> StudySummary:
        from jaxpaint.base.progress import bar, byte_bar, say
        from jaxpaint.studies.run import run_study

        with byte_bar() as converting, bar("study") as progress:
            command = shlex.join(sys.argv)
            reports = folder is not None and spec is specs[-1]  # it comes after all of them
            how: Any = {"converting": converting, "command": command, "cluster": cluster, "reports": reports}
            return run_study(spec, progress=progress, tell=say, **how)

    def all_of_them() -> StudySummary | Several:
        if len(specs) == 1:
            return study(spec)
        return Several({each.model: study(each) for each in specs})

    return carry_out(options, spec, folder, all_of_them)


def _dry_run(options: argparse.Namespace, specs: Sequence[StudySpec], reports: bool) -> int:
    """Of several models one after the other; their numbers are by the models' names."""
    found = []
    for spec in specs:
        if len(specs) > 1:
            print(f"{spec.model}:", flush=True)
        found.append(_foreseen(options, spec, reports))
    lines = [line for lines, _ in found for line in lines]
    numbers = {
        f"{spec.model}: {name}" if len(specs) > 1 else name: value
        for spec, (_, own) in zip(specs, found, strict=True)
        for name, value in own.items()
    }
    give(options, {"store": str(specs[0].store), "lines": lines, "numbers": numbers}, None)
    return 0


def _foreseen(options: argparse.Namespace, spec: StudySpec, reports: bool) -> tuple[list[str], dict[str, float]]:
    """Says what there is to do for one model; the lines, and the numbers that are known."""
    from jaxpaint.bench.kinds import Target, prepare

    device = options.compile_for
    target = None if device is None else Target.parse(device)
    if target is not None:
        prepare(target.kind)  # before JAX starts
    config = model_config(spec.model, spec.revision)

    from jaxpaint.studies.early import require_fitting
    from jaxpaint.studies.estimate import describe

    require_fitting(spec, config)
    if target is not None:
        from jaxpaint.studies.absent import fits

        told = f"{f'fits {device}':7} {fits(spec, config, target)}"
        print(told, flush=True)
        return [told], {}
    store = model_store(spec.model, spec.revision)

    lines: list[str] = []
    numbers: dict[str, float] = {}
    for line in describe(spec, store, reports=reports):
        print(line, flush=True)
        lines.append(str(line))
        numbers |= line.numbers
    return lines, numbers
