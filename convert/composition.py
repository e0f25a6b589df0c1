"""Which layers a composed model has, as text: `A:0-15 merge(A:16-18) B:8-23`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from jaxpaint.base.errors import UserError

EXAMPLE = "'A:0-15 B:8-23', or 'A:0-7 merge(A:8-11) A:12-31'"
MOST_LAYERS = 10**4
_TOKEN = re.compile(
    r"""\s*(?: (?P<merge> merge\s*\( ) | (?P<close> \) )
        | (?: (?P<name> \w+ ) : )? (?P<first> \d{1,9} ) (?: - (?P<last> \d{1,9} ) )? (?= [\s)] | $ ) )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Origin:
    """A layer of a composed model: that of a model, by its name, or several of it merged into one."""

    model: str
    layers: tuple[int, ...]


def composition(text: str, models: Collection[str]) -> tuple[Origin, ...]:
    """The layers that a text names, in order. A single model needs no name.

    Raises UserError for a text that names none, or a model that is not among `models`.
    """
    found: list[Origin] = []
    merging: list[Origin] | None = None
    place = 0
    while text[place:].strip():
        token = _TOKEN.match(text, place)
        if token is None or (token["merge"] and merging is not None) or (token["close"] and merging is None):
            column = place + len(text[place:]) - len(text[place:].lstrip()) + 1
            raise UserError(f"--layers, column {column}: expected layers such as {EXAMPLE}")
        if token["merge"]:
            merging = []
        elif token["close"]:
            found.append(_merged(merging or []))
            merging = None
        else:
            (found if merging is None else merging).extend(_layers(token, models))
        place = token.end()
    if merging is not None:
        raise UserError(f"--layers {text!r}: a merge( has no ) after it")
    if not 1 <= len(found) <= MOST_LAYERS:
        raise UserError(
            f"--layers {text!r} names {len(found)} layers; expected 1 to {MOST_LAYERS:,}, such as {EXAMPLE}"
        )
    return tuple(found)


def _layers(token: re.Match[str], models: Collection[str]) -> list[Origin]:
    if token["name"] is None and len(models) > 1:
        raise UserError(
            f"--layers: say whose layer {token[0].strip()} is, such as {sorted(models)[0]}:{token[0].strip()}"
        )
    name = next(iter(models)) if token["name"] is None else token["name"]
    if name not in models:
        raise UserError(f"--layers: there is no model {name}; there is {', '.join(sorted(models))}")
    first = int(token["first"])
    last = first if token["last"] is None else int(token["last"])
    if abs(last - first) >= MOST_LAYERS:
        raise UserError(f"--layers: {first}-{last} are more than {MOST_LAYERS:,} layers")
    return [Origin(name, (layer,)) for layer in range(first, last + 1) or range(first, last - 1, -1)]


def _merged(origins: list[Origin]) -> Origin:
    if len(origins) < 2 or len({origin.model for origin in origins}) > 1:
        raise UserError("--layers: merge( ) takes two layers or more of one model, such as merge(8-11)")
    return Origin(origins[0].model, tuple(layer for origin in origins for layer in origin.layers))
