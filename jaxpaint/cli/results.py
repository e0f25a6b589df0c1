"""show what a study's results store holds, or join several stores

examples:
  jaxpaint results study.sqlite
  jaxpaint results study.sqlite --sort score --top 10 --diff full
  jaxpaint results study.sqlite --tasks arc_easy --strategies skip,reverse
  jaxpaint results study.sqlite --format csv --output study.csv
  jaxpaint results study.sqlite --format latex --sort cost -o table.tex
  jaxpaint results study.sqlite --per-document
  jaxpaint results --merge study.sqlite shard-1.sqlite shard-2.sqlite

The store is an ordinary SQLite file; pandas and DuckDB read it, too: the view
`results` has a row for each model, task, plan and metric. --diff full has each
plan's difference from the full model on the same documents, whose standard
error is smaller than that of either.

--per-document says how many of the full model's wrong answers some other plan
gets right, beside what luck would give. Nothing is computed for it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, is_stream, write_whole
from jaxpaint.base.progress import say
from jaxpaint.base.words import count
from jaxpaint.cli.answers import give
from jaxpaint.cli.streams import for_programs
from jaxpaint.results.merge import merge
from jaxpaint.results.per_document import per_document_text
from jaxpaint.results.selection import BY_PLAN, Selection
from jaxpaint.results.tables import EVERYTHING, FORMATS, results_parquet, results_rows, results_text

NARROWEST = 80


class Answer(TypedDict):
    """A row for each cell, strategy that its plan stands for, and metric, of those that are asked for; none with
    --merge, whose stores are `merged`."""

    store: str
    rows: list[dict[str, Any]]
    merged: list[str]


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="a store; with --merge the stores to join")
    parser.add_argument(
        "--format",
        choices=(*FORMATS, "parquet"),
        metavar="FORMAT",
        help="table for reading; csv, parquet, json and lm-eval for programs; markdown, latex and html for documents "
        "(default: table)",
    )
    parser.add_argument(
        *("-o", "--output"), type=Path, metavar="FILE", help="write to a file (default: standard output)"
    )
    parser.add_argument(
        "--per-document", action="store_true", help="the best plan of each document, in place of the table of plans"
    )
    parser.add_argument(
        "--merge", type=Path, metavar="OUT", help="join the stores into OUT, made if missing and added to if not"
    )
    chosen = parser.add_argument_group("of its results")
    chosen.add_argument("--tasks", metavar="TASK,TASK", help="of these tasks (default: all)")
    chosen.add_argument("--strategies", metavar="NAME,NAME", help="under plans of these strategies (default: all)")
    chosen.add_argument("--metric", metavar="NAME", help="this metric (default: each task's main one; in csv all)")
    chosen.add_argument(
        "--sort",
        metavar="KEY",
        help=f"a task or score (the mean over tasks), best first; or {', '.join(BY_PLAN[:4])} and the like "
        "(default: as they are stored)",
    )
    chosen.add_argument("--top", type=int, metavar="N", help="the first N plans of each model (default: all)")
    chosen.add_argument(
        "--columns",
        metavar="NAME,NAME",
        help="of csv and parquet, or of plans in the other tables; all has the tasks' settings, too (default: those "
        "but settings)",
    )
    chosen.add_argument("--diff", choices=("full",), help="differences from the full model (default: scores)")


def run(options: argparse.Namespace) -> int:
    if options.merge is not None:
        return _merge(options)
    if len(options.files) > 1:
        raise UserError(
            f"{len(options.files)} stores given; name one, or join them first: jaxpaint results --merge OUT "
            + " ".join(map(str, options.files))
        )
    (store,) = options.files
    if options.output is not None:
        check_writable(options.output, "a file")
        if options.output.resolve() == store.resolve():
            raise UserError(f"--output {options.output} is the store itself; give the name of another file")
    selection = _selection(options)
    if options.per_document and (options.format not in (None, "table") or options.json or selection != EVERYTHING):
        raise UserError(
            "--per-document is a table for reading of all results; leave --format and all other options away"
        )
    if options.json and options.output is None:
        give(options, _answer(store, results_rows(store, selection)), None)
        return 0
    content = _content(options, store, selection)
    if options.output is None:
        if isinstance(content, bytes):
            raise UserError("--format parquet is no text; name a file with --output")
        if options.format not in (None, "table"):
            for_programs()
        print(content, end="")
        return 0
    write_whole(content, options.output)
    words = None if is_stream(options.output) else f"wrote {options.output}"  # a stream's reader wants the text alone
    give(options, _answer(store, results_rows(store, selection)) if options.json else {}, words)
    return 0


def _content(options: argparse.Namespace, store: Path, selection: Selection) -> str | bytes:
    if options.per_document:
        return per_document_text(store)
    if options.format == "parquet":
        return results_parquet(store, selection)
    # A file has the lines that it would have without a terminal.
    width = NARROWEST if options.output is not None else max(NARROWEST, shutil.get_terminal_size().columns)
    return results_text(store, options.format or "table", selection, width)


def _selection(options: argparse.Namespace) -> Selection:
    """Raises UserError for a column that there is not."""
    names = {
        name: tuple(each.strip() for each in (getattr(options, name) or "").split(",") if each.strip())
        for name in ("tasks", "strategies", "columns")
    }
    return Selection(**names, metric=options.metric, sort=options.sort, top=options.top, diff=options.diff is not None)


def _answer(store: Path, rows: list[dict[str, Any]], merged: tuple[Path, ...] = ()) -> Answer:
    return {"store": str(store), "rows": rows, "merged": [str(each) for each in merged]}


def _merge(options: argparse.Namespace) -> int:
    for name in ("format", "output", "per_document", "tasks", "strategies", "metric", "sort", "top", "columns", "diff"):
        if getattr(options, name):
            raise UserError(
                f"--{name.replace('_', '-')} does not go with --merge, which writes a store; ask for it afterwards"
            )
    for line in merge(options.merge, options.files):
        say(f"jaxpaint: {line}")
    answer = _answer(options.merge, [], tuple(options.files))
    give(options, answer, f"merged {count(len(options.files), 'store')} into {options.merge}")
    return 0
