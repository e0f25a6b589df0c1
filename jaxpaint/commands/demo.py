"""jaxpaint demo: jaxpaint study --preset demo, by a name that one finds."""

from __future__ import annotations

import argparse

from jaxpaint.commands import study
from jaxpaint.commands.options import add_command


def add(commands) -> None:
    add_command(
        commands,
        "demo",
        run,
        "study painter-16, the model that comes along: minutes, no network, a report",
        """example:
  jaxpaint demo

The same as jaxpaint study without options: every strategy of the paper on a
small trained model of 16 layers and tasks of its own language. It writes
painter-16.sqlite and painter-16-report/ into the current folder. The same
command again continues, or shows what is there.""",
    )


def run(_: argparse.Namespace) -> int:
    return study.run(argparse.Namespace(preset="demo", file=None, report=None, dry_run=False))
