"""How prompts are prefilled: what all of them share once, the rest side by side without padding.

The longest beginning that all prompts share is the *trunk*, the rest of a prompt its *own* part. Both are laid out in
chunks of one size: the trunk's pieces one after the other, then own parts packed into chunks, each seeing the trunk and
itself. A *wave* is as many prompts as memory has room for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from jaxpaint.base.errors import UserError
from jaxpaint.engine.grouping import best_fit, row_length, shared_prefix

# Sharing fewer tokens than this saves less than the room that a trunk is rounded up to.
SMALLEST_TRUNK = 32


@dataclass(frozen=True)
class Shape:
    """Sizes that executables are compiled for.

    `slots` executed layer instances have keys and values each: of `chunks` times `chunk` prefilled tokens, the first
    `trunk` of them the trunk's, and of `rows` texts under way, each with `own` tokens of its prompt and `made` written.
    """

    slots: int
    chunk: int
    trunk: int
    chunks: int
    rows: int
    own: int
    made: int

    @property
    def stored(self) -> int:
        """Tokens whose keys are stored; room to read a whole `own` part from any place."""
        return self.chunks * self.chunk + self.own


@dataclass(frozen=True)
class Wave:
    """Prompts prefilled together, and the chunks that this takes, [chunks, chunk] each; the trunk's come first.

    `visible_until` is as in `jaxpaint.models.attention.visibility`; `trunk_seen` counts the trunk's tokens that a
    chunk sees. `starts` are the places of the prompts' own parts among the stored tokens.
    """

    prompts: tuple[int, ...]
    starts: Int[np.ndarray, " prompts"]
    tokens: Int[np.ndarray, "chunks chunk"]
    positions: Int[np.ndarray, "chunks chunk"]
    visible_until: Int[np.ndarray, "chunks chunk"]
    trunk_seen: Int[np.ndarray, " chunks"]


@dataclass(frozen=True)
class Layout:
    """All prompts in waves of one shape. `trunk` counts the shared tokens."""

    shape: Shape
    trunk: int
    waves: tuple[Wave, ...]


def lay_out(
    prompts: Sequence[tuple[int, ...]],
    most_new_tokens: int,
    *,
    slots: int,
    chunk_tokens: int,
    batch_size: int,
    token_bytes: int,
    cache_bytes: int,
    least_rows: int = 1,
) -> Layout:
    """Waves of prompts (token ids to prefill, perhaps none) whose cache takes at most `cache_bytes`.

    `chunk_tokens` bounds a chunk, but a prompt's own part is never cut; `token_bytes` are those of a token's keys and
    values in one slot. At least `least_rows` rows run at once, fewer than `batch_size` where memory has no
    room for more.

    Raises:
        UserError: not even one prompt at a time fits.
    """
    trunk = shared_prefix(min(prompts), max(prompts)) if len(prompts) > 1 else 0
    trunk = trunk if trunk >= SMALLEST_TRUNK else 0
    sizes = [len(prompt) - trunk for prompt in prompts]
    own = _rounded(max(sizes))
    made = _rounded(most_new_tokens)

    rows = row_length(min(batch_size, len(prompts)), smallest=least_rows)
    columns = cache_bytes // (slots * token_bytes)
    # A text under way takes room twice: prefilled, and in its row. Half for either.
    while rows > 1 and rows * (own + made) > columns // 2:
        rows //= 2
    most = max(own, chunk_tokens)
    while True:
        chunk = _chunk(trunk, sizes, most)
        pieces = -(-trunk // chunk)
        room = (columns - rows * (own + made) - own) // chunk - pieces
        if room >= 1 or chunk == own:
            break
        most = max(own, chunk // 2)
    bins = best_fit(sizes, chunk)
    if room < 1:
        needed = ((pieces + 1) * chunk + own + own + made) * slots * token_bytes
        raise UserError(
            f"keys and values of one prompt of {max(map(len, prompts)) + 1} tokens and {most_new_tokens} new ones in "
            f"{slots} layers take {needed / 2**30:.2g} GiB, more than the {cache_bytes / 2**30:.2g} GiB set aside; "
            "shorten the prompt or the answer, run fewer layers, or use --dtype bfloat16"
        )
    at_once = -(-len(bins) // -(-len(bins) // room))  # waves of about equal size
    shape = Shape(slots, chunk, pieces * chunk, pieces + at_once, rows, own, made)
    waves = [
        _wave(prompts, bins[first : first + at_once], trunk, shape) for first in range(0, max(1, len(bins)), at_once)
    ]
    return Layout(shape, trunk, tuple(waves))


def _chunk(trunk: int, sizes: Sequence[int], most: int) -> int:
    """The smallest chunk that needs as few chunks as the largest would."""
    fewest = -(-trunk // most) + len(best_fit(sizes, most))
    chunk = max(_rounded(max(sizes)), _rounded(-(-(trunk + sum(sizes)) // fewest)))
    while chunk < most and -(-trunk // chunk) + len(best_fit(sizes, chunk)) > fewest:
        chunk = _rounded(chunk + 1)
    return min(chunk, most)


def _rounded(tokens: int) -> int:
    """Up by at most a sixteenth, or to 16: few different sizes, for few executables."""
    step = max(16, 1 << max((tokens - 1).bit_length() - 5, 0)) if tokens else 16
    return max(16, -(-tokens // step) * step)


def _wave(prompts: Sequence[tuple[int, ...]], bins: Sequence[Sequence[int]], trunk: int, shape: Shape) -> Wave:
    pieces = shape.trunk // shape.chunk
    size = (pieces + len(bins), shape.chunk)
    tokens, positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
    visible_until = np.tile(np.arange(1, shape.chunk + 1, dtype=np.int32), (size[0], 1))
    trunk_seen = np.full(size[0], trunk, np.int32)
    for piece in range(pieces):
        first = piece * shape.chunk
        part = prompts[0][first : min(first + shape.chunk, trunk)]
        tokens[piece, : len(part)] = part
        positions[piece, : len(part)] = range(first, first + len(part))
        visible_until[piece, : len(part)] = len(part)
        trunk_seen[piece] = first
    chosen, starts = [], []
    for number, members in enumerate(bins, pieces):
        end = 0
        for prompt in members:
            part = prompts[prompt][trunk:]
            here = slice(end, end + len(part))
            tokens[number, here] = part
            positions[number, here] = range(trunk, trunk + len(part))
            visible_until[number, here] = here.stop
            chosen.append(prompt)
            starts.append(number * shape.chunk + end)
            end = here.stop
    # Long prompts tend to have long answers: they go first, so that none is left over alone at the end.
    order = sorted(range(len(chosen)), key=lambda i: -len(prompts[chosen[i]]))
    return Wave(
        tuple(chosen[i] for i in order),
        np.array([starts[i] for i in order], np.int32),
        tokens,
        positions,
        visible_until,
        trunk_seen,
    )
