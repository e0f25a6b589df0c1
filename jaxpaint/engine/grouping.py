"""Which requests are laid out as one tree, and which rows are cheapest for trees: by what attention costs.

Requests that begin alike share a tree. Rows may be cut from one stream, a row's queries then look back over as many
rows as the largest tree is long; or be whole, with trees that end where their row does; or, where texts are long, the
stream is attended to block by block.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product, takewhile
from typing import TYPE_CHECKING

from jaxpaint.models.blockwise import BLOCK

if TYPE_CHECKING:
    from jaxpaint.engine.packing import Request

# Sequences share a tree if they share at least this part of the later one's tokens; sharing less saves little and
# makes trees that fill rows badly.
SMALLEST_SHARE = 0.25
# Rows that a query's tree may reach back over: more of them see fewer keys in vain, and copy keys more often.
LOOKBACK = 3
# What each row in reach costs for its keys' copy, as a part of all that a layer does for a row: measured on an H100.
COPIED_ROW = 0.01
# Tokens of a whole row are a multiple of this.
WHOLE_STEP = 64
# What a key costs that is attended to block by block, to one in a row's reach.
BLOCKWISE_COST = 0.5
# Tokens of a row where attention is block by block and rows are one stream: what little is padded is then little.
STREAM_ROW = 64
# Tokens of a tree that has a batch and a row to itself, at most, and its row's steps: up to so many tokens, of so many.
ALONE = 512
STEPS = ((256, 16), (ALONE, 32))
# What a batch costs beyond its tokens, as a part of a full one's.
BATCH_OVERHEAD = 0.1


@dataclass(frozen=True)
class Tree:
    """Requests that share a prefix, in sorted order; `size` is their tokens, shared ones counted once.

    The longest of them has `depth` tokens.
    """

    members: tuple[int, ...]
    size: int
    depth: int


@dataclass(frozen=True)
class Group:
    """Trees that run in batches of one shape: rows of `length`, each seeing the `lookback` rows before it.

    With a `lookback` of None the rows are attended to block by block. In `whole` rows no tree goes on from one row to
    the next. `copied` is what each row costs that is looked back to.
    """

    trees: list[Tree]
    length: int
    blockwise: bool = False
    whole: bool = False
    copied: float = 0.0

    @property
    def lookback(self) -> int | None:
        if self.blockwise:
            return None
        if self.whole or (len(self.trees) == 1 and self.trees[0].size <= self.length):
            return 0
        return -(-(max(tree.size for tree in self.trees) - 1) // self.length)

    def cost(self, attention_cost: float, batch_tokens: int) -> float:
        """In tokens without attention; every batch costs some more, for reading weights and running less than full."""
        tokens = sum(tree.size for tree in self.trees)
        if self.whole:
            tokens = len(self.rows()) * self.length
        if self.lookback is None:
            # Beside the keys before it a token pays for the rest of its block and of the one in which its tree begins.
            each = (tree.size * (min(tree.size / 2, tree.depth) + 1.5 * BLOCK) for tree in self.trees)
            keys = BLOCKWISE_COST * sum(each) / tokens
        else:
            keys = (self.lookback + 1) * self.length
        copied = self.copied * (self.lookback + 1) if self.lookback else 0.0
        batches = -(-tokens // batch_tokens)
        return tokens * (1 + attention_cost * keys + copied) + BATCH_OVERHEAD * batch_tokens * batches

    def rows(self) -> list[list[int]]:
        """Of whole rows each one's trees."""
        return best_fit([tree.size for tree in self.trees], self.length)


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


def sequences_of(requests: Sequence[Request], order: list[int], border: float) -> list[tuple[int, int, int]]:
    """Of each request its number, its tokens, and those that it shares with the one before, none across the border."""

    def common(before: tuple[int, ...], after: tuple[int, ...]) -> int:
        return shared_prefix(before, after) if (len(before) > border) == (len(after) > border) else 0

    shared = [0, *(common(requests[a].tokens, requests[b].tokens) for a, b in pairwise(order))]
    return [(i, len(requests[i].tokens), common) for i, common in zip(order, shared, strict=True)]


def alone(sequences: list[tuple[int, int, int]], batch_tokens: int) -> list[Group] | None:
    """One row, hardly padded, where all requests are one tree of few tokens: a text of its own, say."""
    at_most = min(ALONE, batch_tokens)
    if max(tokens for _, tokens, _ in sequences) > at_most:
        return None
    trees = _grow_trees(sequences, 0, at_most, at_most)
    if len(trees) > 1:
        return None
    step = next(step for most, step in STEPS if trees[0].size <= most)
    return [Group(trees, -(-trees[0].size // step) * step)]


def cheapest_groups(
    sequences: list[tuple[int, int, int]], attention_cost: float, batch_tokens: int, blockwise: bool, whole_rows: bool
) -> list[Group]:
    """One group, or two where some requests are much longer than the others."""
    longest = max(tokens for _, tokens, _ in sequences)
    lengths = list(takewhile(lambda length: length * LOOKBACK < 2 * longest, row_lengths()))
    lengths.append(next(length for length in row_lengths() if length * LOOKBACK >= 2 * longest))

    def group(length: int, longer_than: int, at_most: int) -> Group | None:
        trees = _grow_trees(sequences, longer_than, at_most, length * LOOKBACK)
        return Group(trees, length, copied=COPIED_ROW if whole_rows else 0.0) if trees else None

    def by_blocks(longer_than: int) -> list[Group]:
        trees = _grow_trees(sequences, longer_than, longest, max(longest, batch_tokens)) if blockwise else []
        return [Group(trees, STREAM_ROW, blockwise=True)] if trees else []

    def cost(groups: list[Group]) -> float:
        return sum(found.cost(attention_cost, batch_tokens) for found in groups)

    choices = [by_blocks(0)] if blockwise else []
    if whole_rows:
        for length in _whole_lengths(longest):
            choices.append([Group(_grow_trees(sequences, 0, longest, length), length, whole=True)])
    for length in lengths:
        reach = length * LOOKBACK
        short = group(length, 0, reach)
        long = [group(other, reach, longest) for other in lengths if other * LOOKBACK >= longest > reach]
        for pair in product([short], [*long, *by_blocks(reach)] or [None]):
            choices.append([found for found in pair if found])
    return min(choices, key=cost)


def _whole_lengths(longest: int) -> list[int]:
    """Of rows that hold one sequence whole, or a few."""
    first = -(-longest // WHOLE_STEP) * WHOLE_STEP
    return [first, *takewhile(lambda length: length <= 4 * first, (row_length(first * times) for times in (2, 3, 4)))]


def _grow_trees(sequences: list[tuple[int, int, int]], longer_than: int, at_most: int, largest: int) -> list[Tree]:
    """Trees of at most `largest` tokens of those (request, tokens, tokens shared with the one before) of these sizes.

    Neighbours in sorted order join one tree as long as it fits and they share enough.
    """
    trees: list[Tree] = []
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
                trees.append(Tree(tuple(members), size, depth))
            members, size, depth = [request], tokens, 0
        common, depth = tokens, max(depth, tokens)
    if members:
        trees.append(Tree(tuple(members), size, depth))
    return trees
