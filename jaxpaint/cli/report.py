"""draw the figures and write the report of a study, from its store alone

example:
  jaxpaint report study.sqlite -o report

The folder gets report.html, one file that opens without a network: all plans,
best first, with figures to explore, the paper's questions that were asked, and
tables. Beside it lie figures (SVG and PDF), tables (CSV and Markdown), and
summary.txt, which is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the results store of a study")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, required=True, help="the folder to write, made if missing"
    )


def run(options: argparse.Namespace) -> int:
    write(options.file, options.output)
    return 0


def write(store: Path, folder: Path) -> None:
    """Writes the report, and says what was found and where it is. Raises UserError."""
    check_folder(folder, "--output")
    from jaxpaint.report import SUMMARY, write_report

    page = write_report(store, folder)
    found = folder / SUMMARY
    told = f"\n{found.read_text(encoding='utf-8')}\n" if found.exists() else ""
    print(f"{told}report: {page}")  # at once: where output fails, its last line is told elsewhere


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
