"""jaxpaint glue: an encoder under many plans on GLUE, every result kept."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.cli import report
from jaxpaint.cli.exits import INTERRUPTED
from jaxpaint.cli.loading import model_store
from jaxpaint.cli.options import add_command, add_model_options, add_variant_options, check_store

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
    tasks.add_argument("--limit-train", type=int, metavar="N", help="training examples per task (default: all)")
    add_variant_options(parser.add_argument_group("plans"))
    training = parser.add_argument_group("training")
    training.add_argument("--frozen", action="store_true", help="train a classifier alone, the encoder as it is")
    training.add_argument("--training-seeds", metavar="N", help="how many, or NUMBERS such as 3-7 (default: 3)")
    training.add_argument(
        "--learning-rate", type=float, metavar="R", help="falls linearly to 0 (default: 2e-5, frozen 3e-2)"
    )
    training.add_argument("--epochs", type=int, metavar="N", help="(default: 3)")
    training.add_argument("--batch-size", type=int, metavar="N", help="examples a step (default: 32)")
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
    from jaxpaint.study.glue_frozen import FrozenSettings
    from jaxpaint.study.glue_spec import GlueSpec
    from jaxpaint.study.settings import checked_options
    from jaxpaint.tasks.glue import PAPER
    from jaxpaint.training.glue_settings import FinetuneSettings
    from jaxpaint.training.heads import HeadSettings

    for name in ("limit", "limit_train", "epochs", "batch_size", "max_length"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"--learning-rate is {rate}; expected a number above 0")
    values = checked_options(shared)
    how = {name: getattr(options, name) for name in ("learning_rate", "epochs", "batch_size")}
    how = {name: value for name, value in how.items() if value is not None}
    both = {} if options.max_length is None else {"max_length": options.max_length}
    if options.training_seeds is not None:
        both["seeds"] = _training_seeds(options.training_seeds)
    training = FrozenSettings(HeadSettings(**how), **both) if options.frozen else FinetuneSettings(**how, **both)
    if not values.setdefault("tasks", PAPER):
        raise UserError(f"--tasks names none; leave it out for the paper's, {','.join(PAPER)}")
    return GlueSpec(training=training, limit=options.limit, limit_train=options.limit_train, **values)


def _training_seeds(text: str) -> tuple[int, ...]:
    from jaxpaint.study.settings import seeds

    return seeds("--training-seeds", text)


def _glue(spec) -> tuple[int, int]:
    """The exit status, and how many results other processes are at."""
    from jaxpaint.base.progress import bar
    from jaxpaint.study.glue import run_glue

    try:
        model_store(spec.model, spec.revision)  # converts on first use, with a bar
        with bar("glue", "examples") as progress:
            summary = run_glue(spec, progress=progress)
    except KeyboardInterrupt:
        print(
            f"jaxpaint: interrupted; {spec.store} keeps what is done, and the same command continues", file=sys.stderr
        )
        return INTERRUPTED, 0
    print(f"{spec.store}: {summary}")
    return 0, summary.elsewhere
