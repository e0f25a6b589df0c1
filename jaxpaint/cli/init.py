"""write a settings file for jaxpaint study, with every setting explained

examples:
  jaxpaint init
  jaxpaint init llama2.toml --model llama2-7b --tasks lambada_openai,hellaswag \\
      --strategies skip,reverse,random --starts 6-12/3 --store llama2.sqlite
  jaxpaint init quick.yaml --preset quick --model smollm2 --tasks arc_easy
  jaxpaint study study.toml
  jaxpaint init --schema > jaxpaint.schema.json

The options are those of jaxpaint study. What is given stands in the file, all
else as a comment with its default. A name that ends in .yaml is YAML. A file
that exists is left alone without --force.

With a schema editors complete settings, explain them and mark what is mistyped.
A file that is written beside jaxpaint.schema.json names it in its first line,
#:schema ./jaxpaint.schema.json, which Even Better TOML and taplo read.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, write_whole
from jaxpaint.cli import study
from jaxpaint.cli.answers import give
from jaxpaint.cli.options import study_options
from jaxpaint.studies.schema import SCHEMA, Schema, schema_of_files
from jaxpaint.studies.settings import ONE_OR_SEVERAL, PLACES, checked_names
from jaxpaint.studies.written_settings import settings_text

DEFAULTS = {"model": "painter-16", "tasks": "painter_facts,painter_places", "store": "study.sqlite"}


class Written(TypedDict):
    """The file, and what it sets."""

    file: str
    settings: list[str]


Answer = Written | Schema


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", nargs="?", type=Path, default=Path("study.toml"), help="(default: study.toml)"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that exists")
    parser.add_argument(
        "--schema", action="store_true", help="print the JSON schema of settings files, for editors, and write nothing"
    )
    study.add_settings(parser)


def run(options: argparse.Namespace) -> int:
    if options.schema:
        document = schema_of_files()
        give(options, document, json.dumps(document, ensure_ascii=False, indent=2))
        return 0
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
    schema = SCHEMA if (file.parent / SCHEMA).is_file() else None
    write_whole(settings_text(given, file.suffix, schema), file)
    words = f"wrote {file}; edit it, then: jaxpaint study {file} --dry-run"
    give(options, {"file": str(file), "settings": sorted(given)}, words)
    return 0
