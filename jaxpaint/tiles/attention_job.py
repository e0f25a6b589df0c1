"""Attention as a job: of queries to the keys of several parts under one softmax, which stay out of memory.

A running softmax over blocks of keys (FlashAttention, arXiv 2205.14135), in float32. Blocks of which no query sees a
key are passed over. A share is of some queries of all heads that read the same keys.
"""

from __future__ import annotations

from numba import types

from jaxpaint.tiles.attention_vectors import (
    OF_PAIRS,
    ROWS,
    VECTORS,
    divide,
    fill,
    mix,
    mix_pairs,
    pair_rows,
    pair_weights,
    score,
    score_pairs,
    soften,
    widen_row,
)
from jaxpaint.tiles.frame import argument, arguments, axes, data, item, result, size
from jaxpaint.tiles.instructions import clear_row, copy_row, narrow_row
from jaxpaint.tiles.job import ATTENTION, OWN, new_job
from jaxpaint.tiles.native import compiled, read, read_byte, read_word, write, write_byte
from jaxpaint.tiles.vectors import turn

QUERY, SCALE, OUT, ITEM, BATCH, LENGTH, HEADS, HEAD_DIM, GROUPS, HIGH, PARTS = range(OWN, OWN + 88, 8)
OWN_BYTES = 88
# Of a part. What its keys are seen by is a mask, or where each is last seen, their positions and a window.
KEY, VALUE, SEEN_BY, BY_MASK, ROWS_OF_KEYS, KEYS = range(0, 48, 8)
PART_BYTES = 48
FLOAT, NARROW, WORD, VECTOR, LINE = 4, 2, 4, 16, 64  # bytes of numbers, numbers of a vector, its bytes
LANES = VECTORS * VECTOR  # queries of a block
MASK_AXES = 4
BLOCK = 96  # keys
MOST_BLOCKS = 12  # of queries in a share
# Of what a block of queries sees of one of keys: the first and last key, whether each sees all between, bytes of each.
FIRST, LAST, WHOLE, VISIBLE = 0, 8, 16, 64
SEEN_BYTES = VISIBLE + BLOCK * LANES + LINE


@compiled(types.int64, types.int64, result=types.int64)
def attention_job(frame: int, threads: int) -> int:
    """What the frame asks for; 0 without memory."""
    query, parts = argument(frame, 0), (arguments(frame) - 2) // 3
    batch, length, heads, head_dim = size(query, 0), size(query, 1), size(query, 2), size(query, 3)
    groups = size(argument(frame, 2), 1)
    blocks = max(1, MOST_BLOCKS // (heads // groups))
    high = min(blocks * LANES, -(-length // VECTOR) * VECTOR)
    shares = batch * groups * -(-length // high)
    each = heads // groups * -(-high // LANES) * LANES
    scratch = FLOAT * (each * (2 * head_dim + 3) + BLOCK * (2 * head_dim + LANES) + VECTOR * head_dim)
    scratch += -(-high // LANES) * SEEN_BYTES
    job = new_job(ATTENTION, OWN_BYTES + parts * PART_BYTES, shares, threads, scratch)
    if job == 0:
        return job
    write(job + QUERY, data(query))
    write(job + SCALE, data(argument(frame, 1)))
    write(job + OUT, data(result(frame)))
    write(job + ITEM, item(query))
    write(job + BATCH, batch)
    write(job + LENGTH, length)
    write(job + HEADS, heads)
    write(job + HEAD_DIM, head_dim)
    write(job + GROUPS, groups)
    write(job + HIGH, high)
    write(job + PARTS, parts)
    for number in range(parts):
        part = job + OWN + OWN_BYTES + number * PART_BYTES
        key = argument(frame, 2 + 3 * number)
        write(part + KEY, data(key))
        write(part + VALUE, data(argument(frame, 3 + 3 * number)))
        write(part + SEEN_BY, data(argument(frame, 4 + 3 * number)))
        write(part + BY_MASK, axes(argument(frame, 4 + 3 * number)) == MASK_AXES)
        write(part + ROWS_OF_KEYS, size(key, 0))
        write(part + KEYS, size(key, 2))
    return job


@compiled(*[types.int64] * 4)
def _read_row(source: int, target: int, count: int, item: int) -> None:
    """A multiple of sixteen numbers, as float32."""
    for start in range(0, count, VECTOR):
        if item == FLOAT:
            copy_row(source + start * FLOAT, target + start * FLOAT)
        else:
            widen_row(source + start * item, target + start * FLOAT)


@compiled(*[types.int64] * 4)
def _write_row(source: int, target: int, count: int, item: int) -> None:
    for start in range(0, count, VECTOR):
        if item == FLOAT:
            copy_row(source + start * FLOAT, target + start * FLOAT)
        else:
            narrow_row(source + start * FLOAT, target + start * item)


@compiled(*[types.int64] * 8)
def _side_by_side(
    source: int, stride: int, rows: int, head_dim: int, item: int, target: int, step: int, some: int
) -> None:
    """Of rows, at most as many as go side by side, the first numbers, then the second ones `step` bytes further.

    `some` is memory for four rows.
    """
    for row in range(0, rows, 4):
        at, apart = source + row * stride, stride
        if rows - row < 4 or item != FLOAT:
            for each in range(4):
                _read_row(source + min(row + each, rows - 1) * stride, some + each * head_dim * FLOAT, head_dim, item)
            at, apart = some, head_dim * FLOAT
        for start in range(0, head_dim, VECTOR):
            turn(at + start * FLOAT, apart, target + start * step + row * FLOAT, step)


@compiled(*[types.int64] * 4)
def _pair_rows(source: int, rows: int, count: int, target: int) -> None:
    """Of rows of bfloat16 words of two, from one row and the next; the last may be its own next."""
    for row in range(0, rows, 2):
        one = source + row * count * NARROW
        other = source + min(row + 1, rows - 1) * count * NARROW
        for start in range(0, count, VECTOR):
            at = target + (row // 2 * count + start) * WORD
            pair_rows(one + start * NARROW, other + start * NARROW, at)


@compiled(*[types.int64] * 3)
def _pair_weights(scores: int, step: int, keys: int) -> None:
    """Words of two weights, in place; beyond the last is none."""
    for lane in range(0, step, LINE):
        if keys % 2:
            clear_row(scores + keys * step + lane)
        for key in range(0, keys, 2):
            at = scores + key * step + lane
            pair_weights(at, at + step, scores + key // 2 * step + lane)


@compiled(*[types.int64] * 5)
def _see(mask: int, stride: int, queries: int, keys: int, seen: int) -> None:
    """Which of the keys the queries see, from `FIRST` until `LAST`, and where not all, bytes for each at `VISIBLE`."""
    every = seen + VISIBLE  # what any of the queries sees, until bytes go there
    for key in range(0, BLOCK, 8):
        write(every + key, 0)
    count = 0
    for query in range(queries):
        at = mask + query * stride
        for key in range(0, keys - 7, 8):
            word = read(at + key)
            write(every + key, read(every + key) | word)
            # Bytes are 0 or 1: their sum is in the highest byte of the product.
            count += (word * 0x0101010101010101) >> 56
        for key in range(keys // 8 * 8, keys):
            byte = read_byte(at + key)
            write_byte(every + key, read_byte(every + key) | byte)
            count += byte
    first, last = 0, keys
    while last > 0 and read_byte(every + last - 1) == 0:
        last -= 1
    while first < last and read_byte(every + first) == 0:
        first += 1
    first = first // ROWS * ROWS
    write(seen + FIRST, first)
    write(seen + LAST, last)
    write(seen + WHOLE, count == queries * (last - first))
    if last == 0 or read(seen + WHOLE):
        return
    width = -(-queries // VECTOR) * VECTOR
    for at in range(0, width * (last - first) // LINE * LINE + LINE, LINE):
        clear_row(every + at)
    for query in range(queries):
        for key in range(first, last):
            write_byte(every + (key - first) * width + query, read_byte(mask + query * stride + key))


@compiled(*[types.int64] * 3, result=types.int64)
def _most(numbers: int, first: int, last: int) -> int:
    found = read_word(numbers + first * WORD)
    for each in range(first + 1, last):
        found = max(found, read_word(numbers + each * WORD))
    return found


@compiled(*[types.int64] * 3, result=types.int64)
def _least(numbers: int, first: int, last: int) -> int:
    found = read_word(numbers + first * WORD)
    for each in range(first + 1, last):
        found = min(found, read_word(numbers + each * WORD))
    return found


@compiled(*[types.int64] * 7)
def _see_by_ends(ends: int, tokens: int, query: int, queries: int, key: int, keys: int, seen: int) -> None:
    """As `_see`, of tokens that are one stream: key j is seen by query i when `j <= i < ends[j]`, and in the window.

    After the ends come the tokens' positions, and then the window, of which each distance of positions is below.
    """
    positions, window = ends + tokens * WORD, read_word(ends + 2 * tokens * WORD)
    first, last = 0, max(0, min(keys, query + queries - key))
    while last > 0 and read_word(ends + (key + last - 1) * WORD) <= query:
        last -= 1
    while first < last and read_word(ends + (key + first) * WORD) <= query:
        first += 1
    first = first // ROWS * ROWS
    low, high, after = key + first, key + last, query + queries
    write(seen + FIRST, first)
    write(seen + LAST, 0)
    if last == 0 or _least(positions, query, after) - _most(positions, low, high) >= window:
        return
    within = _most(positions, query, after) - _least(positions, low, high) < window
    whole = within and high <= query + 1 and _least(ends, low, high) >= after
    write(seen + LAST, last)
    write(seen + WHOLE, whole)
    if whole:
        return
    width = -(-queries // VECTOR) * VECTOR
    for at in range(0, width * (last - first) // LINE * LINE + LINE, LINE):
        clear_row(seen + VISIBLE + at)
    for own in range(query, after):
        place = read_word(positions + own * WORD)
        for other in range(low, min(high, own + 1)):
            near = place - read_word(positions + other * WORD) < window
            visible = near and own < read_word(ends + other * WORD)
            write_byte(seen + VISIBLE + (other - low) * width + own - query, visible)


@compiled(types.int64, types.int64, types.int64)
def attend(job: int, share: int, scratch: int) -> None:
    """One share: the last queries, which see the most keys, are begun first."""
    length, heads, head_dim, groups = (
        read(job + LENGTH),
        read(job + HEADS),
        read(job + HEAD_DIM),
        read(job + GROUPS),
    )
    high, item, scale = read(job + HIGH), read(job + ITEM), read(job + SCALE)
    # Numbers of a row that are multiplied at once with one another, and bytes of each: words of two where vectors can.
    pairs = OF_PAIRS and item != FLOAT and head_dim % (2 * VECTOR) == 0
    width, kind = head_dim, item
    if pairs:
        width, kind = head_dim // 2, WORD
    across = -(-length // high)
    first = (across - 1 - share // (read(job + BATCH) * groups)) * high
    batch, group = share % (read(job + BATCH) * groups) // groups, share % groups
    count, shared = min(high, length - first), heads // groups
    blocks = -(-count // LANES)
    block_bytes, state_bytes = LANES * head_dim * FLOAT, 3 * LANES * FLOAT
    turned = scratch
    mixed = turned + shared * blocks * block_bytes
    states = mixed + shared * blocks * block_bytes
    keys = states + shared * blocks * state_bytes
    values = keys + BLOCK * head_dim * FLOAT
    scores = values + BLOCK * head_dim * FLOAT
    some = scores + BLOCK * LANES * FLOAT
    all_seen = some + VECTOR * head_dim * FLOAT
    query_stride = heads * head_dim * item
    queries = read(job + QUERY) + (batch * length + first) * query_stride + group * shared * head_dim * item
    for at in range(turned, states, LINE):
        clear_row(at)
    for number in range(shared * blocks):
        block, own = number % blocks, queries + number // blocks * head_dim * item
        inside = min(LANES, count - block * LANES)
        step = -(-inside // VECTOR) * LINE
        own += block * LANES * query_stride
        _side_by_side(own, query_stride, inside, width, kind, turned + number * block_bytes, step, some)
        for lane in range(0, LANES * FLOAT, LINE):
            fill(states + number * state_bytes + lane)
            clear_row(states + number * state_bytes + LANES * FLOAT + lane)
    for number in range(read(job + PARTS)):
        part = job + OWN + OWN_BYTES + number * PART_BYTES
        many, row = read(part + KEYS), batch
        if read(part + ROWS_OF_KEYS) == 1:
            row = 0
        offset = (row * groups + group) * many * head_dim * item
        by, by_mask = read(part + SEEN_BY), read(part + BY_MASK)
        mask = by + (batch * length + first) * many
        for start in range(0, many, BLOCK):
            near = min(BLOCK, many - start)
            last = 0
            for block in range(blocks):
                seen = all_seen + block * SEEN_BYTES
                inside = min(LANES, count - block * LANES)
                if by_mask:
                    _see(mask + block * LANES * many + start, many, inside, near, seen)
                else:
                    _see_by_ends(by, many, first + block * LANES, inside, start, near, seen)
                last = max(last, read(seen + LAST))
            if last == 0:
                continue
            near = last
            at = read(part + KEY) + offset + start * head_dim * item
            for key in range(0, near, ROWS):
                few = min(ROWS, near - key)
                own = keys + key * width * FLOAT
                _side_by_side(at + key * head_dim * item, head_dim * item, few, width, kind, own, ROWS * FLOAT, some)
            values_at = read(part + VALUE) + offset + start * head_dim * item
            if pairs:
                _pair_rows(values_at, near, head_dim, values)
            elif item != FLOAT:
                _read_row(values_at, values, near * head_dim, item)
                values_at = values
            for each in range(shared * blocks):
                block = each % blocks
                seen = all_seen + block * SEEN_BYTES
                low, keys_seen = read(seen + FIRST), read(seen + LAST) - read(seen + FIRST)
                if read(seen + LAST) == 0:
                    continue
                vectors = -(-min(LANES, count - block * LANES) // VECTOR)
                step = vectors * LINE
                own, state = turned + each * block_bytes, states + each * state_bytes
                for key in range(0, keys_seen, ROWS):
                    left = keys + (low + key) * width * FLOAT
                    if pairs:
                        score_pairs(vectors, left, ROWS * FLOAT, own, width, scores + key * step, 0)
                    else:
                        score(vectors, left, ROWS * FLOAT, own, width, scores + key * step, 0)
                for vector in range(vectors):
                    visible = 0
                    if not read(seen + WHOLE):
                        visible = seen + VISIBLE + vector * VECTOR
                    lane = vector * LINE
                    soften(
                        scores + lane, step, visible, vectors * VECTOR, keys_seen, scale, state + lane, LANES * FLOAT
                    )
                shrunk, to = state + 2 * LANES * FLOAT, mixed + each * block_bytes
                if pairs:
                    _pair_weights(scores, step, keys_seen)
                    own, deep = values + low // 2 * head_dim * WORD, (keys_seen + 1) // 2
                    for place in range(0, head_dim, ROWS):
                        left = own + place * WORD
                        mix_pairs(vectors, left, head_dim * WORD, scores, deep, to + place * step, shrunk)
                else:
                    own = values_at + low * head_dim * FLOAT
                    for place in range(0, head_dim, ROWS):
                        left = own + place * FLOAT
                        mix(vectors, left, head_dim * FLOAT, scores, keys_seen, to + place * step, shrunk)
    out = read(job + OUT) + (batch * length + first) * query_stride + group * shared * head_dim * item
    for number in range(shared * blocks):
        block = number % blocks
        inside = min(LANES, count - block * LANES)
        step = -(-inside // VECTOR) * LINE
        for vector in range(-(-inside // VECTOR)):
            lane = vector * LINE
            own = mixed + number * block_bytes + lane
            for place in range(head_dim):
                divide(own + place * step, states + number * state_bytes + LANES * FLOAT + lane)
            for place in range(0, head_dim, 4):
                turn(own + place * step, step, some + place * FLOAT, head_dim * FLOAT)
            for each in range(min(VECTOR, inside - vector * VECTOR)):
                query = block * LANES + vector * VECTOR + each
                to = out + number // blocks * head_dim * item + query * query_stride
                _write_row(some + each * head_dim * FLOAT, to, head_dim, item)
