"""The tree that a plan is, and the one recursion over such trees.

There are five kinds of nodes. `0-2 {3 (4 5)}*2 6@0.5 7a` is

    Series
    ├─ Layer 0, Layer 1, Layer 2
    ├─ Repeat, 2 times
    │  └─ Parallel, mean
    │     ├─ Layer 3
    │     └─ Series
    │        └─ Layer 4, Layer 5
    ├─ Weighted, 0.5
    │  └─ Layer 6
    └─ Layer 7, its attention

What is counted, listed or made of a tree is a `fold` of it: `cost`, `depth`, `nesting`, `written_layers`, `units`.
"""

from __future__ import annotations

import math
import operator
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Literal, TypeAlias, TypeVar, assert_never

from jaxpaint.base.errors import UserError
from jaxpaint.base.part import Part

Value = TypeVar("Value")

MAX_LAYER = 9_999
MAX_COST = 1_000_000
# Not below MAX_COST, so that folding (x*a)*b into x*(a*b) never crosses it.
MAX_REPEATS = MAX_COST
MAX_NESTING = 32
MAX_WEIGHT = 1000.0

Combine: TypeAlias = Literal["mean", "sum"]
Node: TypeAlias = "Layer | Series | Parallel | Repeat | Weighted"
Unit: TypeAlias = "Layer | Parallel | Weighted"
# What a part is written with, after its layer's index.
LETTERS: dict[Part, str] = {"whole": "", "attention": "a", "mlp": "m"}
TOO_DEEP = f"groups nest deeper than {MAX_NESTING} levels"
TOO_COSTLY = f"the plan applies layers more than {MAX_COST} times in all"


class PlanError(UserError, ValueError):
    """A plan that cannot be read or run.

    Attributes:
        text: the plan as it was written, "" where it never had a text.
        column: where in `text` it went wrong, in characters from 1; None where no one place is to blame.
    """

    def __init__(self, message: str, text: str = "", column: int | None = None) -> None:
        if column is not None:
            message = f"plan, column {column}: {message}{_point_at(text, column)}"
        super().__init__(message)
        self.text = text
        self.column = column


@dataclass(frozen=True, slots=True)
class Layer:
    """One application of layer `index`, counted from 0, or of a sublayer: its attention or its feed-forward ("mlp").

    A sublayer has its own norms and its own residual connection, and takes nothing of the other half. A feed-forward
    may be `beside` another layer: the norm that it reads through has the mean of both layers' gains (and biases).
    """

    index: int
    part: Part = "whole"
    beside: int | None = None

    def __post_init__(self) -> None:
        if self.beside is not None:
            if self.part != "mlp":
                raise PlanError(f"layer {self.index} shares a norm, but only feed-forwards can, such as 7m~8")

            Layer(self.beside)
        if self.part not in LETTERS:
            raise PlanError(f"a part of a layer is whole, attention or mlp, not {self.part!r}")
        if not 0 <= operator.index(self.index) <= MAX_LAYER:
            raise PlanError(f"layer {self.index} is not between 0 and {MAX_LAYER}")


@dataclass(frozen=True, slots=True)
class Series:
    """The items one after the other; at least one."""

    items: tuple[Node, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise PlanError("a series needs at least one item")


@dataclass(frozen=True, slots=True)
class Parallel:
    """The branches at the same time on one input x; at least one.

    With `combine="mean"` the result is mean_i B_i(x), with `"sum"` it is x + sum_i (B_i(x) - x).
    """

    branches: tuple[Node, ...]
    combine: Combine = "mean"

    def __post_init__(self) -> None:
        if not self.branches:
            raise PlanError("a parallel group needs at least one branch")
        if self.combine not in ("mean", "sum"):
            raise PlanError(f"a parallel group combines by mean or sum, not {self.combine!r}")


@dataclass(frozen=True, slots=True)
class Repeat:
    """The body `times` times in series, each fed the result of the one before."""

    body: Node
    times: int

    def __post_init__(self) -> None:
        if not 1 <= operator.index(self.times) <= MAX_REPEATS:
            raise PlanError(f"a repeat count of {self.times} is not between 1 and {MAX_REPEATS}")


@dataclass(frozen=True, slots=True)
class Weighted:
    """The body with its residual update weighted: x + weight * (body(x) - x).

    Below 1 the update is damped, above it is overdone, below 0 it is taken away. Of branches whose weights add up to 1
    a `sum` is their weighted mean.
    """

    body: Node
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and abs(self.weight) <= MAX_WEIGHT):
            raise PlanError(f"a weight of {self.weight} is not between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}")


@cache
def layer(index: int, part: Part = "whole", beside: int | None = None) -> Layer:
    """The one such `Layer`: trees hold the same few layers many times."""
    return Layer(index, part, beside)


def fold(
    node: Node,
    *,
    layer: Callable[[Layer], Value],
    series: Callable[[Series, Iterator[Value]], Value],
    parallel: Callable[[Parallel, Iterator[Value]], Value],
    repeat: Callable[[Repeat, Value], Value],
    weighted: Callable[[Weighted, Value], Value],
) -> Value:
    """A value of the whole tree, from the leaves up: each node's of the node itself and its children's values.

    These come in the order written, and are worked out as they are asked for: what is not asked for costs nothing. A
    repeat's body is visited once, however often it runs.
    """

    def visit(node: Node) -> Value:
        match node:
            case Layer():
                return layer(node)
            case Series(items):
                return series(node, map(visit, items))
            case Parallel(branches):
                return parallel(node, map(visit, branches))
            case Repeat(body):
                return repeat(node, visit(body))
            case Weighted(body):
                return weighted(node, visit(body))

    return visit(node)


def map_layers(node: Node, function: Callable[[int], int]) -> Node:
    """The same tree with `function(index)` in place of every layer's index, called as `written_layers` has them."""

    def renumbered(node: Layer) -> Node:
        return layer(function(node.index), node.part, None if node.beside is None else function(node.beside))

    return fold(
        node,
        layer=renumbered,
        series=lambda _, items: Series(tuple(items)),
        parallel=lambda node, branches: Parallel(tuple(branches), node.combine),
        repeat=lambda node, body: Repeat(body, node.times),
        weighted=lambda node, body: Weighted(body, node.weight),
    )


def normalise(node: Node, level: int = 0) -> Node:
    """The node in its one normal form (`jaxpaint.plans.plan.Plan`); `level` counts the nodes above it.

    A recursion of its own, because it must stop on its way down: a tree may be deeper than Python can follow.

    Raises:
        PlanError: nested deeper than any plan may be.
    """
    # One pair of brackets makes at most three levels of nodes: a repeat or a weight of a series of one group.
    if level > 3 * MAX_NESTING + 3:
        raise PlanError(TOO_DEEP)
    match node:
        case Layer():
            return node
        case Series(items):
            flat: list[Node] = []
            for item in items:
                normal = normalise(item, level + 1)
                flat.extend(normal.items if isinstance(normal, Series) else (normal,))
            return flat[0] if len(flat) == 1 else Series(tuple(flat))
        case Parallel(branches, combine):
            return Parallel(tuple(normalise(branch, level + 1) for branch in branches), combine)
        case Repeat(body, times):
            inner = normalise(body, level + 1)
            if isinstance(inner, Repeat):
                return Repeat(inner.body, inner.times * times)
            return inner if times == 1 else Repeat(inner, times)
        case Weighted(body, weight):
            inner = normalise(body, level + 1)
            if isinstance(inner, Weighted):
                weight *= inner.weight
                inner = inner.body
            weight = float(weight) + 0.0  # no -0.0
            return inner if weight == 1 else Weighted(inner, weight)
        case _:
            assert_never(node)


def cost(node: Node) -> float:
    """Layer applications: a layer counts as often as it runs, a sublayer as half a layer."""
    return _in_layers(_counted(node, _halves, sum))


def depth(node: Node) -> float:
    """Layer applications on the longest chain, a sublayer half of one."""
    return _in_layers(_counted(node, _halves, max))


def applications(node: Node) -> int:
    """How often a layer or a sublayer runs."""
    return _counted(node, lambda _: 1, sum)


def chain_length(node: Node) -> int:
    """Of these applications, those on the longest chain."""
    return _counted(node, lambda _: 1, max)


def attentions(node: Node) -> int:
    """How often an attention runs: each has keys and values of its own."""
    return _counted(node, lambda node: int(node.part != "mlp"), sum)


def has_sublayers(node: Node) -> bool:
    """Whether some layer does not run whole."""
    return _counted(node, lambda node: int(node.part != "whole"), sum) > 0


def shares_norms(node: Node) -> bool:
    """Whether some feed-forward runs beside another layer."""
    return _counted(node, lambda node: int(node.beside is not None), sum) > 0


def _halves(node: Layer) -> int:
    return 2 if node.part == "whole" else 1


def _in_layers(halves: int) -> float:
    return halves / 2 if halves % 2 else halves // 2


def _counted(node: Node, of_layer: Callable[[Layer], int], of_branches: Callable[[Iterator[int]], int]) -> int:
    return fold(
        node,
        layer=of_layer,
        series=lambda _, counts: sum(counts),
        parallel=lambda _, counts: of_branches(counts),
        repeat=lambda node, count: count * node.times,
        weighted=lambda _, count: count,
    )


def nesting(node: Node, series: int = 0) -> int:
    """How deep groups and weights, which keep their input, lie within each other.

    With `series=1` series count as well: they have brackets.
    """
    return fold(
        node,
        layer=lambda _: 0,
        series=lambda _, levels: series + max(levels),
        parallel=lambda _, levels: 1 + max(levels),
        repeat=lambda _, level: level,
        weighted=lambda _, level: 1 + level,
    )


def written_layers(node: Node) -> tuple[int, ...]:
    """The layers' indices in the order written, a repeat's once; after a feed-forward's the one's that it is beside."""
    return fold(
        node,
        layer=lambda node: (node.index,) if node.beside is None else (node.index, node.beside),
        series=lambda _, parts: tuple(chain.from_iterable(parts)),
        parallel=lambda _, parts: tuple(chain.from_iterable(parts)),
        repeat=lambda _, body: body,
        weighted=lambda _, body: body,
    )


def units(node: Node) -> tuple[Unit, ...]:
    """The steps in the order they run, repeats unrolled: layers, and as they stand groups and what is weighted."""
    return fold(
        node,
        layer=_alone,
        series=lambda _, parts: tuple(chain.from_iterable(parts)),
        parallel=lambda node, _: _alone(node),
        repeat=lambda node, body: body * node.times,
        weighted=lambda node, _: _alone(node),
    )


def steps(node: Node) -> int:
    """How many `units` there are, without writing them out."""
    return fold(
        node,
        layer=lambda _: 1,
        series=lambda _, counts: sum(counts),
        parallel=lambda *_: 1,
        repeat=lambda node, count: count * node.times,
        weighted=lambda *_: 1,
    )


def _alone(unit: Unit) -> tuple[Unit, ...]:
    return (unit,)


def _point_at(text: str, column: int) -> str:
    """Two lines: the text around `column`, and a caret below it."""
    start, stop = max(0, column - 41), column + 30
    shown = ["…"] * (start > 0) + [c if c.isprintable() else " " for c in text[start:stop]]
    shown += ["…"] * (stop < len(text))
    before = shown[: column - 1 - start + (start > 0)]
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in before)
    return f"\n  {''.join(shown)}\n  {' ' * columns}^"
