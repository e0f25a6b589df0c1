"""Scoring requests packed into few batch shapes, with every shared token prefix laid out once.

A batch is a stream of token blocks without gaps. The requests that begin alike form a tree, laid out depth first from
the token ids alone: `positions` is a token's depth in its tree (after a `border`, where requests are longer) and
`visible_until` the end of its subtree, which is all that attention needs (`jaxpaint.models.attention.visibility`). The
stream is cut into rows; a row's queries look back over as many rows as the largest tree is long; or, where texts are
long, it is attended to block by block (`jaxpaint.models.blockwise`), whatever its rows. References: tree
attention (SpecInfer, arXiv 2305.09781), Hydragen (arXiv 2402.05099); a window over a stream in place of padded rows is
sliding-window attention's (arXiv 2004.05150).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.engine.grouping import Group, Tree, alone, best_fit, cheapest_groups, sequences_of, shared_prefix

# Targets that one scored position carries; more become further scored positions of the same token.
TARGETS_PER_POSITION = 4
# Scored positions are topped up to a multiple of this; the head runs over the real ones only.
SCORED_MULTIPLE = 64


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
    """A stream of B*S tokens in B rows of S, and the M positions scored in it; arrays are int32.

    `visible_until` counts from the start of a token's row and may lie `lookback` rows further on, any number of them
    where that is None: then the stream is attended to block by block. `scored` are
    positions in the flattened [B*S] tokens, `targets` up to four token ids at each, `count` how many of the M are real.
    `request_ids` and `slots` (flat positions in `targets`) say where each request's target log-probabilities come out;
    `real_tokens` counts what is not padding.
    """

    tokens: Int[np.ndarray, "B S"]
    positions: Int[np.ndarray, "B S"]
    visible_until: Int[np.ndarray, "B S"]
    lookback: int | None
    scored: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, "M targets"]
    count: int
    request_ids: Int[np.ndarray, " E"]
    slots: Int[np.ndarray, " E"]
    real_tokens: int

    @cached_property
    def requests(self) -> Int[np.ndarray, " R"]:
        """The requests that the batch scores, ascending."""
        return np.unique(self.request_ids)

    def per_request(
        self, logprobs: Float[np.ndarray, "M targets"], is_greedy: Bool[np.ndarray, "M targets"]
    ) -> tuple[Float[np.ndarray, " R"], Bool[np.ndarray, " R"]]:
        """A head's output at the scored positions, as each request's log-likelihood and whether all of it is greedy."""
        owners = np.searchsorted(self.requests, self.request_ids)
        loglikelihoods = np.zeros(len(self.requests))
        np.add.at(loglikelihoods, owners, logprobs.reshape(-1)[self.slots].astype(np.float64))
        greedy = np.ones(len(self.requests), bool)
        np.logical_and.at(greedy, owners, is_greedy.reshape(-1)[self.slots])
        return loglikelihoods, greedy


def pack(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    attention_cost: float,
    rows_multiple: int = 1,
    blockwise: bool = False,
    whole_rows: bool = False,
    border: float = math.inf,
) -> list[Batch]:
    """Packs requests into batches of at most about `batch_tokens` tokens, of one or two shapes.

    Row lengths are chosen to cost least, where a token costs `1 + attention_cost * keys in its reach` (the cost of
    attending to one more key relative to all else a layer does for a token). The number of rows in a batch is a
    multiple of `rows_multiple`, the number of devices that share the rows. With `blockwise` a shape may be one that is
    attended to block by block, with `whole_rows` one whose rows are whole, so that none looks back to another.
    Requests of more tokens than `border` share no tree with others, and begin at that position
    (`jaxpaint.models.scalings.border`).
    """
    order = sorted((i for i, r in enumerate(requests) if r.targets), key=lambda i: requests[i].tokens)
    order.sort(key=lambda i: len(requests[i].tokens) > border)
    if not order:
        return []
    batches: list[Batch] = []
    sequences = sequences_of(requests, order, border)
    single = alone(sequences, batch_tokens) if rows_multiple == 1 else None
    for group in single or cheapest_groups(sequences, attention_cost, batch_tokens, blockwise, whole_rows):
        batches += _with_equal_room(_batches(requests, group, batch_tokens, rows_multiple, border))
    return batches


def _batches(
    requests: Sequence[Request], group: Group, batch_tokens: int, rows_multiple: int, border: float
) -> Iterable[Batch]:
    """As few batches as the trees fill, all of the same height."""
    if group.whole:
        return _whole_batches(requests, group, batch_tokens, rows_multiple, border)
    largest, total = max(tree.size for tree in group.trees), sum(tree.size for tree in group.trees)
    row = group.length * rows_multiple
    most = max(batch_tokens // row, -(-largest // row))
    number = -(-total // (most * row))
    while True:
        for height in range(max(-(-total // (number * row)), -(-largest // row)), most + 1):
            bins = best_fit([tree.size for tree in group.trees], height * row)
            if len(bins) <= number:
                shape = height * rows_multiple, group.length
                placed = [_in_line(group.trees, trees) for trees in bins]
                return [_lay_out(requests, each, shape, group.lookback, border) for each in placed]
        number += 1


def _whole_batches(
    requests: Sequence[Request], group: Group, batch_tokens: int, rows_multiple: int, border: float
) -> Iterator[Batch]:
    rows = group.rows()
    most = max(1, batch_tokens // (group.length * rows_multiple))
    number = -(-len(rows) // (most * rows_multiple))
    height = -(-len(rows) // (number * rows_multiple)) * rows_multiple
    for first in range(0, len(rows), height):
        placed = [
            tree
            for row, trees in enumerate(rows[first : first + height])
            for tree in _in_line(group.trees, trees, row * group.length)
        ]
        yield _lay_out(requests, placed, (height, group.length), 0, border)


def _in_line(trees: Sequence[Tree], which: Sequence[int], start: int = 0) -> list[tuple[int, Tree]]:
    """Those trees one after the other, each with the token at which it begins."""
    sizes = [trees[index].size for index in which]
    return list(zip(accumulate(sizes[:-1], initial=start), (trees[index] for index in which), strict=True))


def _lay_out(
    requests: Sequence[Request],
    placed: Sequence[tuple[int, Tree]],
    shape: tuple[int, int],
    lookback: int | None,
    border: float,
) -> Batch:
    """The trees, each from its first token on, and padding around them."""
    room = shape[0] * shape[1]
    tokens = np.zeros(room, np.int32)
    positions = np.zeros(room, np.int32)
    visible_until = np.arange(1, room + 1, dtype=np.int32)
    found: dict[int, list[list[int]]] = {}  # token -> its targets, in lists of at most four
    entries: list[tuple[int, int, int, int]] = []  # request, token, list, place in the list
    for start, tree in placed:
        end = start
        first = int(border) if tree.depth > border else 0
        path: list[int] = []
        previous: tuple[int, ...] = ()
        for i in tree.members:
            request = requests[i]
            common = shared_prefix(previous, request.tokens)
            visible_until[path[common:]] = end
            new = len(request.tokens) - common
            tokens[end : end + new] = request.tokens[common:]
            positions[end : end + new] = range(first + common, first + len(request.tokens))
            path[common:] = range(end, end + new)
            end += new
            previous = request.tokens
            for node, target in zip(path[-len(request.targets) :], request.targets, strict=True):
                entries.append((i, node, *_place(found.setdefault(node, []), target)))
        visible_until[path] = end
    starts = np.arange(0, room, shape[1], dtype=np.int32)[:, None]
    scored, targets, slots = _scored_positions(found, entries)
    return Batch(
        tokens.reshape(shape),
        positions.reshape(shape),
        visible_until.reshape(shape) - starts,
        lookback,
        scored,
        targets,
        len(scored),
        np.array([entry[0] for entry in entries], np.int32),
        slots,
        sum(tree.size for _, tree in placed),
    )


def _place(lists: list[list[int]], target: int) -> tuple[int, int]:
    """Where a target stands in a position's lists, added if it is new."""
    for number, known in enumerate(lists):
        if target in known:
            return number, known.index(target)
    if not lists or len(lists[-1]) == TARGETS_PER_POSITION:
        lists.append([])
    lists[-1].append(target)
    return len(lists) - 1, len(lists[-1]) - 1


def _scored_positions(
    found: dict[int, list[list[int]]], entries: list[tuple[int, int, int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scored positions [count], their targets [count, 4], and the slot of each entry."""
    starts: dict[int, int] = {}
    scored: list[int] = []
    targets: list[list[int]] = []
    for node, lists in sorted(found.items()):
        starts[node] = len(scored)
        scored += [node] * len(lists)
        targets += [known + [0] * (TARGETS_PER_POSITION - len(known)) for known in lists]
    slots = [(starts[node] + number) * TARGETS_PER_POSITION + place for _, node, number, place in entries]
    return np.array(scored, np.int32), np.array(targets, np.int32), np.array(slots, np.int32)


def _with_equal_room(batches: Iterable[Batch]) -> list[Batch]:
    """The batches with as many scored positions each, so that they share executables."""
    batches = list(batches)
    room = -(-max(batch.count for batch in batches) // SCORED_MULTIPLE) * SCORED_MULTIPLE
    return [
        replace(
            batch,
            scored=np.pad(batch.scored, (0, room - batch.count)),
            targets=np.pad(batch.targets, ((0, room - batch.count), (0, 0))),
        )
        for batch in batches
    ]
