"""Scoring requests packed into few batch shapes, with every shared token prefix laid out once.

A batch is a stream of token blocks without gaps. The requests that begin alike form a tree, laid out depth first from
the token ids alone: `positions` is a token's depth in its tree and `visible_until` the end of its subtree, which is
all that attention needs (`jaxpaint.models.attention.visibility`). The stream is cut into rows; a row's queries look
back over as many rows as the largest tree is long; or, where texts are long, it is attended to block by block
(`jaxpaint.models.blockwise`), whatever its rows. References: tree attention (SpecInfer, arXiv 2305.09781), Hydragen
(arXiv 2402.05099); a window over a stream in place of padded rows is sliding-window attention's (arXiv 2004.05150).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise, product, takewhile

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.models.blockwise import BLOCK

# Targets that one scored position carries; more become further scored positions of the same token.
TARGETS_PER_POSITION = 4
# Sequences share a tree if they share at least this part of the later one's tokens; sharing less saves little and
# makes trees that fill rows badly.
SMALLEST_SHARE = 0.25
# Rows that a query's tree may reach back over: more of them see fewer keys in vain, and copy keys more often.
LOOKBACK = 3
# What a key costs that is attended to block by block, to one in a row's reach.
BLOCKWISE_COST = 0.5
# Tokens of a row where attention is block by block and rows are one stream: what little is padded is then little.
STREAM_ROW = 64
# Tokens of a tree that has a batch and a row to itself, at most, and its row's steps: up to so many tokens, of so many.
ALONE = 512
STEPS = ((256, 16), (ALONE, 32))
# Scored positions are topped up to a multiple of this; the head runs over the real ones only.
SCORED_MULTIPLE = 64
# What a batch costs beyond its tokens, as a part of a full one's.
BATCH_OVERHEAD = 0.1


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


@dataclass(frozen=True)
class _Tree:
    """Requests that share a prefix, in sorted order; `size` is their tokens, shared ones counted once.

    The longest of them has `depth` tokens.
    """

    members: tuple[int, ...]
    size: int
    depth: int


@dataclass(frozen=True)
class _Group:
    """Trees that run in batches of one shape: rows of `length`, each seeing the `lookback` rows before it.

    With a `lookback` of None the rows are attended to block by block.
    """

    trees: list[_Tree]
    length: int
    blockwise: bool = False

    @property
    def lookback(self) -> int | None:
        if self.blockwise:
            return None
        if len(self.trees) == 1 and self.trees[0].size <= self.length:
            return 0
        return -(-(max(tree.size for tree in self.trees) - 1) // self.length)

    def cost(self, attention_cost: float, batch_tokens: int) -> float:
        """In tokens without attention; every batch costs some more, for reading weights and running less than full."""
        tokens = sum(tree.size for tree in self.trees)
        if self.lookback is None:
            # Beside the keys before it a token pays for the rest of its block and of the one in which its tree begins.
            each = (tree.size * (min(tree.size / 2, tree.depth) + 1.5 * BLOCK) for tree in self.trees)
            keys = BLOCKWISE_COST * sum(each) / tokens
        else:
            keys = (self.lookback + 1) * self.length
        return tokens * (1 + attention_cost * keys) + BATCH_OVERHEAD * batch_tokens * -(-tokens // batch_tokens)


def pack(
    requests: Sequence[Request],
    *,
    batch_tokens: int,
    attention_cost: float,
    rows_multiple: int = 1,
    blockwise: bool = False,
) -> list[Batch]:
    """Packs requests into batches of at most about `batch_tokens` tokens, of one or two shapes.

    Row lengths are chosen to cost least, where a token costs `1 + attention_cost * keys in its reach` (the cost of
    attending to one more key relative to all else a layer does for a token). The number of rows in a batch is a
    multiple of `rows_multiple`, the number of devices that share the rows. With `blockwise` a shape may be one that is
    attended to block by block.
    """
    order = sorted((i for i, r in enumerate(requests) if r.targets), key=lambda i: requests[i].tokens)
    if not order:
        return []
    batches: list[Batch] = []
    sequences = _sequences(requests, order)
    alone = _alone(sequences, min(ALONE, batch_tokens)) if rows_multiple == 1 else None
    for group in alone or _cheapest_groups(sequences, attention_cost, batch_tokens, blockwise):
        batches += _with_equal_room(_batches(requests, group, batch_tokens, rows_multiple))
    return batches


def shared_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    limit = min(len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    return next(i for i in range(limit) if first[i] != second[i])


def row_lengths(smallest: int = 16) -> Iterator[int]:
    """16, 32, 48, 64, 96, 128, 192, ...: steps of a third to a half."""
    yield from (smallest, smallest * 2)
    length = smallest * 2
    while True:
        yield from (length * 3 // 2, length * 2)
        length *= 2


def row_length(at_least: int, smallest: int = 16) -> int:
    """The smallest of `row_lengths` that is enough: few different sizes, for few executables."""
    return next(length for length in row_lengths(smallest) if length >= at_least)


def _sequences(requests: Sequence[Request], order: list[int]) -> list[tuple[int, int, int]]:
    """Of each request its number, its tokens, and those that it shares with the one before."""
    shared = [0, *(shared_prefix(requests[a].tokens, requests[b].tokens) for a, b in pairwise(order))]
    return [(i, len(requests[i].tokens), common) for i, common in zip(order, shared, strict=True)]


def _alone(sequences: list[tuple[int, int, int]], at_most: int) -> list[_Group] | None:
    """One row, hardly padded, where all requests are one tree of at most so many tokens: a text of its own, say."""
    if max(tokens for _, tokens, _ in sequences) > at_most:
        return None
    trees = _grow_trees(sequences, 0, at_most, at_most)
    if len(trees) > 1:
        return None
    step = next(step for most, step in STEPS if trees[0].size <= most)
    return [_Group(trees, -(-trees[0].size // step) * step)]


def _cheapest_groups(
    sequences: list[tuple[int, int, int]], attention_cost: float, batch_tokens: int, blockwise: bool
) -> list[_Group]:
    """One group, or two where some requests are much longer than the others."""
    longest = max(tokens for _, tokens, _ in sequences)
    lengths = list(takewhile(lambda length: length * LOOKBACK < 2 * longest, row_lengths()))
    lengths.append(next(length for length in row_lengths() if length * LOOKBACK >= 2 * longest))

    def group(length: int, longer_than: int, at_most: int) -> _Group | None:
        trees = _grow_trees(sequences, longer_than, at_most, length * LOOKBACK)
        return _Group(trees, length) if trees else None

    def by_blocks(longer_than: int) -> list[_Group]:
        trees = _grow_trees(sequences, longer_than, longest, max(longest, batch_tokens)) if blockwise else []
        return [_Group(trees, STREAM_ROW, blockwise=True)] if trees else []

    def cost(groups: list[_Group]) -> float:
        return sum(found.cost(attention_cost, batch_tokens) for found in groups)

    choices = [by_blocks(0)] if blockwise else []
    for length in lengths:
        reach = length * LOOKBACK
        short = group(length, 0, reach)
        long = [group(other, reach, longest) for other in lengths if other * LOOKBACK >= longest > reach]
        for pair in product([short], [*long, *by_blocks(reach)] or [None]):
            choices.append([found for found in pair if found])
    return min(choices, key=cost)


def _grow_trees(sequences: list[tuple[int, int, int]], longer_than: int, at_most: int, largest: int) -> list[_Tree]:
    """Trees of at most `largest` tokens of those (request, tokens, tokens shared with the one before) of these sizes.

    Neighbours in sorted order join one tree as long as it fits and they share enough.
    """
    trees: list[_Tree] = []
    members: list[int] = []
    size = depth = common = 0
    for request, tokens, shared in sequences:
        # What two sequences share is the least that any two neighbours between them do.
        common = min(common, shared)
        if not longer_than < tokens <= at_most:
            continue
        if members and common >= SMALLEST_SHARE * tokens and size + tokens - common <= largest:
            members.append(request)
            size += tokens - common
        else:
            if members:
                trees.append(_Tree(tuple(members), size, depth))
            members, size, depth = [request], tokens, 0
        common, depth = tokens, max(depth, tokens)
    if members:
        trees.append(_Tree(tuple(members), size, depth))
    return trees


def _batches(requests: Sequence[Request], group: _Group, batch_tokens: int, rows_multiple: int) -> list[Batch]:
    """As few batches as the trees fill, all of the same height."""
    largest, total = max(tree.size for tree in group.trees), sum(tree.size for tree in group.trees)
    row = group.length * rows_multiple
    most = max(batch_tokens // row, -(-largest // row))
    number = -(-total // (most * row))
    while True:
        for height in range(max(-(-total // (number * row)), -(-largest // row)), most + 1):
            bins = best_fit([tree.size for tree in group.trees], height * row)
            if len(bins) <= number:
                shape = height * rows_multiple, group.length
                return [_lay_out(requests, [group.trees[i] for i in trees], shape, group.lookback) for trees in bins]
        number += 1


def best_fit(sizes: Sequence[int], room: int) -> list[list[int]]:
    """Best-fit decreasing: bins of indices whose sizes add up to at most `room`."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (room left, bin), ascending
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        fit = bisect_left(free, (sizes[index], 0))
        if fit < len(free):
            left, number = free.pop(fit)
        else:
            left, number = room, len(bins)
            bins.append([])
        bins[number].append(index)
        insort(free, (left - sizes[index], number))
    return bins


def _lay_out(requests: Sequence[Request], trees: list[_Tree], shape: tuple[int, int], lookback: int | None) -> Batch:
    """The trees one after the other, topped up with padding."""
    room = shape[0] * shape[1]
    tokens = np.zeros(room, np.int32)
    positions = np.zeros(room, np.int32)
    visible_until = np.arange(1, room + 1, dtype=np.int32)
    found: dict[int, list[list[int]]] = {}  # token -> its targets, in lists of at most four
    entries: list[tuple[int, int, int, int]] = []  # request, token, list, place in the list
    end = 0
    for tree in trees:
        path: list[int] = []
        previous: tuple[int, ...] = ()
        for i in tree.members:
            request = requests[i]
            common = shared_prefix(previous, request.tokens)
            visible_until[path[common:]] = end
            new = len(request.tokens) - common
            tokens[end : end + new] = request.tokens[common:]
            positions[end : end + new] = range(common, len(request.tokens))
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
        end,
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


def _with_equal_room(batches: list[Batch]) -> list[Batch]:
    """The batches with as many scored positions each, so that they share executables."""
    room = -(-max(batch.count for batch in batches) // SCORED_MULTIPLE) * SCORED_MULTIPLE
    return [
        replace(
            batch,
            scored=np.pad(batch.scored, (0, room - batch.count)),
            targets=np.pad(batch.targets, ((0, room - batch.count), (0, 0))),
        )
        for batch in batches
    ]
