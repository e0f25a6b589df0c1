"""write a settings file for jaxpaint study, with every setting explained

examples:
  jaxpaint init
  jaxpaint init llama2.toml --model llama2-7b --tasks lambada_openai,hellaswag \\
      --strategies skip,reverse,random --starts 6-12/3 --store llama2.sqlite
  jaxpaint init quick.yaml --preset quick --model smollm2 --tasks arc_easy
  jaxpaint study study.toml

The options are those of jaxpaint study. What is given stands in the file, all
else as a comment with its default. A name that ends in .yaml is YAML. A file
that exists is left alone without --force.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, write_whole
from jaxpaint.cli import study
from jaxpaint.cli.answers import give
from jaxpaint.cli.options import study_options
from jaxpaint.studies.settings import COMMAND_LINE_ONLY, ONE_OR_SEVERAL, PLACES, checked_names
from jaxpaint.studies.written_settings import Setting, settings_text

DEFAULTS = {"model": "painter-16", "tasks": "painter_facts,painter_places", "store": "study.sqlite"}


class Answer(TypedDict):
    """The file, and what it sets."""

    file: str
    settings: list[str]


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=Path("study.toml"), help="(default: study.toml)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    study.add_settings(parser)


def run(options: argparse.Namespace) -> int:
    file: Path = options.file
    if file.suffix not in PLACES:
        raise UserError(f"{file}: the kinds of settings files are {', '.join(PLACES)}")
    check_writable(file, "a settings file", "FILE")
    if file.exists() and not options.force:
        raise UserError(f"{file} exists already; choose another name, or replace it (--force)")
    given = {name: value for name, value in study_options(options).items() if value is not None}
    if options.report is not None:
        given["report"] = options.report
    checked_names(given)
    if "preset" not in given:
        given = {name: value for name, value in DEFAULTS.items() if ONE_OR_SEVERAL.get(name) not in given} | given
    known = [_setting(action) for action in _options() if _is_setting(action)]
    write_whole(settings_text(known, given, file.suffix), file)
    words = f"wrote {file}; edit it, then: jaxpaint study {file} --dry-run"
    give(options, {"file": str(file), "settings": sorted(given)}, words)
    return 0


def _options() -> list[argparse.Action]:
    parser = argparse.ArgumentParser()
    study.add_settings(parser)
    return parser._actions


def _is_setting(action: argparse.Action) -> bool:
    return bool(action.option_strings) and action.dest not in (
        "help",
        *(n.replace("-", "_") for n in COMMAND_LINE_ONLY),
    )


def _setting(action: argparse.Action) -> Setting:
    name = "plans" if action.dest == "plan" else action.dest.replace("_", "-")
    return Setting(name, (action.help or "").replace("%%", "%"))
