"""Documents that come from outside (JSON, TOML), read whole and validated: what is wrong with one is a single line.

Everything that a checkpoint, a store or a user's folder brings as either goes through here.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
import stat
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jaxpaint.base.errors import UserError, first_line

Shape = TypeVar("Shape")
SHOWN_ERRORS = 3
SHOWN_VALUE = 60  # characters
MOST_VALUES = 1_000_000
DEEPEST = 100  # objects and lists in one another; what is read here has ten or so


def require_regular(path: str | Path) -> None:
    """Raises UserError for what is not there or is no regular file, and might never end, or wait for ever."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise UserError(f"{path} is not a regular file")
    except (OSError, ValueError) as error:  # ValueError: no name of a file at all
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error


def read_bytes(path: str | Path) -> bytes:
    """A file's bytes. Raises UserError for what cannot be read or is no regular file."""
    require_regular(path)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {_reason(error)}") from error


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
        value = json.loads(text, parse_constant=_beyond_json, parse_float=_finite)
        _require_shallow(value)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply to be what it should be") from error
    except ValueError as error:  # not UTF-8 included
        raise UserError(f"{where} cannot be read as JSON: {first_line(error)}") from error
    return value if shape is None else checked(value, shape, where)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The tables and values in a TOML file.

    Raises:
        UserError: the file cannot be read, is not TOML, or is nested deeper than anything here.
    """
    data = read_bytes(path)
    try:
        text = data.decode()
        if _DEEP_KEY.search(text):  # Python's parser takes minutes for some ten thousand parts
            raise RecursionError
        value = tomllib.loads(text)
        _require_shallow(value)
    except RecursionError as error:
        raise UserError(f"{path} is nested too deeply to be read") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not text") from error
    except ValueError as error:  # numbers of too many digits, and dates that are none, included
        raise UserError(f"{path} is not TOML: {first_line(error)}") from error
    return value


def read_yaml(path: str | Path) -> Any:
    """The YAML document in a file: plain values alone, no tags of Python's.

    Raises:
        UserError: the file cannot be read, is not YAML, or stands for more than anything here.
    """
    import yaml

    try:
        value = yaml.safe_load(read_bytes(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not YAML: {first_line(error)}") from error
    require_bounded(value, str(path))
    return value


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


def require_bounded(value: Any, where: str) -> None:
    """Of what may hold one thing at many places, as YAML's anchors do.

    Raises:
        UserError: written out it would have more than `MOST_VALUES` values, or have no end.
    """
    sizes: dict[int, int] = {}

    def size(part: Any, level: int) -> int:
        if not isinstance(part, dict | list | tuple):
            return 1
        if id(part) not in sizes:
            if level == DEEPEST:
                raise UserError(f"{where} is nested too deeply to be what it should be")
            inner = part.values() if isinstance(part, dict) else part
            sizes[id(part)] = 1 + sum(size(each, level + 1) for each in inner)
        return sizes[id(part)]

    if (found := size(value, 0)) > MOST_VALUES:
        raise UserError(f"{where} stands for {found:,} values, by its anchors; expected at most {MOST_VALUES:,}")


def shown(value: Any) -> str:
    """A value from outside as an error may quote it: short, on one line, whatever it is."""
    try:
        text = _SHORT.repr(value)
    except (RecursionError, ValueError):  # ValueError: a number of more digits than Python writes
        return f"<{type(value).__name__}>"
    return text if len(text) <= SHOWN_VALUE else f"{text[:SHOWN_VALUE]}…"


def shown_items(items: Iterable[tuple[str, Any]]) -> str:
    """`name=value, …`, each value as `shown`."""
    return ", ".join(f"{_name(name)}={shown(value)}" for name, value in items)


def _name(part: object) -> str:
    return str(part) if str(part).isprintable() else shown(str(part))


_DEEP_KEY = re.compile(rf"""(?:\.[ \t]*+[\w"'-]++[ \t]*+){{{DEEPEST}}}""")
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = SHOWN_VALUE


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def _require_shallow(value: Any) -> None:
    """Raises RecursionError for what could be read but not written again, nor shown."""
    layer = [value]
    for _ in range(DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in layer if isinstance(each, dict | list)]
        layer = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not layer:
            return
    raise RecursionError


def _described(error: Any) -> str:
    place = ".".join(map(_name, error["loc"]))
    given = shown(error["input"])
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{place}: {message}, not {given}" if place else f"{message}, not {given}"


def _finite(digits: str) -> float:
    return float(digits) if math.isfinite(float(digits)) else _beyond_json(digits)


def _beyond_json(name: str) -> NoReturn:
    raise ValueError(f"{name[:SHOWN_VALUE]} is not a number of JSON")
