"""The three streams of the process, whichever are closed, full, hung up or not UTF-8."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.shown import visible

_TAIL = 300  # characters of what was written, of which the last line is told if the stream failed
# What plans' drawings and tables are made of, for streams that have only ASCII.
_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("│┃", "|"),
        **dict.fromkeys("─━", "-"),
        **dict.fromkeys("╭╮╰╯┬┴┼├┤┌┐└┘", "+"),
        **dict.fromkeys("“”„", '"'),
        **dict.fromkeys("‘’", "'"),
        **{"→": "->", "±": "+-", "×": "x", "…": "...", "–": "-", "—": "-"},
    }
)
_NEAREST = "jaxpaint.nearest"


def _nearest(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = visible(error.object[error.start : error.end]).translate(_LOOKALIKES)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(_NEAREST, _nearest)


class _Stream:
    """A text stream that shows what a terminal would obey (`visible`) rather than sending it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)


class Output(_Stream):
    """Standard output: shown on a terminal, exact elsewhere.

    Attributes:
        failure: why it cannot be written to, None as long as it can.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.failure: OSError | None = None
        self._tail = ""
        self._terminal = stream.isatty()

    def write(self, text: str) -> int:
        self._tail = (self._tail + text)[-_TAIL:]
        return self._tried(self._stream.write, visible(text) if self._terminal else text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, call: Any, *arguments: str) -> Any:
        try:
            return call(*arguments)
        except OSError as error:
            self.failure = error
            raise

    def failed(self) -> OSError | None:
        """`failure`, after all that was written was sent."""
        with suppress(OSError):
            self.flush()
        return self.failure

    def lost(self) -> str:
        """What became of it, with the last line: it says where the work is that was done."""
        assert self.failure is not None
        last = next((line for line in reversed(self._tail.splitlines()) if line.strip()), "")
        told = f"; its last line was: {last.strip()}" if last else ""
        return f"standard output: {self.failure.strerror or first_line(self.failure)}{told}"


class _Messages(_Stream):
    """Standard error, where no work stops because nobody can be told of it any more."""

    def write(self, text: str) -> int:
        # Bars go back to the beginning of their line, or move by lines alone.
        begins = text[: len(text) - len(text.lstrip("\r"))]
        rest = text[len(begins) :]
        with suppress(OSError):
            self._stream.write(begins + (rest if not rest.replace("\x1b[A", "").strip("\n") else visible(rest)))
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def careful() -> Iterator[Output]:
    """Within it the streams are there, take every character, and show what a terminal would obey; gives the output."""
    _open_missing()
    before = sys.stdout, sys.stderr
    errors = [getattr(stream, "errors", None) for stream in before]
    for stream in before:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_NEAREST)
    output = Output(sys.stdout)
    sys.stdout, sys.stderr = output, _Messages(sys.stderr)  # type: ignore[assignment]
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before
        for stream, was in zip(before, errors, strict=True):
            if hasattr(stream, "reconfigure"):
                with suppress(OSError):  # flushes
                    stream.reconfigure(errors=was)


def for_programs() -> None:
    """What is written from here on is UTF-8, whatever the locale says: CSV and JSON are, and are read by programs."""
    if not sys.stdout.isatty() and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(encoding="utf-8")


def read_input(option: str) -> str:
    """Standard input to its end. Raises UserError where it is closed or no text; `option` asked for it."""
    if sys.stdin is None:
        raise UserError(f"{option} reads standard input, which is closed")
    try:
        text = sys.stdin.read()
        text.encode()  # where the locale's errors let other bytes through
    except UnicodeError as error:
        raise UserError(f"{option} reads standard input, which is not text in {sys.stdin.encoding}") from error
    return text


def _open_missing() -> None:
    """Opens closed descriptors onto nothing: the next file to be opened would become one, and get what is printed.

    Input stays None, so that whoever reads it can say so.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
        if descriptor:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", closefd=False))
