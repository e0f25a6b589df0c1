"""The graph of a run's routes, followed from one state back to the inputs: what is not reached is not computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxpaint.analysis.shares import OfAttention, Written, of_attention, of_parts
from jaxpaint.engine.run import Run
from jaxpaint.plans.stages import After, Input, Join, stages

NodeKind: TypeAlias = Literal["input", "bias", "attention", "mlp", "state", "join"]
EdgeKind: TypeAlias = Literal["residual", "attention", "mlp", "branch", "bias"]
# Positions whose shares are computed together are filled up to a power of two, from this on: each is an executable.
FEWEST_PLACES = 8
# What a stage has of each token, in this order; the last is the state that later stages read.
BIAS, ATTENTION, MLP, STATE = range(4)
WITHIN: tuple[NodeKind, ...] = ("bias", "attention", "mlp", "state")


@dataclass(frozen=True, slots=True)
class RouteNode:
    """A state of a token, or what a feed-forward or a bias wrote to it.

    Attributes:
        kind: `input`; `attention`, the state after it; `mlp`; `bias`; `state`, that after a layer; `join`, a group's.
        position: of the token, from 0.
        step: of the plan, from 1; 0 of inputs.
        event: the application of a layer that it belongs to, by its number from 0; None of inputs and joins.
        layer: which that runs.
        join: its number from 0 (`jaxpaint.plans.stages.Join`); None of all else.
    """

    kind: NodeKind
    position: int
    step: int = 0
    event: int | None = None
    layer: int | None = None
    join: int | None = None


@dataclass(frozen=True, slots=True)
class RouteEdge:
    """`share` of the target that is the source's, both by their places among the nodes; of attention that of each head.

    A `residual` is a state that is passed on, a `branch` leads from a group's branch to its join.
    """

    source: int
    target: int
    kind: EdgeKind
    share: float
    heads: tuple[float, ...] = ()


class _Key(NamedTuple):
    """A node by its stage, which of `WITHIN` it is there, and its position: in this order they run."""

    stage: int
    within: int
    position: int


class _Part(NamedTuple):
    source: _Key
    kind: EdgeKind
    share: float
    heads: tuple[float, ...] = ()


class Graph:
    """The parts of every node that is reached from the last state at `position` over edges above `threshold`."""

    def __init__(
        self, run: Run, row: int, position: int, counted: Float[Array, " D"], threshold: float, renormalise: bool
    ) -> None:
        self._run, self._row, self._counted = run, row, counted
        self._threshold, self._renormalise = threshold, renormalise
        self._stages = stages(run.plan)
        self._parts: list[dict[_Key, list[_Part]]] = [{} for _ in self._stages]
        self._parts[-1][_Key(len(self._stages) - 1, STATE, position)] = []
        self._state = cache(self._state_after)
        for number in range(len(self._stages) - 1, 0, -1):
            stage, places = self._stages[number], self._reached(number, STATE)
            if places and isinstance(stage, Join):
                self._enter_join(number, stage, places)
            elif places and isinstance(stage, After):
                self._enter_layer(number, stage, places)

    def nodes(self) -> tuple[RouteNode, ...]:
        """In the order that they run in."""
        return tuple(self._node(key) for key in self._keys())

    def edges(self) -> Iterator[RouteEdge]:
        """In the order of their targets, then of their sources."""
        places = {key: place for place, key in enumerate(self._keys())}
        for key, place in places.items():
            for part in sorted(self._parts[key.stage][key]):
                yield RouteEdge(places[part.source], place, part.kind, part.share, part.heads)

    def _keys(self) -> list[_Key]:
        return [key for parts in self._parts for key in sorted(parts)]

    def _reached(self, number: int, within: int) -> list[int]:
        return sorted(key.position for key in self._parts[number] if key.within == within)

    def _enter(self, target: _Key, parts: Iterable[_Part]) -> None:
        kept = [part for part in parts if part.share > self._threshold]
        total = sum(part.share for part in kept) if self._renormalise else 1.0
        self._parts[target.stage][target] = [
            part._replace(share=part.share / total, heads=tuple(head / total for head in part.heads)) for part in kept
        ]
        for part in kept:
            self._parts[part.source.stage].setdefault(part.source, [])

    def _enter_join(self, number: int, join: Join, places: Sequence[int]) -> None:
        parts = jnp.stack(self._parts_of_join(join))
        filled = jnp.pad(parts, ((0, (1 << (len(parts) - 1).bit_length()) - len(parts)), (0, 0), (0, 0)))
        found = np.asarray(of_parts(filled, self._counted))
        sources: list[tuple[int, EdgeKind]] = [(branch, "branch") for branch in join.branches]
        if join.combine == "sum":
            sources.insert(0, (join.reads, "residual"))
        for at in places:
            own = [
                _Part(_Key(stage, STATE, at), kind, float(share[at]))
                for (stage, kind), share in zip(sources, found[: len(sources)], strict=True)
            ]
            self._enter(_Key(number, STATE, at), own)

    def _parts_of_join(self, join: Join) -> list[Float[Array, "S D"]]:
        ends = [self._state(branch) for branch in join.branches]
        if join.combine == "mean":
            return [end / len(ends) for end in ends]
        before = self._state(join.reads)
        return [before, *(join.weight * (end - before) for end in ends)]

    def _state_after(self, number: int) -> Float[Array, "S D"]:
        """The state of every token at a stage."""
        match self._stages[number]:
            case Input():
                return self._of(self._run.reads, 0)
            case After(event):
                own = self._run.reads, self._run.attention_out, self._run.mlp_out
                return sum((self._of(each, event) for each in own[1:]), self._of(own[0], event))
            case Join() as join:
                return jnp.stack(self._parts_of_join(join)).sum(axis=0)

    def _of(self, kept: Float[Array, "E B S D"], event: int) -> Float[Array, "S D"]:
        return kept[event, self._row].astype(jnp.float32)

    def _enter_layer(self, number: int, stage: After, places: Sequence[int]) -> None:
        beside = self._run.model.config.traits.residuals == "side by side"  # type: ignore[attr-defined]
        reads, within = stage.reads, STATE if beside else ATTENTION
        if not beside:
            attended = self._of(self._run.reads, stage.event) + self._of(self._run.attention_out, stage.event)
            both = jnp.stack([attended, self._of(self._run.mlp_out, stage.event)])
            found = np.asarray(of_parts(both, self._counted))
            for at in places:
                own = [
                    _Part(_Key(number, ATTENTION, at), "residual", float(found[0, at])),
                    _Part(_Key(number, MLP, at), "mlp", float(found[1, at])),
                ]
                self._enter(_Key(number, STATE, at), own)
            for at in self._reached(number, MLP):
                self._enter(_Key(number, MLP, at), [_Part(_Key(number, ATTENTION, at), "mlp", 1.0)])
            places = self._reached(number, ATTENTION)
        if places:
            for place, shares in zip(places, self._of_attention(stage.event, places), strict=True):
                self._enter(_Key(number, within, place), _parts_of_attention(number, reads, place, shares))
        if beside:
            for at in self._reached(number, MLP):
                self._enter(_Key(number, MLP, at), [_Part(_Key(reads, STATE, at), "mlp", 1.0)])

    def _of_attention(self, event: int, places: Sequence[int]) -> Iterator[OfAttention]:
        """The shares at each place, by head and source."""
        filled = np.full(max(FEWEST_PLACES, 1 << (len(places) - 1).bit_length()), places[-1])
        filled[: len(places)] = places
        run, at = self._run, (event, self._row)
        written = Written(run.reads[at], run.attention_out[at], run.mlp_out[at], run.attention[at], run.values[at])
        layer, model = run.events[event].layer, run.model
        found: OfAttention = jax.device_get(
            of_attention(model.graphdef, model.state, layer, written, filled, self._counted)
        )
        for place in range(len(places)):
            yield OfAttention(found.residual[place], found.heads[:, place], found.bias[place], found.mlp[place])

    def _node(self, key: _Key) -> RouteNode:
        stage = self._stages[key.stage]
        if isinstance(stage, Input):
            return RouteNode("input", key.position)
        if isinstance(stage, Join):
            return RouteNode("join", key.position, self._step(key.stage), join=stage.number)
        event = self._run.events[stage.event]
        return RouteNode(WITHIN[key.within], key.position, event.step, event.number, event.layer)

    def _step(self, number: int) -> int:
        while isinstance(stage := self._stages[number], Join):
            number = stage.branches[0]
        assert isinstance(stage, After)
        return self._run.events[stage.event].step


def _parts_of_attention(number: int, reads: int, place: int, shares: OfAttention) -> Iterator[_Part]:
    """Of one token's state after attention, or after a layer whose residuals lie side by side."""
    yield _Part(_Key(reads, STATE, place), "residual", float(shares.residual))
    yield _Part(_Key(number, BIAS, place), "bias", float(shares.bias))
    yield _Part(_Key(number, MLP, place), "mlp", float(shares.mlp))
    from_sources = shares.heads.sum(axis=0)
    for source in np.flatnonzero(from_sources):
        heads = tuple(shares.heads[:, source].tolist())
        yield _Part(_Key(reads, STATE, int(source)), "attention", float(from_sources[source]), heads)
