"""Interventions as arrays: what is changed in the events of a step, and in the state after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxpaint.engine.interventions import Intervention, Knockout, Replace, Scale, Where, listed, places
from jaxpaint.models.observed import Edit, Edits
from jaxpaint.plans.events import Step

SUBLAYERS = ("attention", "mlp")


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
    of_states = [each for each in interventions if getattr(each, "what", None) == "state"]
    own = [(each, [0]) for each in of_states if number in listed(each.steps or ())]
    if not own:
        return None
    values = any(isinstance(each, Replace) for each, _ in own)
    return jax.tree.map(lambda leaf: leaf[0], _composed(own, 1, lengths, width, values))


def _blocked(
    step: Step, knockouts: Sequence[Knockout], size: int, lengths: Sequence[int], width: tuple[int, int, int]
) -> Bool[Array, "events B heads S S"]:
    positions, heads, _ = width
    by_head = any(each.heads is not None for each in knockouts)
    blocked = np.zeros((size, len(lengths), heads if by_head else 1, positions, positions), bool)
    for each in knockouts:
        own_heads = list(range(blocked.shape[2]) if each.heads is None else listed(each.heads))
        for row in _rows(each, lengths):
            edges = np.zeros((positions, positions), bool)
            queries, keys = (places(listed(those), lengths[row]) for those in (each.queries, each.keys))
            edges[np.ix_(queries, keys)] = True
            for place in _chosen(each, step):
                blocked[place, row, own_heads] |= edges
    return jnp.asarray(blocked)


def _composed(
    own: Sequence[tuple[Any, list[int]]], size: int, lengths: Sequence[int], width: tuple[int, int, int], values: bool
) -> Edit:
    """One change that does what all do in some of the events, one after the other."""
    positions, _, hidden_size = width
    scale = np.ones((size, len(lengths), positions), np.float32)
    value = np.zeros((*scale.shape, hidden_size), np.float32) if values else None
    for each, events in own:
        rows, factor = _rows(each, lengths), each.factor if isinstance(each, Scale) else 0.0
        for place, row in enumerate(rows):
            at = list(range(lengths[row])) if each.positions is None else places(listed(each.positions), lengths[row])
            for event in events:
                scale[event, row, at] *= factor
                if value is None:
                    continue
                value[event, row, at] *= factor
                if isinstance(each, Replace):
                    shape = len(rows), positions if each.positions is None else len(at), hidden_size
                    value[event, row, at] = np.broadcast_to(each.value, shape)[place, : len(at)]
    return Edit(jnp.asarray(scale), None if value is None else jnp.asarray(value))


def _rows(each: Where, lengths: Sequence[int]) -> list[int]:
    return list(range(len(lengths)) if each.rows is None else listed(each.rows))


def _chosen(each: Where, step: Step) -> list[int]:
    return [place for place, event in enumerate(step.events) if each.chooses(event)]
