"""The nodes that plans are made of, and the laws over them: one normal form, cost, depth, nesting."""

from __future__ import annotations

import operator
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, assert_never

from jaxpaint.base.errors import UserError

MAX_LAYER = 9_999
MAX_COST = 1_000_000
# Not below MAX_COST, so that folding (x*a)*b into x*(a*b) never crosses it.
MAX_REPEATS = MAX_COST
MAX_NESTING = 32

Combine: TypeAlias = Literal["mean", "sum"]
Node: TypeAlias = "Layer | Series | Parallel | Repeat"
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
    """One application of layer `index`, counted from 0."""

    index: int

    def __post_init__(self) -> None:
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


@cache
def layer(index: int) -> Layer:
    return Layer(index)


def normalise(node: Node, level: int = 0) -> Node:
    # One pair of brackets makes at most three levels of nodes: a repeat of a series of one group.
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
        case _:
            assert_never(node)


def bracket_depth(node: Node) -> int:
    match node:
        case Layer():
            return 0
        case Series(children) | Parallel(children):
            return 1 + max(map(bracket_depth, children))
        case Repeat(body):
            return bracket_depth(body)


def node_cost(node: Node) -> int:
    match node:
        case Layer():
            return 1
        case Series(children) | Parallel(children):
            return sum(map(node_cost, children))
        case Repeat(body, times):
            return node_cost(body) * times


def node_depth(node: Node) -> int:
    match node:
        case Layer():
            return 1
        case Series(items):
            return sum(map(node_depth, items))
        case Parallel(branches):
            return max(map(node_depth, branches))
        case Repeat(body, times):
            return node_depth(body) * times


def parallel_nesting(node: Node) -> int:
    match node:
        case Layer():
            return 0
        case Series(items):
            return max(map(parallel_nesting, items))
        case Parallel(branches):
            return 1 + max(map(parallel_nesting, branches))
        case Repeat(body):
            return parallel_nesting(body)


def collect_layers(node: Node, found: set[int]) -> None:
    match node:
        case Layer(index):
            found.add(index)
        case Series(children) | Parallel(children):
            for child in children:
                collect_layers(child, found)
        case Repeat(body):
            collect_layers(body, found)


def unroll(node: Node) -> tuple[int, ...]:
    match node:
        case Layer(index):
            return (index,)
        case Series(items):
            return tuple(index for item in items for index in unroll(item))
        case Repeat(body, times):
            return unroll(body) * times
        case Parallel():
            raise AssertionError("a series plan has no parallel group")


def _point_at(text: str, column: int) -> str:
    """Two lines: the text around `column`, and a caret below it."""
    start, stop = max(0, column - 41), column + 30
    shown = ["…"] * (start > 0) + [c if c.isprintable() else " " for c in text[start:stop]]
    shown += ["…"] * (stop < len(text))
    before = shown[: column - 1 - start + (start > 0)]
    columns = sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in before)
    return f"\n  {''.join(shown)}\n  {' ' * columns}^"
