"""draw the figures and write the report of a study, from its store alone

example:
  jaxpaint report study.sqlite
  jaxpaint report study.sqlite -o report

The folder gets report.html, one file that opens without a network: all plans,
best first, with figures to explore, the paper's questions that were asked, and
tables. Beside it lie figures (SVG and PDF), tables (CSV and Markdown), and
summary.txt, which is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.progress import under_way
from jaxpaint.cli.answers import give


class Answer(TypedDict):
    """The page, all files of its folder, and what it says in a few lines (None of a store without decoders)."""

    report: str
    files: list[str]
    summary: str | None


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the results store of a study")
    parser.add_argument(
        *("-o", "--output"),
        metavar="DIR",
        type=Path,
        help="the folder to write (default: STORE-report beside the store)",
    )


def run(options: argparse.Namespace) -> int:
    answer, words = written(options.file, options.output or folder_of(options.file))
    give(options, answer, words)
    return 0


def folder_of(store: Path) -> Path:
    """Where the report of a store goes that is not told where."""
    return store.with_name(f"{store.stem}-report")


def written(store: Path, folder: Path) -> tuple[Answer, str]:
    """Writes the report; what was found and where it is. Raises UserError."""
    check_folder(folder, "--output")
    from jaxpaint.report import SUMMARY, write_report

    with under_way("report: intervals and figures …"):
        page = write_report(store, folder)
    found = folder / SUMMARY
    summary = found.read_text(encoding="utf-8") if found.exists() else None
    files = sorted(str(file) for file in folder.rglob("*") if file.is_file())
    answer: Answer = {"report": str(page), "files": files, "summary": summary}
    told = "" if summary is None else f"\n{summary}\n"
    return answer, f"{told}report: {page}"


def check_folder(folder: Path, option: str) -> None:
    """Raises UserError for what cannot become a report's folder."""
    require(computing=False)
    from jaxpaint.report import is_replaceable

    if folder.exists() and not folder.is_dir():
        raise UserError(f"{option} {folder} is a file; give a folder")
    if not is_replaceable(folder):
        raise UserError(
            f"{option} {folder} holds something else than a report; empty it, or name another folder with {option}"
        )
