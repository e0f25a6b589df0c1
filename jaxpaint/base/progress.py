"""Progress bars with rate and time left: on a terminal at once, elsewhere a line a minute of what takes longer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tqdm import tqdm


class Advance(Protocol):
    """Moves a bar on by so many units; `note` says what else is worth saying."""

    def __call__(self, amount: int, note: str = "") -> None: ...


LOG_INTERVAL = 60.0  # seconds between a bar's lines in a log file


@contextmanager
def bar(description: str, unit: str = "tokens") -> Iterator[Callable[[int], Advance]]:
    """Gives a function that opens a bar of so many units and returns the one that advances it.

    `advance(amount, note)` adds to it, with what else is worth saying, such as the best plan so far. One bar is open
    at a time: the next one closes it. On a terminal it is a bar; elsewhere a line of text a minute, with a last one
    where there was a first.
    """
    with ExitStack() as shown:

        def start(total: int) -> Advance:
            shown.close()
            if not sys.stderr.isatty():
                log = _Log(description, unit, total)
                shown.callback(log.close)
                return log.advance
            drawn = shown.enter_context(_bar(description, total, f" {unit}"))

            def advance(amount: int, note: str = "") -> None:
                drawn.set_postfix_str(note, refresh=False)
                drawn.update(amount)

            return advance

        yield start


@contextmanager
def asked_bar(wanted: bool | None, description: str, unit: str = "tokens") -> Iterator[Callable[[int], Advance]]:
    """As `bar` where one is wanted: by default (None) in a notebook, which shows it with its own means."""
    notebook = _in_notebook()
    if not (notebook if wanted is None else wanted):
        yield lambda total: lambda amount, note="": None
        return
    if not notebook:
        with bar(description, unit) as start:
            yield start
        return
    import warnings

    from tqdm import TqdmWarning

    with warnings.catch_warnings(), ExitStack() as shown:
        warnings.simplefilter("ignore", TqdmWarning)  # that there are no widgets: text will do
        from tqdm.auto import tqdm

        def start_here(total: int) -> Advance:
            shown.close()
            how: dict[str, Any] = {"unit": f" {unit}", "unit_scale": True, "leave": False}
            drawn = shown.enter_context(tqdm(desc=description, total=total, **how))

            def advance(amount: int, note: str = "") -> None:
                drawn.set_postfix_str(note, refresh=False)
                drawn.update(amount)

            return advance

        yield start_here


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and "IPKernelApp" in running.config


class _Log:
    """A bar for files: whole lines, one a minute."""

    def __init__(self, description: str, unit: str, total: int) -> None:
        self.description, self.unit, self.total, self.done, self.note = description, unit, total, 0, ""
        self.started = self.said = time.monotonic()
        self.lines = self.told = 0

    def advance(self, amount: int, note: str = "") -> None:
        self.done += amount
        self.note = note
        if time.monotonic() - self.said >= LOG_INTERVAL:
            self._say()

    def close(self) -> None:
        if self.lines and self.done != self.told:
            self._say()

    def _say(self) -> None:
        from tqdm import tqdm

        self.said = time.monotonic()
        self.lines, self.told = self.lines + 1, self.done
        seconds = self.said - self.started
        size = tqdm.format_sizeof
        share = self.done / self.total if self.total else 1.0
        parts = [
            f"{self.description}: {share:.1%}, {size(self.done)} of {size(self.total)} {self.unit}",
            f"{size(self.done / seconds)} {self.unit}/s" if seconds else "",
            f"{tqdm.format_interval(seconds)} gone",
            f"{tqdm.format_interval(seconds / share - seconds)} left" if share else "",
            self.note,
        ]
        print(", ".join(filter(None, parts)), file=sys.stderr, flush=True)


@contextmanager
def byte_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Gives a function of (what is being done, bytes done, bytes in all) that draws a bar.

    With 0 bytes in all there is only something to say: it gets a line of its own.
    """
    drawn: tqdm | None = None
    with ExitStack() as shown:

        def report(what: str, done: int, total: int) -> None:
            nonlocal drawn
            if not total:
                shown.close()
                drawn = None
                say(what)
                return
            if drawn is None:
                drawn = shown.enter_context(_bar(what, total, "B"))
            drawn.set_description(what, refresh=False)
            drawn.update(done - drawn.n)

        yield report


def say(line: str) -> None:
    """A line of its own on standard error, above the bars that are there."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


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
