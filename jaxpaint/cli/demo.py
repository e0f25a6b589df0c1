"""study painter-16, the small model that comes with jaxpaint: minutes, no network

example:
  jaxpaint demo

The same as jaxpaint study without options: the six strategies that the paper
compares, on a trained model of 16 layers and tasks of its own language. It
writes painter-16.sqlite and painter-16-report/ into the current folder. The
same command again continues, or shows what is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxpaint.cli import studies, study

Answer = studies.Answer


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=float, metavar="N", help="documents per task")
    parser.add_argument("--store", metavar="FILE", help="the results store (default: painter-16.sqlite)")
    parser.add_argument("--report", metavar="DIR", type=Path, help="the report (default: painter-16-report)")


def run(options: argparse.Namespace) -> int:
    report = options.report or study.DEMO_REPORT
    settings = {"limit": options.limit, "store": options.store, "report": report}
    none = dict.fromkeys(("file", "compile_for", "ray", "ray_worker", "coordinator"))
    printed = {"json": options.json, "document_stream": getattr(options, "document_stream", None)}
    return study.run(argparse.Namespace(preset="demo", dry_run=False, **none, **settings, **printed))
