"""jaxpaint glue: an encoder under many plans on GLUE, every result kept."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.cli import report
from jaxpaint.cli.loading import model_store
from jaxpaint.cli.options import add_command, add_model_options, add_variant_options, check_store
from jaxpaint.cli.training import add_training_options, given_training, interrupted

# Those that mean the same as in a study, by its names.
_SHARED = (
    *("model", "revision", "dtype", "tasks", "data", "store"),
    *("strategies", "starts", "seeds", "loops", "times", "plans-file"),
)


def add(commands) -> None:
    parser = add_command(
        commands,
        "glue",
        run,
        "train and score a BERT under many plans on GLUE, every result kept",
        """examples:
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
plans or tasks compute what is missing. Without --tasks: the paper's seven.""",
    )
    parser.add_argument("--store", metavar="FILE", required=True, help="the results store (SQLite), made or continued")
    parser.add_argument("--report", metavar="DIR", type=Path, help="write the report at the end")
    add_model_options(parser.add_argument_group("model"), parallel=False, decoder=False)
    tasks = parser.add_argument_group("tasks")
    tasks.add_argument("--tasks", metavar="A,B", help="of cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli")
    tasks.add_argument(
        "--data",
        action="append",
        metavar="TASK:SPLIT=FILE",
        help="a local JSONL or Parquet file in place of the hub's; give it once per split",
    )
    tasks.add_argument("--limit", type=int, metavar="N", help="validation examples per task (default: all)")
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    training.add_argument("--frozen", action="store_true", help="train a classifier alone, the encoder as it is")
    training.add_argument("--training-seeds", metavar="N", help="how many, or NUMBERS such as 3-7 (default: 3)")
    add_training_options(training, unit="examples", learning_rate="2e-5, frozen 3e-2", epochs=3, batch_size=32)
    training.add_argument(
        "--max-length", type=int, metavar="N", help="tokens an example, longer ones cut (default: 128)"
    )


def run(options: argparse.Namespace) -> int:
    from convert.sources import require_known

    given = vars(options)
    shared = {name: given[name.replace("-", "_")] for name in _SHARED}
    if options.report is not None:
        report.check_folder(options.report, "--report")
    spec = _spec(options, shared)
    check_store(spec.store)
    spec.files()
    require_known(spec.model)
    status, elsewhere = _glue(spec)
    if status == 0 and options.report is not None:
        if elsewhere:
            print(f"no report yet: jaxpaint report {spec.store} -o {options.report} writes it when all are done")
        else:
            report.write(spec.store, options.report)
    return status


def _spec(options: argparse.Namespace, shared: dict[str, object]):
    from jaxpaint.study import values
    from jaxpaint.study.glue import GlueSpec
    from jaxpaint.study.settings import checked_options
    from jaxpaint.tasks.glue import PAPER
    from jaxpaint.training.settings import ENCODER, HEAD

    given = given_training(options, "limit", "max_length")
    settings = checked_options(shared)
    if options.max_length is not None:
        given["max_length"] = options.max_length
    if options.training_seeds is not None:
        given["seeds"] = values.checked("--training-seeds", options.training_seeds, values.count_or_numbers)
    training = replace(HEAD if options.frozen else ENCODER, **given)
    if not settings.setdefault("tasks", PAPER):
        raise UserError(f"--tasks names none; leave it out for the paper's, {','.join(PAPER)}")
    limits = {"limit": options.limit, "limit_train": options.limit_train}
    return GlueSpec(training=training, frozen=options.frozen, **limits, **settings)


def _glue(spec) -> tuple[int, int]:
    """The exit status, and how many results other processes are at."""
    from jaxpaint.base.progress import bar
    from jaxpaint.study.glue import run_glue

    try:
        model_store(spec.model, spec.revision)  # converts on first use, with a bar
        with bar("glue", "examples") as progress:
            summary = run_glue(spec, progress=progress)
    except KeyboardInterrupt:
        return interrupted(spec.store), 0
    print(f"{spec.store}: {summary}")
    return 0, summary.elsewhere
