"""Plans changed: layers left out or replaced, and stretches of the series repeated or put side by side."""

from __future__ import annotations

from collections.abc import Collection

from jaxpaint.plans.nodes import Combine, Layer, Node, Parallel, PlanError, Repeat, Series, Weighted, fold, layer


def without(node: Node, layers: Collection[int]) -> Node | None:
    """The tree without these layers and their sublayers, wherever they stand; None where nothing is left."""

    def series(_: Series, items: Collection[Node | None]) -> Node | None:
        kept = tuple(item for item in items if item is not None)
        return Series(kept) if kept else None

    def parallel(node: Parallel, branches: Collection[Node | None]) -> Node | None:
        kept = tuple(branch for branch in branches if branch is not None)
        return Parallel(kept, node.combine) if kept else None

    return fold(
        node,
        layer=lambda node: None if node.index in layers else node,
        series=lambda node, items: series(node, tuple(items)),
        parallel=lambda node, branches: parallel(node, tuple(branches)),
        repeat=lambda node, body: None if body is None else Repeat(body, node.times),
        weighted=lambda node, body: None if body is None else Weighted(body, node.weight),
    )


def replaced(node: Node, index: int, by: Node) -> Node:
    """The tree with `by` in place of layer `index`, wherever it stands.

    A sublayer becomes the same sublayer of another layer. Raises PlanError where `by` is no whole layer then.
    """

    def of_layer(node: Layer) -> Node:
        if node.index != index:
            return node
        if node.part == "whole":
            return by
        if isinstance(by, Layer) and by.part == "whole":
            return layer(by.index, node.part, node.beside)
        raise PlanError(f"a sublayer of layer {index} runs alone, so only another layer can take its place")

    return fold(
        node,
        layer=of_layer,
        series=lambda _, items: Series(tuple(items)),
        parallel=lambda node, branches: Parallel(tuple(branches), node.combine),
        repeat=lambda node, body: Repeat(body, node.times),
        weighted=lambda node, body: Weighted(body, node.weight),
    )


def repeated(root: Series, first: int, last: int, times: int) -> Series:
    """The series with what runs from layer `first` to layer `last` `times` times. Errors as `stretch`."""
    start, stop = stretch(root, first, last)
    return Series((*root.items[:start], Repeat(Series(root.items[start:stop]), times), *root.items[stop:]))


def side_by_side(root: Series, first: int, last: int, combine: Combine) -> Series:
    """The series with what runs from layer `first` to layer `last` as branches of one group. Errors as `stretch`."""
    start, stop = stretch(root, first, last)
    return Series((*root.items[:start], Parallel(root.items[start:stop], combine), *root.items[stop:]))


def stretch(root: Series, first: int, last: int) -> tuple[int, int]:
    """Which items of the series run from layer `first` to layer `last`: from the one number up to the other.

    Raises PlanError where one of them is no item of the series, or several, or the last runs before the first.
    """
    places = [_place(root, each) for each in (first, last)]
    if places[0] > places[1]:
        raise PlanError(f"layer {last} runs before layer {first} here; give the one that runs first first")
    return places[0], places[1] + 1


def _place(root: Series, index: int) -> int:
    found = [place for place, item in enumerate(root.items) if item == Layer(index)]
    if len(found) != 1:
        how = "no step of the plan's series" if not found else f"{len(found)} steps of the plan's series"
        raise PlanError(f"layer {index} is {how}, and a stretch begins and ends at layers that are one; write the text")
    return found[0]
