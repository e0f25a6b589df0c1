"""Progress bars with rate and time left: on a terminal at once, elsewhere a line a minute of what takes longer.

Work of several phases has a bar for each, whose time left is that of all phases still to come.
"""

from __future__ import annotations

import logging
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


class Start(Protocol):
    """Opens a bar of so many units, and closes the one before.

    `phase` says what is done; `later` is what the phases after it take, in units of this one, and `beyond` the seconds
    of what comes after them at a pace of its own.
    """

    def __call__(self, total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance: ...


def no_bar(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
    """Shows nothing."""
    return lambda amount, note="": None


LINE_INTERVAL = 0.2  # seconds between changes of the line under a bar
BEFORE_THE_FIRST = "reading weights, compiling …"
LOG_INTERVAL = 60.0  # seconds between a bar's lines in a log file
SHOWN = {"is_on_screen": True}  # of a message's `extra`: people see it already, and it is for other handlers alone


class _OnScreen(logging.Handler):
    """Messages as lines of their own on standard error, above the bars that are there."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "is_on_screen", False):
            return
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


logger = logging.getLogger("jaxpaint")
"""What is told on the way. It goes to standard error by `on_screen`; a level above INFO there draws no bars either."""
on_screen = _OnScreen()
if not logger.handlers:
    logger.addHandler(on_screen)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _is_drawn() -> bool:
    return on_screen.level <= logging.INFO


@contextmanager
def bar(description: str, unit: str = "tokens") -> Iterator[Start]:
    """Gives a function that opens a bar of so many units and returns the one that advances it.

    `advance(amount, note)` adds to it, with what else is worth saying, such as the best plan so far. One bar is open
    at a time: the next one closes it. On a terminal it is a bar, with the note under it; elsewhere a line of text a
    minute, with a last one where there was a first.
    """
    with ExitStack() as shown:

        def start(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
            shown.close()
            named = f"{description}, {phase}" if phase else description
            on_terminal = sys.stderr.isatty() and _is_drawn()
            log = _Log(named, unit, total, on_terminal, later, beyond)
            shown.callback(log.close)
            if not on_terminal:
                return log.advance
            drawn = shown.enter_context(_bar(named, total, f" {unit}", later, beyond))
            below = shown.enter_context(_line(BEFORE_THE_FIRST))
            told = -LINE_INTERVAL

            def advance(amount: int, note: str = "") -> None:
                nonlocal told
                log.advance(amount, note)
                if (now := time.monotonic()) - told >= LINE_INTERVAL:
                    below.set_description_str(note)
                    told = now
                drawn.update(amount)

            return advance

        yield start


@contextmanager
def asked_bar(wanted: bool | None, description: str, unit: str = "tokens") -> Iterator[Start]:
    """As `bar` where one is wanted: by default (None) where a person looks, in a notebook or on a terminal.

    A notebook shows it with its own means.
    """
    notebook = _in_notebook()
    if not (notebook or sys.stderr.isatty() if wanted is None else wanted):
        yield no_bar
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

        def start_here(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
            shown.close()
            how: dict[str, Any] = {"unit": f" {unit}", "unit_scale": True, "leave": False}
            named = f"{description}, {phase}" if phase else description
            drawn = shown.enter_context(tqdm(desc=named, total=total, **how))

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

    def __init__(
        self, description: str, unit: str, total: int, on_terminal: bool, later: float = 0.0, beyond: float = 0.0
    ) -> None:
        self.extra = SHOWN if on_terminal else None  # where a bar shows it, files alone get lines
        self.description, self.unit, self.total, self.done, self.note = description, unit, total, 0, ""
        self.later, self.beyond = later, beyond
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
            f"{tqdm.format_interval(_left(self.total, self.done, self.later, seconds) + self.beyond)} left"
            if self.done
            else "",
            self.note,
        ]
        logger.info("%s", ", ".join(filter(None, parts)), extra=self.extra)


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


@contextmanager
def under_way(words: str) -> Iterator[None]:
    """Words for what has no bar, on a terminal as long as it takes; in a log file a line."""
    logger.info("%s", words, extra=SHOWN)
    with ExitStack() as shown:
        if sys.stderr.isatty() and _is_drawn():
            shown.enter_context(_line(words, 0))
        yield


def say(line: str) -> None:
    """A line of its own on standard error, above the bars that are there, and in the log."""
    logger.info("%s", line)


def _left(total: float, done: float, later: float, seconds: float) -> float:
    """Seconds of this phase and those to come, at the pace so far."""
    return (total + later - done) * seconds / done


def _line(words: str, position: int = 1) -> tqdm:
    """A line of words, by default under a bar."""
    from tqdm import tqdm

    return tqdm(desc=words, bar_format="{desc}", position=position, leave=False, dynamic_ncols=True, file=sys.stderr)


def _bar(description: str, total: int, unit: str, later: float = 0.0, beyond: float = 0.0) -> tqdm:
    from tqdm import tqdm

    class Bar(tqdm):
        @property
        def format_dict(self) -> dict[str, Any]:
            known = super().format_dict
            done, seconds = known["n"], known["elapsed"]
            left = self.format_interval(_left(known["total"] or 0, done, later, seconds) + beyond) if done else "?"
            return known | {"left": left}

    terminal = sys.stderr.isatty()
    return Bar(
        bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{left}, {rate_fmt}]",
        desc=description,
        total=total,
        unit=unit,
        unit_scale=True,
        mininterval=0.2 if terminal else LOG_INTERVAL,
        maxinterval=10 if terminal else LOG_INTERVAL,
        delay=0 if terminal else LOG_INTERVAL,
        dynamic_ncols=True,
        file=sys.stderr,
        disable=not _is_drawn(),
    )
