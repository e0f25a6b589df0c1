"""What may be changed in a run: attention's edges, what sublayers give, and the states between steps.

Each says where: in which layers, steps or events of the plan (`jaxpaint.plans.events`), at which positions.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jax.typing import ArrayLike

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count
from jaxpaint.plans.events import Event, Step

Numbers: TypeAlias = int | Collection[int]
"""One or several, in a list, a range, a set or an array. Of positions those below 0 count from the end of a text."""
What: TypeAlias = Literal["attention", "mlp", "state"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Where:
    """In which events: those that all of these allow, every event where none is given.

    Numbers that a plan or a model lacks choose nothing, so that windows may reach beyond its ends.

    Attributes:
        layers: of the model, from 0, wherever and however often they run.
        steps: of the plan, from 1; for states 0 too, the embeddings.
        depths: of the plan's clock (`jaxpaint.plans.events.Event.depth`), from 0.
        events: by their numbers, from 0.
        rows: of the batch, from 0; all where None.

    Raises UserError for what are no numbers.
    """

    layers: Numbers | None = None
    steps: Numbers | None = None
    depths: Numbers | None = None
    events: Numbers | None = None
    rows: Numbers | None = None

    def __post_init__(self) -> None:
        for name in ("layers", "steps", "depths", "events", "rows", "positions", "queries", "keys", "heads"):
            if getattr(self, name, None) is not None:
                object.__setattr__(self, name, _numbers(name, getattr(self, name)))

    def chooses(self, event: Event) -> bool:
        """Whether the event is one of those."""
        asked = (self.layers, event.layer), (self.steps, event.step), (self.depths, event.depth)
        return all(chosen is None or own in listed(chosen) for chosen, own in (*asked, (self.events, event.number)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Knockout(Where):
    """Attention without the edges from `queries` to `keys`, both positions, in all heads or in `heads`.

    The other keys' weights add up to 1 by themselves; where every key is blocked, attention gives zeros.
    """

    queries: Numbers
    keys: Numbers
    heads: Numbers | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Where):
    """What a sublayer gives, or the state after `steps`, times `factor`, at `positions` or everywhere.

    A factor of 0 switches a sublayer off.
    """

    what: What
    factor: float
    positions: Numbers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_what(self.what, self)
        try:
            object.__setattr__(self, "factor", float(operator.mul(self.factor, 1.0)))
        except TypeError:
            raise UserError(f"factor is {self.factor!r}; give a number") from None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replace(Where):
    """`value` in place of what a sublayer gives, or of the state after `steps`, at `positions` or everywhere.

    `value` is anything that broadcasts to [rows, positions, hidden_size], such as `other.state(3)`, the last token's.
    Without `positions` it has all of the longest text's, or one for all of them.
    """

    what: What
    value: ArrayLike
    positions: Numbers | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_what(self.what, self)
        try:
            object.__setattr__(self, "value", np.asarray(self.value, np.float32))
        except (TypeError, ValueError):
            raise UserError(f"value is {str(self.value)[:60]!r}; give an array of numbers") from None


Intervention: TypeAlias = Knockout | Scale | Replace


def listed(numbers: Numbers) -> tuple[int, ...]:
    """Those of an intervention that was made."""
    assert isinstance(numbers, tuple)
    return numbers


def _numbers(name: str, given: Any) -> tuple[int, ...]:
    try:
        if isinstance(given, bool | np.bool_) or str(getattr(given, "dtype", "")) == "bool":
            raise TypeError
        if not hasattr(given, "__iter__") or getattr(given, "ndim", 1) == 0:
            return (operator.index(given),)
        found = tuple(operator.index(each) for each in given)
    except TypeError:
        raise UserError(f"{name}={given!r}: give a whole number, or several in a list or range") from None
    if not found or len(set(found)) < len(found):
        wrong = "has a number twice" if found else "is empty"
        raise UserError(f"{name}={given!r} {wrong}; name each once, or leave it out")
    return found


def _check_what(what: Any, where: Where) -> None:
    if what not in ("attention", "mlp", "state"):
        raise UserError(f"what={what!r} is not one of 'attention', 'mlp', 'state'")
    if what == "state" and (where.steps is None or not where.layers is where.depths is where.events is None):
        raise UserError("states lie between steps: say where by steps=, from 0, the embeddings, and by nothing else")


def checked(
    interventions: Sequence[Intervention], steps: Sequence[Step], config: Any, lengths: Sequence[int], width: int
) -> tuple[Intervention, ...]:
    """The interventions, of rows padded to `width`. Raises UserError for one that is in no event, row, head or text."""
    for each in interventions:
        if not isinstance(each, Knockout | Scale | Replace):
            raise UserError(f"{each!r} is no intervention; give a Knockout, a Scale or a Replace")
        require_event(each, steps)
        rows = range(len(lengths)) if each.rows is None else listed(each.rows)
        if not set(rows) <= set(range(len(lengths))):
            raise UserError(f"rows {list(rows)} are not among the batch's {len(lengths)}, from 0")
        heads = each.heads if isinstance(each, Knockout) else None
        if heads is not None and not set(listed(heads)) <= set(range(config.num_attention_heads)):
            known = config.num_attention_heads
            raise UserError(f"heads {list(listed(heads))} are not among the layers' {known}, from 0")
        for row in rows:
            if isinstance(each, Knockout):
                _check_edges(each, lengths[row], config.capabilities.decoder)
            else:
                places(() if each.positions is None else listed(each.positions), lengths[row])
        if isinstance(each, Replace):
            _check_value(each, len(rows), width, config.hidden_size)
    return tuple(interventions)


def _check_edges(each: Knockout, length: int, only_back: bool) -> None:
    """Both ends of edges are in a text of `length` tokens; a decoder's keys stand no later than some query."""
    queries, keys = (places(listed(those), length) for those in (each.queries, each.keys))
    if only_back and (later := [key for key in keys if key > max(queries)]):
        raise UserError(
            f"keys {later} stand behind the last query, {max(queries)}, and a decoder attends to nothing that comes "
            f"later: leave them out"
        )


def require_event(each: Where, steps: Sequence[Step]) -> None:
    """Raises UserError where the plan of these steps has no event, or state, that is chosen."""
    if getattr(each, "what", None) == "state":
        if not set(listed(each.steps or ())) & set(range(len(steps) + 1)):
            raise UserError(f"steps {each.steps} are not among the plan's: 0 (the embeddings) to {len(steps)}")
    elif not any(each.chooses(event) for step in steps for event in step.events):
        given = {name: getattr(each, name) for name in ("layers", "steps", "depths", "events")}
        asked = ", ".join(f"{name} {list(value)}" for name, value in given.items() if value is not None)
        layers = {event.layer for step in steps for event in step.events}
        raise UserError(
            f"no event of the plan is in {asked}: it has steps 1 to {len(steps)}, events 0 to "
            f"{steps[-1].events[-1].number}, and {count(len(layers), 'layer')} from {min(layers)} to {max(layers)}"
        )


def _check_value(each: Replace, rows: int, width: int, size: int) -> None:
    value, positions = np.asarray(each.value), width if each.positions is None else len(listed(each.positions))
    try:
        np.broadcast_to(value, (rows, positions, size))
    except ValueError:
        raise UserError(
            f"a value of shape {value.shape} does not fit {count(rows, 'row')}, {count(positions, 'position')} and the "
            f"model's hidden_size of {size}"
        ) from None


def places(positions: Sequence[int], length: int) -> list[int]:
    """Of a text of so many tokens, from 0. Raises UserError for one that it does not have."""
    found = [each if each >= 0 else length + each for each in positions]
    for given, place in zip(positions, found, strict=True):
        if not 0 <= place < length:
            raise UserError(
                f"position {given} is not in a text of {length} tokens; give 0 to {length - 1}, or -1 to -{length}"
            )
    return found
