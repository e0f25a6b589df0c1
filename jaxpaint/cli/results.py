"""show what a study's results store holds, or join several stores

examples:
  jaxpaint results study.sqlite
  jaxpaint results study.sqlite --format csv --output study.csv
  jaxpaint results study.sqlite --format lm-eval --output study.json
  jaxpaint results study.sqlite --per-document
  jaxpaint results --merge study.sqlite shard-1.sqlite shard-2.sqlite

The store is an ordinary SQLite file; pandas and DuckDB read it, too: the view
`results` has a row for each model, task, plan and metric.

--per-document says how many of the full model's wrong answers some other plan
gets right, beside what luck would give. Nothing is computed for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, is_stream, write_whole
from jaxpaint.cli.streams import for_programs
from jaxpaint.results.merge import merge
from jaxpaint.results.per_document import per_document_text
from jaxpaint.results.tables import FORMATS, results_text


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="a store; with --merge the stores to join")
    parser.add_argument("--format", choices=tuple(FORMATS), help="table for reading (default), the others for programs")
    parser.add_argument(
        "--per-document", action="store_true", help="the best plan of each document, in place of the table of plans"
    )
    parser.add_argument("--output", type=Path, metavar="F", help="write to a file in place of the screen")
    parser.add_argument(
        "--merge", type=Path, metavar="OUT", help="join the stores into OUT, made if missing and added to if not"
    )


def run(options: argparse.Namespace) -> int:
    if options.merge is not None:
        return _merge(options)
    if len(options.files) > 1:
        raise UserError(
            f"{len(options.files)} stores given; name one, or join them first: jaxpaint results --merge OUT "
            + " ".join(map(str, options.files))
        )
    if options.output is not None:
        check_writable(options.output, "a file")
        if options.output.resolve() == options.files[0].resolve():
            raise UserError(f"--output {options.output} is the store itself; give the name of another file")
    if options.per_document and options.format not in (None, "table"):
        raise UserError(f"--per-document is a table for reading; leave --format {options.format} away")
    text = (
        per_document_text(options.files[0])
        if options.per_document
        else results_text(options.files[0], options.format or "table")
    )
    if options.output is None:
        if options.format not in (None, "table"):
            for_programs()
        print(text, end="")
        return 0
    write_whole(text, options.output)
    if not is_stream(options.output):  # whose reader wants the text alone
        print(f"wrote {options.output}")
    return 0


def _merge(options: argparse.Namespace) -> int:
    for name in ("format", "output", "per_document"):
        if getattr(options, name):
            raise UserError(
                f"--{name.replace('_', '-')} does not go with --merge, which writes a store; ask for it afterwards"
            )
    for line in merge(options.merge, options.files):
        print(f"jaxpaint: {line}", file=sys.stderr)
    print(f"merged {len(options.files)} store{'s' * (len(options.files) != 1)} into {options.merge}")
    return 0
