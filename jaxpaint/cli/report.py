"""draw the figures and write the report of a study, from its store alone

example:
  jaxpaint report study.sqlite
  jaxpaint report study.sqlite -o report
  jaxpaint report study.sqlite --push-to-hub me/study-of-layers --private

The folder gets report.html, one file that opens without a network: all plans,
best first, with figures to explore, the paper's questions that were asked, and
tables. Beside it lie figures (SVG and PDF), tables (CSV and Markdown), and
summary.txt, which is printed. With --push-to-hub they and the store become a
dataset, by the token of hf auth login or HF_TOKEN.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.base.progress import under_way
from jaxpaint.cli.answers import give
from jaxpaint.cli.pushing import add_push, check_push


class Answer(TypedDict):
    """The page, all files of its folder, and what it says in a few lines (None of a store without decoders).

    `pushed` is its address on the hub, where it was uploaded.
    """

    report: str
    files: list[str]
    summary: str | None
    pushed: str | None


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the results store of a study")
    parser.add_argument(
        *("-o", "--output"),
        metavar="DIR",
        type=Path,
        help="the folder to write (default: STORE-report beside the store)",
    )
    add_push(parser, "the report and the store, as a dataset,")


def run(options: argparse.Namespace) -> int:
    check_push(options)
    folder = options.output or folder_of(options.file)
    answer, words = written(options.file, folder)
    if options.push_to_hub is not None:
        answer["pushed"] = _pushed(options, folder)
        words += f"\nuploaded it to {answer['pushed']}"
    give(options, answer, words)
    return 0


def _pushed(options: argparse.Namespace, folder: Path) -> str:
    from convert.uploads import upload
    from jaxpaint.report.card import dataset_card
    from jaxpaint.results.schema import copy_to

    with TemporaryDirectory() as own:
        # The file by itself lacks what a study that goes on has in the log beside it.
        store = Path(own) / options.file.name
        copy_to(store, options.file)
        beside = {"README.md": dataset_card(store).encode(), store.name: store}
        how = {"private": options.private, "message": "jaxpaint report", "beside": beside}
        return upload(folder, options.push_to_hub, kind="dataset", **how)


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
    answer: Answer = {"report": str(page), "files": files, "summary": summary, "pushed": None}
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
