"""What finetune and glue share: options of how models are trained, and what an interrupted run is told."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.cli.exits import INTERRUPTED


def add_training_options(group, *, unit: str, learning_rate: str, epochs: int, batch_size: int) -> None:
    """The defaults are told in the help alone; `jaxpaint.training.settings` has them."""
    group.add_argument("--limit-train", type=int, metavar="N", help=f"training {unit} per task (default: all)")
    group.add_argument(
        "--learning-rate", type=float, metavar="R", help=f"falls linearly to 0 (default: {learning_rate})"
    )
    group.add_argument("--epochs", type=int, metavar="N", help=f"(default: {epochs})")
    group.add_argument("--batch-size", type=int, metavar="N", help=f"{unit} a step (default: {batch_size})")


def given_training(options: argparse.Namespace, *counts: str) -> dict[str, Any]:
    """The training settings among the options that were given.

    Raises:
        UserError: one that is not positive, or another of the options `counts`.
    """
    for name in ("limit_train", "epochs", "batch_size", *counts):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected 1 or more")
    rate = options.learning_rate
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"--learning-rate is {rate}; expected a number above 0")
    given = {name: getattr(options, name) for name in ("learning_rate", "epochs", "batch_size")}
    return {name: value for name, value in given.items() if value is not None}


def interrupted(store: Path) -> int:
    """Says that nothing is lost; the exit status."""
    print(f"jaxpaint: interrupted; {store} keeps what is done, and the same command continues", file=sys.stderr)
    return INTERRUPTED
