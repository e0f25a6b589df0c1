"""What may be changed in a run: attention's edges, what sublayers give, and the states between steps.

Each says where: in which layers, steps or events of the plan (`jaxpaint.plans.events`), at which positions. What is
changed reaches the executable as arrays, so that one executable serves all changes of a kind.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count
from jaxpaint.models.observed import Edit, Edits
from jaxpaint.plans.events import Event, Step

Positions: TypeAlias = int | Collection[int]
"""Of tokens, from 0; below 0 they count from the end of each row's text."""
SUBLAYERS = ("attention", "mlp")
What: TypeAlias = Literal["attention", "mlp", "state"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Where:
    """In which events: those that all of these allow, every event where none is given.

    Attributes:
        layers: of the model, from 0, wherever and however often they run.
        steps: of the plan, from 1; for states 0 too, the embeddings.
        depths: of the plan's clock (`jaxpaint.plans.events.Event.depth`), from 0.
        events: by their numbers, from 0.
        rows: of the batch; all where None.
    """

    layers: Collection[int] | None = None
    steps: Collection[int] | None = None
    depths: Collection[int] | None = None
    events: Collection[int] | None = None
    rows: Collection[int] | None = None

    def chooses(self, event: Event) -> bool:
        """Whether the event is one of those."""
        asked = (self.layers, event.layer), (self.steps, event.step), (self.depths, event.depth)
        return all(chosen is None or own in chosen for chosen, own in (*asked, (self.events, event.number)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Knockout(Where):
    """Attention without the edges from `queries` to `keys`, both positions, in all heads or in `heads`.

    The other keys' weights add up to 1 by themselves; where every key is blocked, attention gives zeros.
    """

    queries: Positions
    keys: Positions
    heads: Collection[int] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Scale(Where):
    """What a sublayer gives, or a state, times `factor`, at `positions` or everywhere: 0 switches a sublayer off."""

    what: What
    factor: float
    positions: Positions | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Replace(Where):
    """`value` in place of what a sublayer gives, or of a state, at `positions` or everywhere.

    `value` is anything that broadcasts to [rows, positions, hidden_size]: of another run, such as
    `other.states[3][:, [5]]`.
    """

    what: What
    value: ArrayLike
    positions: Positions | None = None


Intervention: TypeAlias = Knockout | Scale | Replace


def checked(
    interventions: Sequence[Intervention], steps: Sequence[Step], config: Any, lengths: Sequence[int]
) -> tuple[Intervention, ...]:
    """The interventions. Raises UserError for one that changes nothing or reaches beyond what there is."""
    for each in interventions:
        if not isinstance(each, Knockout | Scale | Replace):
            raise UserError(f"{each!r} is no intervention; give a Knockout, a Scale or a Replace")
        of_states = getattr(each, "what", None) == "state"
        if of_states and not (each.layers is each.depths is each.events is None):
            raise UserError("states lie between steps: say where by steps=, from 0, the embeddings")
        if not isinstance(each, Knockout) and each.what not in ("attention", "mlp", "state"):
            raise UserError(f"what={each.what!r} is not one of 'attention', 'mlp', 'state'")
        _check_where(each, steps, of_states)
        if each.rows is not None and not set(each.rows) <= set(range(len(lengths))):
            raise UserError(f"rows {sorted(each.rows)} are not among the batch's {len(lengths)}, from 0")
        if isinstance(each, Knockout):
            heads = range(config.num_attention_heads)
            if each.heads is not None and not set(each.heads) <= set(heads):
                raise UserError(f"heads {sorted(each.heads)} are not among the layers' {len(heads)}, from 0")
            all_positions = [each.queries, each.keys]
        else:
            all_positions = [] if each.positions is None else [each.positions]
        for positions in all_positions:
            for row in range(len(lengths)) if each.rows is None else each.rows:
                places(positions, lengths[row])
        if isinstance(each, Replace):
            _check_value(each, config.hidden_size, len(lengths))
    return tuple(interventions)


def _check_where(each: Where, steps: Sequence[Step], of_states: bool) -> None:
    chosen = [event for step in steps for event in step.events if each.chooses(event)]
    if of_states:
        beyond = set(each.steps or ()) - set(range(len(steps) + 1))
        if beyond:
            raise UserError(f"steps {sorted(beyond)} are not among the plan's: 0 (the embeddings) to {len(steps)}")
    elif not chosen:
        asked = {
            name: sorted(value) for name in ("layers", "steps", "depths", "events") if (value := getattr(each, name))
        }
        layers = {event.layer for step in steps for event in step.events}
        raise UserError(
            f"no event of the plan is in {asked}: it has steps 1 to {len(steps)}, events 0 to "
            f"{steps[-1].events[-1].number}, and {count(len(layers), 'layer')} from {min(layers)} to {max(layers)}"
        )


def _check_value(each: Replace, size: int, rows: int) -> None:
    value = np.asarray(each.value)
    count = rows if each.rows is None else len(each.rows)
    wanted = None if each.positions is None else len(_listed(each.positions))
    shape = (count, value.shape[-2] if wanted is None and value.ndim > 1 else wanted or 1, size)
    try:
        np.broadcast_to(value, shape)
    except ValueError:
        raise UserError(
            f"a value of shape {value.shape} does not fit {count} rows, {wanted or 'all'} positions and the model's "
            f"hidden_size of {size}"
        ) from None


def edits_of(
    step: Step, interventions: Sequence[Intervention], size: int, lengths: Sequence[int], width: tuple[int, int, int]
) -> Edits:
    """What is changed in a step's events, as arrays of `size` events; `width` is (positions, heads, hidden_size)."""
    own = [each for each in interventions if getattr(each, "what", None) != "state"]
    if not any(each.chooses(event) for each in own for event in step.events):
        return Edits()
    # Of one form for a whole run, whatever a step has: forms are compiled.
    values = any(isinstance(each, Replace) for each in own)
    knockouts = [each for each in own if isinstance(each, Knockout)]
    by_what = [[each for each in own if getattr(each, "what", None) == what] for what in SUBLAYERS]
    chosen = [[(each, _chosen(each, step)) for each in changes] for changes in by_what]
    return Edits(
        _blocked(step, knockouts, size, lengths, width),
        *(_composed(changes, size, lengths, width, values) for changes in chosen),
    )


def edit_of_state(
    number: int, interventions: Sequence[Intervention], lengths: Sequence[int], width: tuple[int, int, int]
) -> Edit | None:
    """What is changed in the state after so many steps; None where nothing is."""
    own = [each for each in interventions if not isinstance(each, Knockout) and each.what == "state"]
    own = [each for each in own if each.steps is None or number in each.steps]
    if not own:
        return None
    values = any(isinstance(each, Replace) for each in own)
    return jax.tree.map(lambda leaf: leaf[0], _composed([(each, [0]) for each in own], 1, lengths, width, values))


def _blocked(
    step: Step, knockouts: Sequence[Knockout], size: int, lengths: Sequence[int], width: tuple[int, int, int]
) -> Bool[Array, "events B heads S S"]:
    positions, heads, _ = width
    by_head = any(each.heads is not None for each in knockouts)
    blocked = np.zeros((size, len(lengths), heads if by_head else 1, positions, positions), bool)
    for each in knockouts:
        chosen_heads = list(range(blocked.shape[2]) if each.heads is None else each.heads)
        for row in range(len(lengths)) if each.rows is None else each.rows:
            edges = np.zeros((positions, positions), bool)
            edges[np.ix_(places(each.queries, lengths[row]), places(each.keys, lengths[row]))] = True
            for place in _chosen(each, step):
                blocked[place, row, chosen_heads] |= edges
    return jnp.asarray(blocked)


def _chosen(each: Where, step: Step) -> list[int]:
    return [place for place, event in enumerate(step.events) if each.chooses(event)]


def _composed(
    own: Sequence[tuple[Any, list[int]]],
    size: int,
    lengths: Sequence[int],
    width: tuple[int, int, int],
    values: bool,
) -> Edit:
    """One change that does what all do in some of the events, one after the other."""
    positions, _, hidden_size = width
    scale = np.ones((size, len(lengths), positions), np.float32)
    value = np.zeros((*scale.shape, hidden_size), np.float32) if values else None
    for each, events in own:
        rows = list(range(len(lengths)) if each.rows is None else each.rows)
        for place, row in enumerate(rows):
            at = list(range(lengths[row])) if each.positions is None else places(each.positions, lengths[row])
            factor = each.factor if isinstance(each, Scale) else 0.0
            for event in events:
                scale[event, row, at] *= factor
                if value is None:
                    continue
                value[event, row, at] *= factor
                if isinstance(each, Replace):
                    given = np.asarray(each.value, np.float32)
                    given = given[place if len(given) == len(rows) else 0] if given.ndim == 3 else given
                    value[event, row, at] = given[: len(at)] if given.ndim == 2 and len(given) > 1 else given
    return Edit(jnp.asarray(scale), None if value is None else jnp.asarray(value))


def _listed(positions: Positions) -> list[int]:
    return [positions] if isinstance(positions, int | np.integer) else [int(each) for each in positions]


def places(positions: Positions, length: int) -> list[int]:
    """Of a text of so many tokens, from 0. Raises UserError for one that it does not have."""
    found = [each if each >= 0 else length + each for each in _listed(positions)]
    for given, place in zip(_listed(positions), found, strict=True):
        if not 0 <= place < length:
            raise UserError(
                f"position {given} is not in a text of {length} tokens: 0 to {length - 1}, or from -{length}"
            )
    return found
