"""score a decoder under many plans, as it is and fine-tuned with each in place

examples:
  jaxpaint finetune --model llama2-7b --tasks arc_challenge --strategies skip \\
      --bos off --store tuned.sqlite --report report
  jaxpaint finetune --model smollm2 --tasks arc_challenge --strategies skip \\
      --starts 8-14/2 --data arc_challenge:train=train.jsonl \\
      --data arc_challenge=test.jsonl --store tuned.sqlite

The plans are scored as they are first, as jaxpaint study does: a study's store
can be given. Then each plan's layers are trained on the task's training split,
on the answers' tokens, and scored on its test split. The full model is trained
only where --strategies names it: full,skip. The same command again continues
where it stopped. The report draws the paper's figure 13.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.cli import studies
from jaxpaint.cli.options import add_model_options, add_setting, add_task_options, add_variant_options, study_options
from jaxpaint.cli.studies import add_training_options, carry_out, check, given_training

if TYPE_CHECKING:
    from jaxpaint.studies.trained import TrainedSummary

Answer = studies.Answer


def add(parser: argparse.ArgumentParser) -> None:
    add_setting(parser, "store", required=True)
    add_setting(parser, "report", type=Path)
    add_model_options(parser.add_argument_group("model"), defaults=False, parallel=False)
    add_task_options(parser.add_argument_group("tasks"), defaults=False)
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    add_training_options(training, unit="documents", learning_rate="5e-5", epochs=1, batch_size=64)
    training.add_argument(
        "--training-seed", "--training-seeds", type=int, metavar="N", help="of the documents' order (default: 0)"
    )


def run(options: argparse.Namespace) -> int:
    from jaxpaint.base.progress import bar, byte_bar, say

    spec = _spec(options)
    check(spec.study, options.report)

    def finetune() -> TrainedSummary:
        from jaxpaint.studies.finetune import run_finetune

        with byte_bar() as converting, bar("study") as frozen, bar("finetune", "documents") as progress:
            bars: dict[str, Any] = {"converting": converting, "frozen_progress": frozen, "progress": progress}
            return run_finetune(spec, tell=say, command=shlex.join(sys.argv), **bars)

    return carry_out(options, spec.study, options.report, finetune)


def _spec(options: argparse.Namespace):
    from jaxpaint.studies import values
    from jaxpaint.studies.settings import spec_from
    from jaxpaint.studies.spec import FinetuneSpec, refuse_measured
    from jaxpaint.training.settings import DECODER

    given = given_training(options)
    refuse_measured(values.names(options.strategies or ""))
    if options.training_seed is not None:
        if options.training_seed < 0:
            raise UserError(f"--training-seed is {options.training_seed}; expected 0 or more")
        given["seeds"] = (options.training_seed,)
    settings = study_options(options)
    return FinetuneSpec(spec_from(settings), replace(DECODER, **given), options.limit_train)
