"""jaxpaint doctor: whether it can run here, on what, and what would make it faster."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from jaxpaint import __version__
from jaxpaint.cli.exits import BROKEN
from jaxpaint.cli.options import add_command

if TYPE_CHECKING:
    from jaxpaint.cli.doctor import Cache, Diagnosis


def add(commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        run,
        "say whether it can run here, and what would make it faster",
        """example:
  jaxpaint doctor

It shows devices, versions, memory and caches, and whether an access token is
set, never which. The exit status is 1 if something keeps it from running.""",
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    from jaxpaint.cli.doctor import examine

    try:
        found = examine()
    except ModuleNotFoundError as error:  # an installation that is not whole is what one asks the doctor about
        print(f"broken    {error.name} is not installed. Run: pip install jaxpaint")
        return BROKEN
    if options.json:
        known = asdict(found) | {"jaxpaint": __version__, "problems": found.problems, "advice": found.advice}
        print(json.dumps(known, indent=2, default=str))
    else:
        width = min(shutil.get_terminal_size().columns, 100)
        print("\n".join(line for paragraph in _lines(found) for line in _wrapped(*paragraph, width)))
    return BROKEN if found.problems else 0


def _lines(found: Diagnosis) -> Iterator[tuple[str, str]]:
    """A heading (none for what goes on) and its text."""
    from jaxpaint.cli.doctor import gigabytes

    devices, machine = found.devices, found.machine
    cores = f"{machine.cores} core{'s' * (machine.cores != 1)}"
    yield "system", f"jaxpaint {__version__}, Python {found.python}, {found.system}, {cores}"
    kinds = ", ".join(f"{count} × {kind}" for kind, count in Counter(devices.kinds).items())
    yield "devices", f"none: {devices.failure}" if devices.failure is not None else f"{devices.backend} ({kinds})"
    if devices.failure is None:
        twice = "; float32 takes twice the memory" if devices.dtype == "bfloat16" else ""
        yield "dtype", f"{devices.dtype} (--dtype auto){twice}"
    memory = gigabytes(machine.memory)
    if machine.memory_available is not None:
        memory += f", {gigabytes(machine.memory_available)} of it free"
    if machine.memory_limit is not None:
        memory += f"; {gigabytes(machine.memory_limit)} allowed by a cgroup"
    yield "memory", memory
    if any(size is not None for size in devices.memory):
        yield "", "devices: " + ", ".join(gigabytes(size) for size in devices.memory)
    yield "versions", ", ".join(f"{name} {version or 'missing'}" for name, version in found.versions.items())
    yield "hub", f"{found.hub_token}; {'offline (HF_HUB_OFFLINE)' if found.hub_offline else 'online'}"
    yield "caches", ""
    for cache in found.caches.values():
        yield "", _described(cache)
    for heading, sentences in (("faster", found.advice), ("broken", found.problems)):
        for sentence in sentences:
            yield heading, sentence
    yield "verdict", "it cannot run; see broken" if found.problems else "it can run"


def _described(cache: Cache) -> str:
    from jaxpaint.cli.doctor import gigabytes

    size = f"{'' if cache.counted else 'more than '}{gigabytes(cache.size)}"
    state = f"room for {gigabytes(cache.room)}" if cache.why_not is None else f"NOT writable ({cache.why_not})"
    return f"{cache.name}, {size}, {state}: {cache.folder}"


def _wrapped(heading: str, text: str, width: int) -> list[str]:
    """A column of headings and one of text; a path that is too long for its line is broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"{heading:10}",
        subsequent_indent=" " * (10 if heading else 12),
        break_on_hyphens=False,
    ) or [heading]
