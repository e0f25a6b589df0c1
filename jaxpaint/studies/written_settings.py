"""A settings file for `jaxpaint study`, every setting with what it is: written for people to edit."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from jaxpaint.studies.settings import OF_FILES, YAML, Setting

WIDTH = 100
HEAD = (
    "Settings of a study: jaxpaint study FILE --dry-run says what it takes, jaxpaint study FILE runs it. Options of "
    "the command go before these. Lines that begin with # are defaults, or examples of what may be set."
)
EXAMPLES: Mapping[str, Any] = {
    "preset": "quick",
    "store": "study.sqlite",
    "report": "study-report",
    "shard": "1/8",
    "model": "painter-16",
    "models": ["smollm2", "llama2-7b"],
    "revision": "main",
    "tasks": ["lambada_openai", "arc_easy"],
    "limit": 100,
    "num-fewshot": 5,
    "data": ["arc_easy=arc_easy.jsonl"],
    "data-dir": "data",
    "batch-tokens": 4096,
    "strategies": ["skip", "reverse", "random"],
    "starts": "6-12/3",
    "seeds": 10,
    "counts": "4,8",
    "calibration": "texts.jsonl",
    "plans": ["0-8 {9-22}*3 23-31"],
    "plans-file": "plans.txt",
    "analyses": ["similarity"],
    "analysis-strategies": ["full", "skip"],
    "max-length": 1024,
    "include-path": "tasks",
    "apply-chat-template": True,
    "system-instruction": "Answer briefly.",
    "fewshot-as-multiturn": False,
    "gen-kwargs": ["max_gen_toks=300"],
    "samples": "samples.json",
    "seed": "0,1234,1234,1234",
}
"""Of settings that have no default which could be written."""


def settings_text(given: Mapping[str, Any], suffix: str, schema: str | None = None) -> str:
    """All settings, each with its help as a comment, the `given` ones set; TOML, or YAML for .yaml and .yml.

    `schema` is the name of a JSON schema beside the file, which its first line then tells editors of.
    """
    is_yaml = suffix in YAML
    assign = ": " if is_yaml else " = "
    lines = (
        [] if schema is None else [f"# yaml-language-server: $schema={schema}" if is_yaml else f"#:schema ./{schema}"]
    )
    lines += _comment(HEAD)
    for setting in OF_FILES.values():
        lines += ["", *_comment(setting.help)]
        if setting.name in given:
            lines.append(f"{setting.name}{assign}{_value(given[setting.name])}")
        else:
            lines.append(f"# {setting.name}{assign}{_value(shown_default(setting))}")
    return "\n".join([*lines, ""])


def shown_default(setting: Setting) -> Any:
    """What stands behind a setting that is not given: an example, or the default."""
    shown = EXAMPLES.get(setting.name, setting.default)
    assert shown not in (None, MISSING), setting.name
    return shown


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _value(value: Any) -> str:
    """As TOML and YAML both have it."""
    if isinstance(value, float) and value == int(value):
        value = int(value)
    if isinstance(value, Path):
        value = str(value)
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
