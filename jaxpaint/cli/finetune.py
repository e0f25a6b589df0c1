"""jaxpaint finetune: a decoder under many plans, as it is and fine-tuned with each plan in place."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.cli import report
from jaxpaint.cli.loading import model_store
from jaxpaint.cli.options import add_command, add_model_options, add_task_options, add_variant_options, check_store
from jaxpaint.cli.training import add_training_options, given_training, interrupted

# What is not part of a study's settings.
_OF_THE_COMMAND = ("run", "report", "limit_train", "learning_rate", "epochs", "batch_size", "training_seed")


def add(commands) -> None:
    parser = add_command(
        commands,
        "finetune",
        run,
        "score a decoder under many plans, as it is and fine-tuned with each in place",
        """examples:
  jaxpaint finetune --model llama2-7b --tasks arc_challenge --strategies skip \\
      --bos off --store tuned.sqlite --report report
  jaxpaint finetune --model smollm2 --tasks arc_challenge --strategies skip \\
      --starts 8-14/2 --data arc_challenge:train=train.jsonl \\
      --data arc_challenge=test.jsonl --store tuned.sqlite

The plans are scored as they are first, as jaxpaint study does: a study's store
can be given. Then each plan's layers are trained on the task's training split,
on the answers' tokens, and scored on its test split. The full model is trained
only where --strategies names it: full,skip. The same command again continues
where it stopped. The report draws the paper's figure 13.""",
    )
    parser.add_argument("--store", metavar="FILE", required=True, help="the results store (SQLite), made or continued")
    parser.add_argument("--report", metavar="DIR", type=Path, help="write the report at the end")
    add_model_options(parser.add_argument_group("model"), defaults=False, parallel=False)
    add_task_options(parser.add_argument_group("tasks"), defaults=False)
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    add_training_options(training, unit="documents", learning_rate="5e-5", epochs=1, batch_size=64)
    training.add_argument("--training-seed", type=int, metavar="N", help="of the documents' order (default: 0)")


def run(options: argparse.Namespace) -> int:
    from convert.sources import require_known
    from jaxpaint.tasks.local_data import parse_data_option

    spec = _spec(options)
    study = spec.study
    parse_data_option(study.data)
    if options.report is not None:
        report.check_folder(options.report, "--report")
    check_store(study.store)
    require_known(study.model)
    status = _finetune(spec)
    if status == 0 and options.report is not None:
        report.write(study.store, options.report)
    return status


def _spec(options: argparse.Namespace):
    from jaxpaint.study.settings import spec_from
    from jaxpaint.study.spec import FinetuneSpec
    from jaxpaint.training.settings import DECODER

    given = given_training(options)
    if options.training_seed is not None:
        if options.training_seed < 0:
            raise UserError(f"--training-seed is {options.training_seed}; expected 0 or more")
        given["seeds"] = (options.training_seed,)
    settings = {name.replace("_", "-"): value for name, value in vars(options).items() if name not in _OF_THE_COMMAND}
    return FinetuneSpec(spec_from(settings), replace(DECODER, **given), options.limit_train)


def _finetune(spec) -> int:
    from jaxpaint.base.progress import bar, say

    try:
        store = model_store(spec.study.model, spec.study.revision)  # converts on first use, with a bar

        from jaxpaint.study.finetune import run_finetune

        with bar("study") as frozen, bar("finetune", "documents") as progress:
            command = shlex.join(sys.argv)
            summary = run_finetune(spec, store, frozen_progress=frozen, progress=progress, tell=say, command=command)
    except KeyboardInterrupt:
        return interrupted(spec.study.store)
    print(f"{spec.study.store}: {summary}")
    return 0
