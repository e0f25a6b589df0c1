"""The settings of a study, read and checked: from options, a TOML file with the same names, and presets."""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxpaint.base.bundled import MODEL
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.numbers import EXPECTED, parse_numbers
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import STRATEGIES, taking
from jaxpaint.study.spec import ANALYSES, StudySpec

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "tasks": ["lambada_openai", "hellaswag", "arc_challenge", "winogrande", "gsm8k"],
        "bos": "off",
        "kv": "mean",
        "strategies": [name for name, strategy in STRATEGIES.items() if strategy.in_paper],
        "seeds": 10,
        "loops": "1-28",
        "times": "2,3",
        "analyses": ["similarity", "variance"],
        "analysis-strategies": ["full", "skip", "middle-repeat"],
        "analysis-samples": 100,
        "analysis-task": "lambada_openai",
    }
)
"""The paper's study: figures 2 to 11, 15 and 17. It generated GSM8K's answers with a mean cache."""

DEMO: Mapping[str, Any] = MappingProxyType(
    {
        "model": MODEL,
        "tasks": [f"painter_{kind}" for kind in ("facts", "work", "sales", "places", "arithmetic", "letters")],
        "limit": 100,
        "strategies": ["skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel", "skip-one"],
        "starts": "1-6",
        "seeds": 3,
        "loops": "2,3,5",
        "analyses": ["similarity", "variance"],
        "analysis-strategies": ["full", "skip", "middle-repeat"],
        "analysis-samples": 50,
        "analysis-task": "painter_places",
        "store": f"{MODEL}.sqlite",
    }
)
"""A study of the model that comes with the package, made to end within minutes on a laptop."""

DEMO_REPORT = Path(f"{MODEL}-report")

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"paper": PAPER, "demo": DEMO})
COMMAND_LINE_ONLY = ("dry-run", "report")
_TAKERS = {"seeds": taking("seed"), "loops": taking("iterations"), "times": taking("times")}


def spec_from(options: Mapping[str, Any], file: Path | None = None) -> StudySpec:
    """The spec that `options` (None: not given) and a TOML file make. An option goes before the file's value, and
    that before the preset's.

    Names are those of the command line without the dashes in front, such as "num-fewshot"; the file may also have
    `plans`, a list of texts. Paths are relative to the working directory.

    Raises:
        UserError: a file that cannot be read, an unknown name, a value of the wrong kind, or something is missing;
            it names the file or option and the value.
    """
    given = {name: value for name, value in options.items() if value is not None}
    in_file = read_toml(file) if file is not None else {}
    values = _checked_all(f"{file}: ", in_file) | _checked_all("--", given)
    preset = values.pop("preset", None)
    if preset is not None:
        values = _checked_all(f"preset {preset}: ", PRESETS[preset]) | values
    if "plans-file" in values:
        values["plans"] = (*values.get("plans", ()), *read_plans(values.pop("plans-file")))
    _refuse_incomplete(values)
    _refuse_unused(given, values)
    return StudySpec(**{name.replace("-", "_"): value for name, value in values.items()})


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of other commands that are named as a study's (None: not given), checked and converted.

    A file of plans becomes `plans`. Raises UserError as `spec_from`.
    """
    values = _checked_all("--", {name: value for name, value in options.items() if value is not None})
    if "plans-file" in values:
        values["plans"] = (*values.get("plans", ()), *read_plans(values.pop("plans-file")))
    _refuse_unused(values, values)
    return values


def seeds(where: str, text: str) -> tuple[int, ...]:
    """How many seeds, from 0 on, or which. Raises UserError, which names `where`."""
    return _checked(where, text, _count_or_numbers)


def read_toml(file: Path) -> dict[str, Any]:
    """The settings in a TOML file; names are checked, values not yet."""
    try:
        with file.open("rb") as opened:
            settings = tomllib.load(opened)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {file}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{file} is not TOML: {first_line(error)}") from error
    for name in settings:
        if name in COMMAND_LINE_ONLY:
            raise UserError(f"{file}: {name!r} belongs on the command line: --{name}")
        if name not in _KINDS:
            raise UserError(f"{file}: unknown key {name!r}; {_hint(name, _KINDS, 'the keys are')}")
    return settings


def read_plans(file: Path) -> tuple[str, ...]:
    """The plans of a text file, one a line, in canonical form; `#` begins a comment.

    Raises:
        UserError: a file that cannot be read or has no plan, or a line that is not a plan; it names the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {file}: it is not UTF-8 text") from error
    found = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            found.append(_plan(text, f"{file}, line {number}"))
    if not found:
        raise UserError(f"{file} has no plan; write one a line, such as 0-8 {{9-22}}*3 23-31")
    return tuple(found)


def _refuse_incomplete(values: Mapping[str, Any]) -> None:
    for name, example in (("model", "llama2-7b"), ("store", "study.sqlite")):
        if name not in values:
            other = ", or try --preset demo" if name == "model" else ""
            raise UserError(
                f'a study needs a {name}; give --{name} {example}, or {name} = "{example}" in a TOML file{other}'
            )
    if not values.get("tasks") and not values.get("analyses"):
        raise UserError("a study needs tasks; give --tasks lambada_openai,hellaswag, or --preset paper")


def _refuse_unused(options: Iterable[str], values: Mapping[str, Any]) -> None:
    """Options that the study would not look at: a strategy, or the analyses, were forgotten."""
    strategies = values.get("strategies", ())
    for name in options:
        if name in _TAKERS and not {*_TAKERS[name]} & {*strategies}:
            takers = " or ".join(_TAKERS[name])
            raise UserError(f"--{name} is of strategy {takers}, which is not among --strategies; add it")
        if name == "starts" and not {*taking("start")} & {*strategies}:
            raise UserError("--starts is of strategies with a start layer, and none is given; add --strategies")
        if name.startswith("analysis-") and not values.get("analyses"):
            raise UserError(f"--{name} is of analyses, and none is given; add --analyses {','.join(ANALYSES[:2])}")


# --- kinds of values ------------------------------------------------------------------------------------------


class _Unfit(Exception):
    """What was expected in place of a value."""


def _checked_all(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _checked(f"{where}{name}", value, _KINDS[name]) for name, value in values.items()}


def _checked(where: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        return kind(value)
    except _Unfit as expected:
        raise UserError(f"{where} is {_shown(value)}; expected {expected}") from None
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    """A value as TOML or the command line spell it."""
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if not isinstance(value, dict) else "a table"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Unfit("a text")
    return value


def _path(value: Any) -> Path:
    return value if isinstance(value, Path) else Path(_text(value)).expanduser()


def _choice(value: Any, *, choices: Iterable[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise _Unfit(f"one of {', '.join(choices)}")
    return value


def _whole(value: Any, *, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _Unfit(f"a whole number, {least} or more")
    return value


def _limit(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise _Unfit("a number of documents per task, or a fraction below 1")
    if value >= 1 and value != int(value):
        raise _Unfit("a whole number of documents per task, or a fraction below 1")
    return int(value) if value >= 1 else value


def _list(value: Any) -> tuple[str, ...]:
    """Names: a list, or one text by commas; each once."""
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise _Unfit('names, as a list ["A", "B"] or as "A,B"')
    return tuple(dict.fromkeys(item.strip() for item in value if item.strip()))


def _names(value: Any, *, known: Iterable[str], what: str, whats: str) -> tuple[str, ...]:
    names = _list(value)
    for name in names:
        if name not in known:
            raise UserError(f"unknown {what} {name!r}: {_hint(name, known, f'the {whats} are')}")
    return names


def _texts(value: Any) -> tuple[str, ...]:
    """A list; texts may hold commas."""
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(text, str) for text in value):
        raise _Unfit("a list of texts")
    return tuple(value)


def _plans(value: Any) -> tuple[str, ...]:
    return tuple(_plan(text, _shown(text)) for text in _texts(value))


def _plan(text: str, where: str) -> str:
    try:
        return str(Plan.parse(text))
    except UserError as error:
        raise UserError(f"{where}: {first_line(error)}") from None


def _numbers(value: Any, *, least: int = 0) -> tuple[int, ...]:
    if isinstance(value, str):
        found = parse_numbers(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        found = (value,)
    elif isinstance(value, Sequence) and all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        found = tuple(sorted(set(value)))
    else:
        raise _Unfit(f"{EXPECTED}, or a list of numbers")
    if not found or found[0] < least:
        raise _Unfit(f"numbers from {least} on")
    return found


def _count_or_numbers(value: Any) -> tuple[int, ...]:
    """Seeds: a single number N stands for the N seeds 0 to N - 1."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 < value <= 100_000:
            raise _Unfit("how many seeds, 1 or more, or a range such as 3-7")
        return tuple(range(value))
    return _numbers(value)


def _shard(value: Any) -> tuple[int, int]:
    """I/N, from 1/N to N/N."""
    index, slash, count = _text(value).partition("/")
    parts = index.strip(), count.strip()
    if not slash or not all(part.isascii() and part.isdigit() for part in parts):
        raise _Unfit("I/N, such as 1/8 for the first of eight parts")
    i, n = map(int, parts)
    if not 1 <= i <= n:
        raise _Unfit(f"I/N with I from 1 to N{f', so 1/{n} to {n}/{n}' if n else ''}")
    return i, n


def _hint(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name.replace("_", "-"), known, n=2) or difflib.get_close_matches(name, known, n=2)
    return f"did you mean {' or '.join(near)}?" if near else f"{otherwise} {', '.join(known)}"


_KINDS: Mapping[str, Callable[[Any], Any]] = MappingProxyType(
    {
        "model": _text,
        "revision": _text,
        "dtype": partial(_choice, choices=("auto", "float32", "bfloat16")),
        "tensor-parallel": partial(_whole, least=1),
        "tasks": _list,
        "data": _texts,
        "num-fewshot": partial(_whole, least=0),
        "limit": _limit,
        "bos": partial(_choice, choices=("auto", "on", "off")),
        "kv": partial(_choice, choices=("exact", "mean")),
        "strategies": partial(_names, known=STRATEGIES, what="strategy", whats="strategies"),
        "starts": _numbers,
        "seeds": _count_or_numbers,
        "loops": partial(_numbers, least=1),
        "times": partial(_numbers, least=1),
        "plans": _plans,
        "plans-file": _path,
        "analyses": partial(_names, known=ANALYSES, what="analysis", whats="analyses"),
        "analysis-strategies": partial(_names, known=STRATEGIES, what="strategy", whats="strategies"),
        "analysis-samples": partial(_whole, least=1),
        "analysis-task": _text,
        "store": _path,
        "shard": _shard,
        "batch-tokens": partial(_whole, least=1),
        "preset": partial(_choice, choices=PRESETS),
    }
)
assert {name.replace("-", "_") for name in _KINDS} - {"plans_file", "preset"} == {
    field.name for field in fields(StudySpec)
}
