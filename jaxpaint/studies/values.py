"""The kinds of values that settings have: what each makes of a text, a number or a list, or what it expected.

Beside each stands the same as JSON Schema has it, for editors: `jaxpaint.studies.schema`.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from jaxpaint.base.documents import checked as checked_shape
from jaxpaint.base.documents import parse_json, read_json, shown
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.numbers import EXPECTED, LARGEST, parse_numbers, within
from jaxpaint.plans.names import NamedLayersError
from jaxpaint.plans.nodes import MAX_COST
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import MAX_PLANS
from jaxpaint.tasks.asking import DEFAULT_SEEDS
from jaxpaint.tasks.local_data import data_options
from jaxpaint.tasks.own import OwnTask

MOST = f"at most {LARGEST}"
SEVERAL_SEEDS = "a number N stands for the N seeds from 0, and 3-7 or 1,4 for these"

Schema: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """Makes a value of what people write; `schema` says in JSON Schema what that may be in a settings file."""

    read: Callable[[Any], Any]
    schema: Schema

    def __call__(self, value: Any) -> Any:
        return self.read(value)


def _kind(**schema: Any) -> Callable[[Callable[[Any], Any]], Kind]:
    return lambda read: Kind(read, schema)


def _either(*schemas: Schema) -> Callable[[Callable[[Any], Any]], Kind]:
    return _kind(anyOf=list(schemas))


class _Unfit(Exception):
    """What was expected in place of a value, and this as it is shown where that is not as it is."""

    def __init__(self, expected: str, *given: Any) -> None:
        super().__init__(expected)
        self.given = given


def checked(where: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    """The value as its kind has it. Raises UserError, which names `where`."""
    try:
        return kind(value)
    except _Unfit as expected:
        raise UserError(f"{where} is {_shown(*expected.given or (value,))}; expected {expected}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


TEXT: Schema = {"type": "string", "pattern": r"\S"}
TEXTS: Schema = {"type": "array", "items": {"type": "string"}}
NAMES: Schema = {"anyOf": [TEXTS, {"type": "string"}]}
_COUNT: Schema = {"type": "integer", "minimum": 0, "maximum": LARGEST}
_RANGE = r"\s*[0-9]+(\s*-\s*[0-9]+(\s*/\s*[0-9]+)?)?\s*"
_NUMBERS: Schema = {"type": "string", "pattern": f"^{_RANGE}(,{_RANGE})*$"}


@_kind(**TEXT)
def text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Unfit("a text")
    return value


@_kind(**TEXT)
def path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip():
        raise _Unfit("the name of a file or folder")
    return Path(value).expanduser()


def choice(*choices: str) -> Kind:
    @_kind(enum=list(choices))
    def of_choices(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise _Unfit(f"one of {', '.join(choices)}")
        return value

    return of_choices


@_kind(type="boolean")
def switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


def whole(least: int) -> Kind:
    @_kind(type="integer", minimum=least, maximum=LARGEST)
    def of_least(value: Any) -> int:
        if not _is_whole(value) or not least <= value <= LARGEST:
            raise _Unfit(f"a whole number, {least} or more" if not _is_whole(value) or value < least else MOST)
        return value

    return of_least


@_kind(
    type="number",
    exclusiveMinimum=0,
    maximum=LARGEST,
    anyOf=[{"type": "integer"}, {"exclusiveMaximum": 1}],
)
def limit(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        # The command line reads any number as a float.
        given = (int(value),) if isinstance(value, float) and value.is_integer() else ()
        raise _Unfit("a number of documents per task, or a fraction below 1", *given)
    if value >= 1 and value != int(value):
        raise _Unfit("a whole number of documents per task, or a fraction below 1")
    if value > LARGEST:
        raise _Unfit(MOST)
    return int(value) if value >= 1 else value


@_kind(**NAMES)
def names(value: Any) -> tuple[str, ...]:
    """A list, or one text by commas; each once."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise _Unfit('names, as a list ["A", "B"] or as "A,B"')
    return tuple(dict.fromkeys(item.strip() for item in value if item.strip()))


@_kind(**NAMES)
def tasks(value: Any) -> tuple[str | OwnTask, ...]:
    """As `names`, and tasks of one's own among them, or one."""
    items = [value] if isinstance(value, OwnTask) else value.split(",") if isinstance(value, str) else value
    if not isinstance(items, Sequence) or not all(isinstance(item, str | OwnTask) for item in items):
        raise _Unfit('names, as a list ["A", "B"] or as "A,B"')
    asked = [item if isinstance(item, OwnTask) else item.strip() for item in items]
    return tuple(item for number, item in enumerate(asked) if item and item not in asked[:number])


def names_of(known: Iterable[str], one: str, many: str) -> Kind:
    name = rf"\s*({'|'.join(known)})?\s*"

    @_either({"type": "array", "items": {"enum": list(known)}}, {"type": "string", "pattern": f"^{name}(,{name})*$"})
    def of_known(value: Any) -> tuple[str, ...]:
        for name in (found := names(value)):
            if name not in known:
                raise UserError(f"unknown {one} {name!r}: {hint(name, known, f'the {many} are')}")
        return found

    return of_known


@_kind(**TEXTS)
def texts(value: Any) -> tuple[str, ...]:
    """A list; texts may hold commas."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise _Unfit("a list of texts")
    return tuple(value)


@_either(TEXTS, {"type": "object", "additionalProperties": {"type": "string"}})
def data(value: Any) -> tuple[str, ...]:
    """As `texts`, or a table of tasks and their files."""
    return data_options(value) if isinstance(value, Mapping) else texts(value)


@_kind(**TEXTS)
def plans(value: Any) -> tuple[str, ...]:
    """Texts of plans as `plan` gives them, of a list of texts or Plans."""
    of_texts = isinstance(value, Sequence) and not isinstance(value, str)
    if not of_texts or not all(isinstance(item, str | Plan) for item in value):
        raise _Unfit("a list of texts")
    return tuple(str(item) if isinstance(item, Plan) else plan(item, _shown(item)) for item in value)


def plan(text: str, where: str) -> str:
    """A plan's text in canonical form, or as it is while layers' names are unknown. Raises UserError with `where`."""
    try:
        return str(Plan.parse(text))
    except NamedLayersError:
        return text.strip()
    except UserError as error:
        raise UserError(f"{where}: {first_line(error)}") from None


def _numbers(value: Any, least: int = 0, most: int = LARGEST) -> tuple[int, ...]:
    if isinstance(value, str):
        found = parse_numbers(value)
    elif _is_whole(value):
        found = (value,)
    elif isinstance(value, Sequence) and all(map(_is_whole, value)):
        found = tuple(sorted(set(value)))
    else:
        raise _Unfit(f"{EXPECTED}, or a list of numbers")
    if not found or found[0] < least:
        raise _Unfit(f"numbers from {least} on")
    if found[-1] > most:
        raise _Unfit(f"numbers up to {most}")
    return found


@_either(
    _COUNT,
    {"type": "array", "items": _COUNT, "minItems": 1},
    {"type": "string", "pattern": rf"{_NUMBERS['pattern']}|^\s*/\s*[0-9]+\s*$"},
)
def starts(value: Any) -> tuple[int, ...] | range:
    """Start layers; a text /N stands for each Nth of those that a model has, which a range without an end has."""
    if isinstance(value, str) and (step := value.strip()).startswith("/"):
        digits = step[1:].strip()
        if not (digits.isascii() and digits.isdigit()) or not within(digits, LARGEST):
            raise _Unfit(f"{EXPECTED}, or /3 for each third that the model has")
        return range(0, LARGEST, int(digits))
    return value if isinstance(value, range) else _numbers(value)


_OF_A_PLAN: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_COST}
counts = Kind(
    partial(_numbers, least=1, most=MAX_COST),
    {"anyOf": [_OF_A_PLAN, {"type": "array", "items": _OF_A_PLAN, "minItems": 1}, _NUMBERS]},
)
"""Of iterations and repeats: no plan has room for more."""


@_either({**_COUNT, "minimum": 1, "maximum": MAX_PLANS}, {"type": "array", "items": _COUNT, "minItems": 1}, _NUMBERS)
def count_or_numbers(value: Any) -> tuple[int, ...]:
    """Seeds: a single number N stands for the N seeds 0 to N - 1."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = within(value, MAX_PLANS)
    if not _is_whole(value):
        return _numbers(value)
    if not 0 < value <= MAX_PLANS:
        raise _Unfit(f"how many seeds, 1 to {MAX_PLANS}, or a range such as 3-7")
    return tuple(range(value))


_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@_either({"type": "boolean"}, {"enum": list(_WORDS)})
def true_or_false(value: Any) -> bool:
    """Of lm-eval's switches that take a word, as it reads them."""
    if isinstance(value, str):
        value = _WORDS.get(value.lower())
    if not isinstance(value, bool):
        raise _Unfit("true or false")
    return value


@_either({"type": "boolean"}, TEXT)
def template(value: Any) -> bool | str:
    """Of a chat: whether, or which by its name."""
    return value if isinstance(value, bool) else text(value)


@_either({"type": "object"}, TEXTS, TEXT)
def pairs(value: Any) -> dict[str, Any]:
    """Names and values: a table, texts NAME=VALUE,NAME=VALUE, or a JSON object."""
    if isinstance(value, Mapping):
        return _of_json(dict(value))
    items = [value] if isinstance(value, str) else texts(value)
    if len(items) == 1 and items[0].lstrip().startswith("{"):
        return parse_json(items[0], "the JSON object", dict[str, Any])
    from lm_eval._cli.utils import key_val_to_dict

    try:
        return _of_json({name: each for item in items for name, each in key_val_to_dict(item).items()})
    except ValueError:
        raise _Unfit("NAME=VALUE,NAME=VALUE, or a JSON object") from None


def _of_json(values: dict[str, Any]) -> dict[str, Any]:
    """The values, which a results store will hold as JSON: no dates, NaN or infinity."""
    try:
        return parse_json(json.dumps(values, allow_nan=False), "it", dict[str, Any])
    except (TypeError, ValueError, RecursionError):
        raise _Unfit("values that JSON has, finite numbers among them") from None


@_either({"type": "object", "additionalProperties": {"type": "array", "items": _COUNT}}, TEXT)
def samples(value: Any) -> dict[str, list[int]]:
    """For tasks the indices of documents: a table, a JSON object, or the name of a file that holds one."""
    from pydantic import Field

    shape = dict[str, list[Annotated[int, Field(ge=0, le=LARGEST, strict=True)]]]
    if isinstance(value, Mapping):
        return checked_shape(value, shape, "it")
    given = text(value)
    if given.lstrip().startswith("{"):
        return parse_json(given, "the JSON object", shape)
    return read_json(Path(given).expanduser(), shape)


_SEED: Schema = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}


@_either(
    _SEED, {"type": "array", "items": {**_SEED, "type": ["integer", "string"]}, "minItems": 1, "maxItems": 4}, TEXT
)
def seeds(value: Any) -> tuple[int | None, ...]:
    """One for all of lm-eval's four, or four (or three) by commas, None among them where nothing is seeded."""
    if isinstance(value, list) and value and isinstance(value[-1], str):  # the option, of which the last one counts
        value = value[-1]
    given = value.split(",") if isinstance(value, str) else [value] if _is_whole(value) else value
    if not isinstance(given, Sequence):
        raise _Unfit(SEEDS)
    found = tuple(None if _is_none(each) else _seed(each) for each in given)
    if len(found) == 1:
        return found * len(DEFAULT_SEEDS)
    if len(found) not in (len(DEFAULT_SEEDS) - 1, len(DEFAULT_SEEDS)):
        raise _Unfit(SEEDS)
    return (*found, *DEFAULT_SEEDS[len(found) :])


SEEDS = "a number, or four by commas (of Python, NumPy, torch, few-shot examples), each 0 to 2^32 - 1 or None"


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() == "none")


def _seed(value: Any) -> int:
    if _is_whole(value) and 0 <= value < 2**32:
        return value
    digits = value.strip() if isinstance(value, str) else ""
    if not (digits.isascii() and digits.isdigit()):
        raise _Unfit(SEEDS)
    return within(digits, 2**32 - 1)


@_kind(type="string", pattern=r"^\s*[0-9]+\s*/\s*[0-9]+\s*$")
def shard(value: Any) -> tuple[int, int]:
    """I/N, from 1/N to N/N, or (I, N)."""
    if isinstance(value, tuple) and len(value) == 2 and all(map(_is_whole, value)):
        value = f"{value[0]}/{value[1]}"
    index, slash, count = text(value).partition("/")
    parts = index.strip(), count.strip()
    if not slash or not all(part.isascii() and part.isdigit() for part in parts):
        raise _Unfit("I/N, such as 1/8 for the first of eight parts")
    i, n = (within(part, MAX_PLANS) for part in parts)  # no study has more plans to part
    if not 1 <= i <= n:
        raise _Unfit(f"I/N with I from 1 to N{f', so 1/{n} to {n}/{n}' if n else ''}")
    return i, n


def hint(name: str, known: Iterable[str], otherwise: str) -> str:
    """Which of the known names is meant, or all of them after `otherwise`."""
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=2) or difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise} {', '.join(known)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value as TOML or the command line spell it."""
    if isinstance(value, bool):
        return str(value).lower()
    return "a table" if isinstance(value, dict) else shown(value)
