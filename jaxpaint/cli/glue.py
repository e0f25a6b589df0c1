"""train and score a BERT under many plans on GLUE, every result kept

examples:
  jaxpaint glue --model google-bert/bert-large-uncased --tasks rte,mrpc,cola \\
      --strategies skip,reverse,parallel --store glue.sqlite --report report
  jaxpaint glue --model google-bert/bert-large-uncased --frozen \\
      --store frozen.sqlite \\
      --strategies skip,middle-repeat,reverse,random,parallel,looped-parallel
  jaxpaint glue --model my-bert --tasks rte --data rte:train=train.jsonl \\
      --data rte=validation.jsonl --store rte.sqlite

The model is fine-tuned with each plan in place, once per training seed, as
transformers' run_glue.py does. With --frozen only a classifier is trained, on
what the model gives under the plan: minutes in place of days. The full model is
always scored, too. The same command again continues where it stopped; more
plans or tasks compute what is missing. Without --tasks: the paper's seven.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaint.base.errors import UserError
from jaxpaint.cli import studies
from jaxpaint.cli.options import (
    add_data_folder_option,
    add_model_options,
    add_setting,
    add_variant_options,
    variant_options,
)
from jaxpaint.cli.studies import add_training_options, carry_out, check, given_training
from jaxpaint.studies.values import SEVERAL_SEEDS

if TYPE_CHECKING:
    from jaxpaint.studies.trained import TrainedSummary


Answer = studies.Answer


def add(parser: argparse.ArgumentParser) -> None:
    add_setting(parser, "store", required=True)
    add_setting(parser, "report", type=Path)
    add_model_options(parser.add_argument_group("model"), parallel=False, decoder=False)
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument("--tasks", metavar="TASK,TASK", help="of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli")
    tasks.add_argument(
        "--data",
        action="append",
        metavar="TASK:SPLIT=FILE",
        help="a local JSONL, CSV, Parquet or GLUE's own .tsv file in place of the hub's; give it once per split, or "
        "GLUE's folder of the task for both: TASK=FOLDER",
    )
    add_data_folder_option(tasks)
    tasks.add_argument("--limit", type=int, metavar="N", help="validation examples per task (default: all)")
    add_setting(tasks, "no-document-texts")
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    training.add_argument("--frozen", action="store_true", help="train a classifier alone, the encoder as it is")
    training.add_argument(
        "--training-seeds", "--training-seed", metavar="NUMBERS", help=f"{SEVERAL_SEEDS} (default: 3)"
    )
    add_training_options(training, unit="examples", learning_rate="2e-5, frozen 3e-2", epochs=3, batch_size=32)
    training.add_argument(
        "--max-length", type=int, metavar="N", help="tokens an example, longer ones cut (default: 128)"
    )


def run(options: argparse.Namespace) -> int:
    from jaxpaint.base.progress import bar, byte_bar

    spec = _spec(options)
    check(spec, options.report)
    spec.files()

    def glue() -> TrainedSummary:
        from jaxpaint.studies.glue import run_glue

        with byte_bar() as converting, bar("glue", "examples") as progress:
            return run_glue(spec, progress=progress, converting=converting)

    return carry_out(options, spec, options.report, glue)


def _spec(options: argparse.Namespace):
    from jaxpaint.studies import values
    from jaxpaint.studies.glue import GlueSpec
    from jaxpaint.studies.settings import checked_options
    from jaxpaint.tasks.glue import PAPER
    from jaxpaint.training.settings import ENCODER, HEAD

    given = given_training(options, "limit", "max_length")
    names = "model", "revision", "dtype", "weights", "tasks", "data", "data-dir", "store"
    shared = {name: getattr(options, name.replace("-", "_")) for name in names}
    settings = checked_options(shared | variant_options(options))
    if options.max_length is not None:
        given["max_length"] = options.max_length
    if options.training_seeds is not None:
        given["seeds"] = values.checked("--training-seeds", options.training_seeds, values.count_or_numbers)
    training = replace(HEAD if options.frozen else ENCODER, **given)
    if not settings.setdefault("tasks", PAPER):
        raise UserError(f"--tasks names none; leave it out for the paper's, {','.join(PAPER)}")
    of_examples = {"limit": options.limit, "limit_train": options.limit_train}
    of_examples["no_document_texts"] = bool(options.no_document_texts)
    return GlueSpec(training=training, frozen=options.frozen, **of_examples, **settings)
