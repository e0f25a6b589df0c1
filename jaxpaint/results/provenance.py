"""What a model's results were made by, and when: commands, devices and versions, as the store keeps them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any


@dataclass(frozen=True)
class Provenance:
    """Of a model's cells: the first and last day they were finished on (UTC, "" where none was), and what with.

    `commands` are those of the store's runs, each once, in the order they were begun; `devices` and `versions` are in
    words, each once. A store that says none of it has none.
    """

    first_day: str = ""
    last_day: str = ""
    commands: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()


UNKNOWN = Provenance()


def provenance(connection: sqlite3.Connection, model: int) -> Provenance:
    """Of a model, inside the caller's `reading`."""
    first, last = connection.execute(
        "SELECT min(finished), max(finished) FROM cells WHERE model = ?", (model,)
    ).fetchone()
    commands = connection.execute("SELECT command FROM runs WHERE command IS NOT NULL ORDER BY started, id").fetchall()
    rows = connection.execute(
        "SELECT description FROM environments WHERE id IN (SELECT environment FROM cells WHERE model = ?) ORDER BY id",
        (model,),
    )
    environments = [read for (description,) in rows if isinstance(read := json.loads(description), Mapping)]
    return Provenance(
        (first or "")[:10],
        (last or "")[:10],
        tuple(dict.fromkeys(_command(command) for (command,) in commands)),
        tuple(dict.fromkeys(filter(None, map(_device, environments)))),
        tuple(dict.fromkeys(filter(None, map(_versions, environments)))),
    )


def _command(text: str) -> str:
    """Without the folder of the script, which is another on every machine."""
    program, _, rest = text.partition(" ")
    name = PurePath(program).name
    return f"{'jaxpaint' if name == '__main__.py' else name} {rest}".strip()


def _device(environment: Mapping[str, Any]) -> str:
    name, count = environment.get("device"), environment.get("num_devices", 1)
    return "" if not name else f"{count} × {name}" if count != 1 else str(name)


def _versions(environment: Mapping[str, Any]) -> str:
    versions = environment.get("versions")
    found = dict(versions) if isinstance(versions, Mapping) else {}
    ours = {name: found.pop(name) for name in ("jaxpaint", "jax") if name in found}
    python = {"python": environment["python"]} if "python" in environment else {}
    return ", ".join(f"{name} {version}" for name, version in (ours | found | python).items())
