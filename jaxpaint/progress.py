"""Progress bars with rate and time left: on a terminal at once, elsewhere a line a minute of what takes longer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

LOG_INTERVAL = 60.0  # seconds between a bar's lines in a log file


@contextmanager
def token_bar(description: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Gives a function that opens a bar of so many tokens and returns the one that advances it."""
    bars: list[tqdm] = []

    def start(total: int) -> Callable[[int], None]:
        bar = _bar(description, total, " tokens")
        bars.append(bar)

        def advance(tokens: int) -> None:
            bar.update(tokens)

        return advance

    try:
        yield start
    finally:
        for bar in bars:
            bar.close()


@contextmanager
def byte_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function of (what is being done, bytes done, bytes in all) that draws a bar.

    With 0 bytes in all there is only something to say: it gets a line of its own.
    """
    from tqdm import tqdm

    bar: tqdm | None = None

    def report(what: str, done: int, total: int) -> None:
        nonlocal bar
        if not total:
            tqdm.write(what, file=sys.stderr)
            return
        if bar is None:
            bar = _bar(what, total, "B")
        bar.set_description(what, refresh=False)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()


def _bar(description: str, total: int, unit: str) -> tqdm:
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        desc=description,
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=0.2 if terminal else LOG_INTERVAL,
        maxinterval=10 if terminal else LOG_INTERVAL,
        delay=0 if terminal else LOG_INTERVAL,
        dynamic_ncols=True,
        file=sys.stderr,
    )
