"""list tasks, models, strategies, or results stores

examples:
  jaxpaint list tasks arc
  jaxpaint list tasks 'mmlu_*' --kind group
  jaxpaint list tasks --offline
  jaxpaint list models
  jaxpaint list strategies
  jaxpaint list stores results

Nothing is downloaded. tasks are lm-eval's, from its own index (seconds), and
jaxpaint's; --offline leaves those whose data set is on this machine. models are
the one that comes along and those that were converted into the cache. stores
are the results stores in a folder (default: this one) and those inside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count, gigabytes
from jaxpaint.cli.answers import give

KINDS = ("task", "group", "tag")
Rows = list[dict[str, Any]]


class Answer(TypedDict):
    """Of `what` a row each: of tasks {name, kind}; of models {name, source, revision, dtype, num_layers, bytes, path};
    of strategies {name, words, options, in_paper, measured}; of stores {path, models, plans, tasks, results, bytes}."""

    what: str
    rows: Rows


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("tasks", "models", "strategies", "stores"), help="what to list")
    parser.add_argument(
        "pattern",
        metavar="PATTERN",
        nargs="?",
        help="a part of a name, or with * and ? all of it; of stores the folder",
    )
    parser.add_argument("--kind", choices=KINDS, help="of tasks, groups or tags alone (default: all of them)")
    parser.add_argument("--offline", action="store_true", help="tasks whose data set is on this machine alone")


def run(options: argparse.Namespace) -> int:
    if options.what != "tasks" and (options.kind or options.offline):
        raise UserError(f"--kind and --offline are of tasks; leave them away for {options.what}")
    if options.what == "stores":
        rows = _stores(Path(options.pattern or "."))
    else:
        found = {"tasks": lambda: _tasks(options), "models": _models, "strategies": _strategies}[options.what]()
        rows = [row for row in found if _is_meant(row["name"], options.pattern)]
    give(options, {"what": options.what, "rows": rows}, _words(options.what, rows))
    return 0


def _is_meant(name: str, pattern: str | None) -> bool:
    if pattern is None:
        return True
    return fnmatch(name, pattern) if any(each in pattern for each in "*?[") else pattern.lower() in name.lower()


def _tasks(options: argparse.Namespace) -> Rows:
    from jaxpaint.base.progress import say
    from jaxpaint.tasks.index import index

    say("reading lm-eval's index of tasks …")
    rows = index(lambda name: _is_meant(name, options.pattern), offline=options.offline)
    return [row for row in rows if options.kind in (None, row["kind"])]


def _models() -> Rows:
    from jaxpaint.base.bundled import MODEL
    from jaxpaint.base.kept import CONVERTED, everything
    from jaxpaint.models.checkpoint import is_store, read_config, read_manifest

    rows: Rows = [
        {"name": MODEL, "source": "comes with jaxpaint", "revision": None, "dtype": "bfloat16", "num_layers": 16}
        | {"bytes": None, "path": None}
    ]
    for each in everything():
        if each.kind != CONVERTED or not is_store(each.path):
            continue
        try:
            manifest, layers = read_manifest(each.path), read_config(each.path).num_hidden_layers
        except UserError:  # damaged, or of a later version: the cache command removes it
            continue
        known = {name: manifest.get(name) for name in ("source", "revision", "dtype")}
        size = {"num_layers": layers, "bytes": each.bytes, "path": str(each.path)}
        rows.append({"name": str(manifest["source"]), **known, **size})
    return rows


def _strategies() -> Rows:
    from jaxpaint.plans.proposals import MEASURED
    from jaxpaint.plans.strategies import EVERY

    return [
        {
            "name": name,
            "words": strategy.words,
            "options": dict(strategy.options),
            "in_paper": strategy.in_paper,
            "measured": name in MEASURED,
        }
        for name, strategy in EVERY.items()
    ]


def _stores(folder: Path) -> Rows:
    from jaxpaint.results.overview import overview

    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one with results stores")
    found = (overview(file) for file in sorted(folder.rglob("*")) if file.is_file() and not file.is_symlink())
    return [row for row in found if row is not None]


def _words(what: str, rows: Rows) -> str:
    if not rows:
        return f"no {what}"
    columns = {
        "tasks": lambda row: (row["name"], row["kind"]),
        "models": lambda row: (
            row["name"],
            f"{row['num_layers']} layers",
            row["dtype"],
            "" if row["bytes"] is None else gigabytes(row["bytes"]),
            row["path"] or row["source"],
        ),
        "strategies": lambda row: (
            row["name"],
            ", ".join(name if value is None else f"{name}={value}" for name, value in row["options"].items()),
            "paper" if row["in_paper"] else "measured" if row["measured"] else "",
            row["words"],
        ),
        "stores": lambda row: (
            row["path"],
            ", ".join(row["models"]) or "no model",
            count(row["plans"], "plan"),
            count(row["tasks"], "task"),
            count(row["results"], "result"),
            gigabytes(row["bytes"]),
        ),
    }[what]
    return "\n".join(_aligned([tuple(map(visible_name, map(str, columns(row)))) for row in rows]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
