"""Text files that come from outside, as editors of every system write them."""

from __future__ import annotations

from pathlib import Path

from jaxpaint.base.errors import UserError, first_line


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without the byte order mark that some editors begin it with; ends of lines are `\\n`.

    Raises:
        UserError: the file cannot be read, or is of another encoding.
    """
    try:
        content = Path(path).read_bytes()  # of a pipe, too, as `<(command)` is one
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or first_line(error)}") from error
    return decoded(content, str(path))


def decoded(content: bytes, where: str) -> str:
    """As `read_text`, of content at hand; `where` names it in errors."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise UserError(f"cannot read {where}: it is not UTF-8 text, but UTF-16, UTF-32 or no text; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(f"cannot read {where}: it is not UTF-8 text (line {line}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
