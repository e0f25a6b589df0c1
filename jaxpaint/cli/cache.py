"""show what is kept between runs, what it takes, and remove it

examples:
  jaxpaint cache ls
  jaxpaint cache rm painter-16-3470f12571d870d1
  jaxpaint cache rm compiled
  jaxpaint cache rm --older-than 30d

Models that were converted on first use, compiled programs and tracebacks lie in
JAXPAINT_CACHE, or else in the user's cache folder. All of it is made anew when
it is needed. rm asks nothing, and refuses a model that another process uses.
Downloads of Hugging Face are its own: hf cache ls.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable

from typing_extensions import TypedDict

from jaxpaint.base.caches import cache_folder
from jaxpaint.base.errors import UserError
from jaxpaint.base.kept import CONVERTED, Kept, everything, remove_kept, remove_older
from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count, gigabytes
from jaxpaint.cli.answers import give

UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}


class Entry(TypedDict):
    """`last_used` is in seconds since 1970."""

    kind: str
    name: str
    path: str
    bytes: int
    last_used: float


class Answer(TypedDict):
    """What is there (after ls) and what was removed (after rm), with the bytes that this freed."""

    folder: str
    kept: list[Entry]
    removed: list[Entry]
    freed_bytes: int


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("ls", "rm"), help="show what is there, or remove of it")
    parser.add_argument("names", metavar="NAME", nargs="*", help="with rm: names as ls shows them")
    parser.add_argument(
        "--older-than", metavar="AGE", help="with rm: all that was not used for so long, such as 12h, 30d or 8w"
    )


def run(options: argparse.Namespace) -> int:
    if options.action == "ls":
        if options.names or options.older_than:
            raise UserError("cache ls shows all that is there; names and --older-than are of cache rm")
        kept = everything()
        give(options, _answer(kept, (), 0), "\n".join(_table(kept)))
        return 0
    removed, freed = _removed(options)
    names = ", ".join(each.name for each in removed)
    told = f"removed {names}: {gigabytes(freed)} freed" if removed else "nothing was that old"
    give(options, _answer(everything(), removed, freed), told)
    return 0


def _removed(options: argparse.Namespace) -> tuple[list[Kept], int]:
    """Raises UserError for names that there are not, before anything is removed, and what is in use."""
    if bool(options.names) == (options.older_than is not None):
        raise UserError(
            "cache rm removes what it is told: give names as jaxpaint cache ls shows them, or --older-than 30d"
        )
    by_name = {each.name: each for each in everything()}
    if options.older_than is None:
        for name in options.names:
            if name not in by_name:
                raise UserError(f"nothing named {name} is kept; the names are {', '.join(by_name) or 'none'}")
        chosen = [by_name[name] for name in dict.fromkeys(options.names)]
        for each in chosen:
            remove_kept(each)
        return chosen, sum(each.bytes for each in chosen)
    seconds, removed, freed = _seconds(options.older_than), [], 0
    for each in by_name.values():
        if each.kind == CONVERTED:
            if each.last_used < time.time() - seconds:
                remove_kept(each)
                removed.append(each)
                freed += each.bytes
        elif went := remove_older(each, seconds):
            removed.append(each)
            freed += went
    return removed, freed


def _seconds(age: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6})([hdw])", age)
    if found is None:
        raise UserError(f"--older-than {age}: expected hours, days or weeks, such as 12h, 30d or 8w")
    return int(found[1]) * UNITS[found[2]]


def _answer(kept: Iterable[Kept], removed: Iterable[Kept], freed: int) -> Answer:
    return {
        "folder": str(cache_folder()),
        "kept": [_entry(each) for each in kept],
        "removed": [_entry(each) for each in removed],
        "freed_bytes": freed,
    }


def _entry(each: Kept) -> Entry:
    return {
        "kind": each.kind,
        "name": each.name,
        "path": str(each.path),
        "bytes": each.bytes,
        "last_used": each.last_used,
    }


def _table(kept: list[Kept]) -> list[str]:
    if not kept:
        return [f"nothing is kept in {cache_folder()}"]
    width = max(len(visible_name(each.name)) for each in kept)
    rows = [
        f"{visible_name(each.name):<{width}}  {gigabytes(each.bytes):>9}  {_ago(each.last_used):>14}  {each.kind}"
        for each in kept
    ]
    total = gigabytes(sum(each.bytes for each in kept))
    return [f"{'name':<{width}}  {'size':>9}  {'last used':>14}  kind", *rows, f"\n{total} in {cache_folder()}"]


def _ago(second: float) -> str:
    seconds = max(time.time() - second, 0)
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return f"{count(int(seconds // size), unit)} ago"
    return "now"
