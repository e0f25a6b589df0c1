"""Any exception in one line: what the machine's limits made fail, or else a bug, whose traceback is kept in a file."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from jaxpaint.base import __version__
from jaxpaint.base.caches import crashes_folder
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.limits import limit
from jaxpaint.base.memory import addresses_used_up

SHOW = "JAXPAINT_TRACEBACK"
SHOWN = 200  # characters of an error's text
_TOKEN = re.compile(r"\bhf_\w+")  # of the hub: no file and no screen shows one


def in_words(error: Exception) -> str:
    """One line of what a user can mend; else that it is a bug, and in which file its traceback now is."""
    return mendable(error) or _bug(error)


def mendable(error: Exception) -> str | None:
    """One line of what a user can mend, from the exception or what led to it; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    for each in _chain(error):
        if (words := limit(each)) is not None:
            return words
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] not in ("jaxpaint", "convert"):
        return f"{error.name} is not installed; jaxpaint doctor says what is missing"
    if isinstance(error, OSError):
        where = f"{_text(error.filename)}: " if error.filename else ""
        return f"{where}{error.strerror or first_line(error)}"
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "a name or path holds a null character, which no file's name may"
    if isinstance(error, UnicodeEncodeError) and re.search("[\ud800-\udfff]", error.object):
        return f"the text or name {_clipped(error.object)!r} is not UTF-8; rename the file or folder, or mend the text"
    if (allowed := addresses_used_up()) is not None:  # native code tells of it in as many ways as there are libraries
        return (
            f"the {allowed / 1e9:.1f} GB of addresses that ulimit -v allows do not suffice; allow more (it showed as "
            f"{type(error).__name__}: {_clipped(first_line(error))})"
        )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _bug(error: Exception) -> str:
    what = f"{type(error).__name__}: {_clipped(first_line(error))}"
    if (kept := _keep(error)) is None:
        return f"this is a bug in jaxpaint ({what}); {SHOW}=1 shows where; please report it"
    return f"this is a bug in jaxpaint ({what}); please report it with the file {kept}"


def _keep(error: Exception) -> Path | None:
    """Where the traceback was written; None where there is no place for it."""
    text = "".join(traceback.format_exception(error))
    about = f"jaxpaint {__version__}, Python {platform.python_version()}, {platform.platform()}"
    file = crashes_folder() / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        text = f"{about}\n{sys.argv!r}\n\n{text}"
        file.write_text(_TOKEN.sub("hf_…", text), encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None
    return file


def _text(name: object) -> str:
    return os.fsdecode(name) if isinstance(name, bytes) else str(name)


def _clipped(text: str) -> str:
    text = _TOKEN.sub("hf_…", text)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
