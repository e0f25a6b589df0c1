"""Progress bars in tokens: rate and time left on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def token_bar(description: str) -> Iterator[Callable[[int], Callable[[int], None]]]:
    """Gives a function that opens a bar of so many tokens and returns the one that advances it."""
    from tqdm import tqdm

    bars: list[tqdm] = []

    def start(total: int) -> Callable[[int], None]:
        bar = tqdm(
            total=total,
            desc=description,
            unit=" tokens",
            unit_scale=True,
            mininterval=0.2 if sys.stderr.isatty() else 60.0,
            dynamic_ncols=True,
            file=sys.stderr,
        )
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
            interval = 0.2 if sys.stderr.isatty() else 60.0
            bar = tqdm(
                total=total, unit="B", unit_scale=True, mininterval=interval, dynamic_ncols=True, file=sys.stderr
            )
        bar.set_description(what, refresh=False)
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        if bar is not None:
            bar.close()
