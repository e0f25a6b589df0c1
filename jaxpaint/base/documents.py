"""Documents that come from outside (JSON), read whole and validated: what is wrong with one is a single line.

Everything that a checkpoint, a store or a user's folder brings as JSON goes through here.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jaxpaint.base.errors import UserError, first_line

Shape = TypeVar("Shape")
SHOWN_ERRORS = 3
SHOWN_VALUE = 60  # characters


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes. Raises UserError for what cannot be read or is no regular file, which might never end."""
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or first_line(error)}") from error


def read_json(path: str | Path, shape: type[Shape] | None = None) -> Any:
    """The JSON document in a file, as `shape` (default: whatever it holds) where that is given.

    Raises:
        UserError: the file cannot be read, is not JSON (numbers beyond JSON, such as NaN, included) or of another
            shape.
    """
    return parse_json(read_bytes(path), str(path), shape)


def parse_json(text: bytes | str, where: str, shape: type[Shape] | None = None) -> Any:
    """As `read_json`, of a text at hand; `where` names it in errors."""
    try:
        value = json.loads(text, parse_constant=_beyond_json)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be what it should be") from error
    except ValueError as error:  # not UTF-8 included
        raise UserError(f"{where} cannot be read as JSON: {first_line(error)}") from error
    return value if shape is None else checked(value, shape, where)


def checked(value: Any, shape: type[Shape], where: str) -> Shape:
    """`value` as the `shape` that it should have: a pydantic model, or any type that pydantic can validate.

    Raises:
        UserError: it has another; the first places that differ are named, with what stands there.
    """
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        listed = "; ".join(_described(one) for one in found[:SHOWN_ERRORS])
        more = f" (and {len(found) - SHOWN_ERRORS} more)" if len(found) > SHOWN_ERRORS else ""
        raise UserError(f"{where} is not as it should be: {listed}{more}") from error


def _described(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"])
    given = repr(error["input"])
    given = given if len(given) <= SHOWN_VALUE else f"{given[:SHOWN_VALUE]}…"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{place}: {message}, not {given}" if place else f"{message}, not {given}"


def _beyond_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
