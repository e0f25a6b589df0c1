"""What study, finetune and glue share: how they begin and end, and options of how models are trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.cli import report
from jaxpaint.cli.answers import give
from jaxpaint.cli.failures import work_is_kept


class Answer(TypedDict):
    """How it stands, in words (`summary`) and in numbers; the page of the report, if one was written."""

    store: str
    summary: str
    outcome: dict[str, Any]
    report: str | None


def check(spec, folder: Path | None) -> None:
    """Raises UserError for what cannot be read, or written to the spec's store or a report's `folder`."""
    from convert.sources import require_known
    from jaxpaint.tasks.local_data import parse_data_option

    parse_data_option(spec.data)
    if folder is not None:
        report.check_folder(folder, "--report")
    if spec.store.is_dir():
        raise UserError(f"--store {spec.store} is a folder; give the name of a file, such as study.sqlite")
    if not spec.store.parent.is_dir():
        raise UserError(f"--store {spec.store}: the folder {spec.store.parent} does not exist")
    require_known(spec.model)


def carry_out(options: argparse.Namespace, spec, folder: Path | None, work: Callable[[], Any]) -> int:
    """Calls `work`, says the summary that it returns, and writes the report; the exit status."""
    require(computing=True)
    try:
        summary = work()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) or spec.store.exists():
            work_is_kept(error, f"{spec.store} keeps what is done, and the same command continues")
        raise
    elsewhere = bool(getattr(summary, "elsewhere", 0))
    page = None
    try:
        print(f"{spec.store}: {summary}")
    finally:  # the report is part of the work, whether or not anyone listens
        if folder is not None and not elsewhere:
            found, words = report.written(spec.store, folder)
            page = found["report"]
            print(words)  # at once: where output fails, its last line is told elsewhere
    if folder is not None and elsewhere:
        print(f"no report yet: jaxpaint report {spec.store} -o {folder} writes it when all are done")
    answer: Answer = {"store": str(spec.store), "summary": str(summary), "outcome": asdict(summary), "report": page}
    give(options, answer, None)
    return 0


def add_training_options(
    group, *, unit: str, learning_rate: str, epochs: int, batch_size: int, per: str = " per task"
) -> None:
    """The defaults are told in the help alone; `jaxpaint.training.settings` has them."""
    group.add_argument("--limit-train", type=int, metavar="N", help=f"training {unit}{per} (default: all)")
    group.add_argument(
        "--learning-rate", type=float, metavar="RATE", help=f"falls linearly to 0 (default: {learning_rate})"
    )
    group.add_argument("--epochs", type=int, metavar="N", help=f"(default: {epochs})")
    group.add_argument("--batch-size", type=int, metavar="N", help=f"{unit} a step (default: {batch_size})")


def given_training(options: argparse.Namespace, *counts: str) -> dict[str, Any]:
    """The training settings among the options that were given.

    Raises:
        UserError: one that is not positive, or another of the options `counts`, or more than anyone trains with.
    """
    from jaxpaint.training.settings import MOST

    for name in ("limit_train", "epochs", "batch_size", *counts):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
        if value is not None and value > MOST.get(name, value):
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected at most {MOST[name]}")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"--learning-rate is {rate}; expected a number above 0")
    given = {name: getattr(options, name) for name in ("learning_rate", "epochs", "batch_size")}
    return {name: value for name, value in given.items() if value is not None}
