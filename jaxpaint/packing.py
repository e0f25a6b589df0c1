"""Scoring requests packed into few batch shapes, with every shared token prefix laid out once.

A row holds trees of token blocks, depth first: the requests that begin alike share the nodes of what they share,
from the token ids alone. `positions` is a token's depth in its tree and `visible_until` the end of its subtree,
which is all that attention needs (`jaxpaint.models.ops.visibility`). Trees are then packed into rows of one
length, best fit first. References: tree attention (SpecInfer, arXiv 2305.09781), Hydragen (arXiv 2402.05099).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

import numpy as np
from jaxtyping import Int

from jaxpaint.errors import UserError

# Targets that one scored position carries; more become further scored positions of the same token.
TARGETS_PER_POSITION = 4
# Sequences share a tree if they share at least this part of the later one's tokens; sharing less saves little and
# makes trees that fill rows badly.
SMALLEST_SHARE = 0.25


@dataclass(frozen=True)
class Request:
    """Token ids to run, of which the last `len(targets)` positions predict `targets`, one each."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    @classmethod
    def of(cls, context: Sequence[int], continuation: Sequence[int], max_length: int) -> Request:
        """A continuation to score after a context, cut from the left to `max_length` tokens as lm-eval does.

        Raises:
            UserError: an empty context, or a continuation longer than the model's context.
        """
        if not context:
            raise UserError("a request needs at least one context token before the continuation it scores")
        if len(continuation) > max_length:
            raise UserError(
                f"a continuation of {len(continuation)} tokens does not fit into the model's {max_length} positions"
            )
        whole = (*context, *continuation)[-(max_length + 1) :]
        return cls(whole[:-1], tuple(continuation))


@dataclass(frozen=True)
class Batch:
    """B rows of S tokens and the M positions scored in them; arrays are int32.

    `scored` are positions in the flattened [B*S] tokens, `targets` up to four token ids at each, `count` how many
    of the M are real. `request_ids` and `slots` (flat positions in `targets`) say where each request's target log-
    probabilities come out; `real_tokens` counts what is not padding.
    """

    tokens: Int[np.ndarray, "B S"]
    positions: Int[np.ndarray, "B S"]
    visible_until: Int[np.ndarray, "B S"]
    scored: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, "M targets"]
    count: int
    request_ids: Int[np.ndarray, " E"]
    slots: Int[np.ndarray, " E"]
    real_tokens: int


@dataclass
class _Tree:
    """Requests that share a prefix, in sorted order; `nodes` tokens once shared ones are counted once."""

    members: list[int]
    nodes: int
    targets: int

    @property
    def size(self) -> int:
        """Room in a row: for the tokens, and for the scored positions, of which a row has as many as tokens.

        A node scores its one next token within the tree, except where requests part or end: one more a request.
        """
        return max(self.nodes, min(self.targets, self.nodes + len(self.members)))


def pack(
    requests: Sequence[Request], *, batch_tokens: int, attention_cost: float, rows_multiple: int = 1
) -> list[Batch]:
    """Packs requests into batches of at most about `batch_tokens` tokens, of one or two row lengths.

    Row lengths are chosen to cost least, where a token costs `1 + attention_cost * row length` (the cost of
    attending to one more token relative to all else a layer does for a token). The number of rows in a batch is a
    multiple of `rows_multiple`, the number of devices that share the rows.
    """
    order = sorted((i for i, r in enumerate(requests) if r.targets), key=lambda i: requests[i].tokens)
    if not order:
        return []
    shared = [0, *(_shared_prefix(requests[a].tokens, requests[b].tokens) for a, b in pairwise(order))]
    longest = max(len(requests[i].tokens) for i in order)

    def plan_rows(length: int) -> tuple[float, list[tuple[int, list[list[_Tree]]]]]:
        """Rows of `length`, and of the length of the longest request for those that do not fit."""
        rows = _fill_rows(_grow_trees(requests, order, shared, length), length, _row_length_for(longest))
        cost = sum(size * len(group) * (1 + attention_cost * size) for size, group in rows)
        return cost, rows

    _, rows = min((plan_rows(length) for length in _row_lengths(longest, batch_tokens)), key=lambda found: found[0])
    batches = []
    for length, group in rows:
        most = max(1, batch_tokens // length // rows_multiple) * rows_multiple
        number = -(-len(group) // most)
        height = -(-len(group) // number // rows_multiple) * rows_multiple
        remaining = iter(group)
        while chunk := list(islice(remaining, height)):
            batches.append(_lay_out(requests, chunk, height, length))
    return batches


def _shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    return next(i for i in range(limit) if first[i] != second[i])


def _row_length_for(tokens: int) -> int:
    """The smallest row length that holds so many tokens: steps of 64, growing to an eighth of the length."""
    step = 64
    while step * 8 < tokens:
        step *= 2
    return -(-tokens // step) * step


def _row_lengths(longest: int, batch_tokens: int) -> Iterator[int]:
    """Candidates, from 64 up to room for a few of the longest requests."""
    length, limit = 64, max(_row_length_for(longest), min(batch_tokens, 4 * _row_length_for(longest)))
    while length <= limit:
        yield length
        length = _row_length_for(length + 1)


def _grow_trees(requests: Sequence[Request], order: list[int], shared: list[int], length: int) -> list[_Tree]:
    """Neighbours in sorted order join one tree as long as it fits into a row and they share enough."""
    trees: list[_Tree] = []
    for i, common in zip(order, shared, strict=True):
        tokens, targets = len(requests[i].tokens), len(requests[i].targets)
        if trees and common >= SMALLEST_SHARE * tokens:
            last = trees[-1]
            grown = _Tree([*last.members, i], last.nodes + tokens - common, last.targets + targets)
            if grown.size <= length:
                trees[-1] = grown
                continue
        trees.append(_Tree([i], tokens, targets))
    return trees


def _fill_rows(trees: list[_Tree], length: int, longest: int) -> list[tuple[int, list[list[_Tree]]]]:
    """Best-fit decreasing into rows of `length`, or of `longest` for a tree that does not fit: (length, rows)."""
    rows: dict[int, list[list[_Tree]]] = {}
    free: list[tuple[int, int, int]] = []  # (room left, row length, row), ascending
    for tree in sorted(trees, key=lambda tree: -tree.size):
        fit = bisect_left(free, (tree.size, 0, 0))
        if fit < len(free):
            room, size, row = free.pop(fit)
        else:
            room = size = length if tree.size <= length else longest
            row = len(rows.setdefault(size, []))
            rows[size].append([])
        rows[size][row].append(tree)
        insort(free, (room - tree.size, size, row))
    return list(rows.items())


def _lay_out(requests: Sequence[Request], rows: list[list[_Tree]], height: int, length: int) -> Batch:
    """Arrays for the rows, topped up with empty ones to `height`."""
    tokens = np.zeros((height, length), np.int32)
    positions = np.zeros((height, length), np.int32)
    visible_until = np.tile(np.arange(1, length + 1, dtype=np.int32), (height, 1))
    found: dict[int, list[list[int]]] = {}  # flat token position -> its targets, in lists of at most four
    entries: list[tuple[int, int, int, int]] = []  # request, flat token position, list, place in the list
    real_tokens = 0
    for row, trees in enumerate(rows):
        end = 0
        for tree in trees:
            path: list[int] = []
            previous: tuple[int, ...] = ()
            for i in tree.members:
                request = requests[i]
                common = _shared_prefix(previous, request.tokens)
                visible_until[row, path[common:]] = end
                new = len(request.tokens) - common
                tokens[row, end : end + new] = request.tokens[common:]
                positions[row, end : end + new] = range(common, len(request.tokens))
                path[common:] = range(end, end + new)
                end += new
                previous = request.tokens
                for node, target in zip(path[-len(request.targets) :], request.targets, strict=True):
                    entries.append((i, row * length + node, *_place(found.setdefault(row * length + node, []), target)))
            visible_until[row, path] = end
        real_tokens += end
    return _with_scores(tokens, positions, visible_until, found, entries, real_tokens)


def _place(lists: list[list[int]], target: int) -> tuple[int, int]:
    """Where a target stands in a position's lists, added if it is new."""
    for number, known in enumerate(lists):
        if target in known:
            return number, known.index(target)
    if not lists or len(lists[-1]) == TARGETS_PER_POSITION:
        lists.append([])
    lists[-1].append(target)
    return len(lists) - 1, len(lists[-1]) - 1


def _with_scores(tokens, positions, visible_until, found, entries, real_tokens) -> Batch:
    scored = np.zeros(tokens.size, np.int32)
    targets = np.zeros((tokens.size, TARGETS_PER_POSITION), np.int32)
    starts: dict[int, int] = {}
    count = 0
    for node, lists in sorted(found.items()):
        starts[node] = count
        for known in lists:
            scored[count] = node
            targets[count, : len(known)] = known
            count += 1
    slots = [(starts[node] + number) * TARGETS_PER_POSITION + place for _, node, number, place in entries]
    return Batch(
        tokens,
        positions,
        visible_until,
        scored,
        targets,
        count,
        np.array([entry[0] for entry in entries], np.int32),
        np.array(slots, np.int32),
        real_tokens,
    )
