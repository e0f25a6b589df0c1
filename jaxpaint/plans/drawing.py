"""Plans drawn as text: series from top to bottom, the branches of a parallel group side by side.

A block is a list of lines of one width; the line of the drawing enters and leaves it at column `width // 2`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from jaxpaint.plans.nodes import Node, Parallel, Repeat, Series, Weighted, nesting
from jaxpaint.plans.text import clip, node_text, weight_text, words

# In less than this there is no room for a box or a second branch: a node is written as text.
_MIN_WIDTH = 40
_MAX_ROWS = 12
_ARROW = " → "
_GAP = 2
# What a bar shows where the line of the drawing meets it, by what it shows there otherwise.
_ENTERED = {"╭": "├", "╮": "┤", "┬": "┼", "─": "┴"}
_LEFT = {"╰": "├", "╯": "┤", "┴": "┼", "─": "┬"}


def draw(root: Series, width: int) -> str:
    """The nodes of a plan in normal form as a drawing at most `width` columns wide (but at least 40)."""
    block = _join([["input"], _block(root, max(width, _MIN_WIDTH)), ["output"]])
    return "\n".join(line.rstrip() for line in block)


def _block(node: Node, width: int) -> list[str]:
    if _is_chain(node) and (not isinstance(node, Repeat) or len(node_text(node)) <= width):
        return _chain_block(_items(node), width)
    if width < _MIN_WIDTH and _natural_width(node) > width:
        return [clip(node_text(node), width)]
    match node:
        case Repeat(body, times):
            return _box(_block(body, width - 4), f" {times} times ")
        case Weighted(body):
            return _box(_block(body, width - 4), _weight_title(node))
        case Parallel(branches, combine):
            return _parallel_block(branches, combine, width)
        case _:
            steps = _steps(node)
            shown = steps if len(steps) <= _MAX_ROWS else steps[: _MAX_ROWS - 2]
            blocks = [_block(step, width) for step in shown]
            if len(shown) < len(steps):
                blocks += [[f"… {len(steps) - len(shown) - 1} more …"], _block(steps[-1], width)]
            return _join(blocks)


def _natural_width(node: Node) -> int:
    """The width of the node's drawing where nothing has to be wrapped or abbreviated."""
    if _is_chain(node):
        return len(_ARROW.join(words(_items(node))))
    match node:
        case Repeat(body, times):
            return max(_natural_width(body), len(f" {times} times ") + 1) + 4
        case Weighted(body):
            return max(_natural_width(body), len(_weight_title(node)) + 1) + 4
        case Parallel(branches, combine):
            return max(_total_width([_natural_width(branch) for branch in branches]), len(combine))
        case _:
            return max(map(_natural_width, _steps(node)))


def _weight_title(node: Weighted) -> str:
    return f" update ×{clip(weight_text(node.weight), 12)} "


def _is_chain(node: Node) -> bool:
    return nesting(node) == 0


def _items(node: Node) -> tuple[Node, ...]:
    return node.items if isinstance(node, Series) else (node,)


def _steps(node: Node) -> list[Node]:
    """The items of a series, neighbours that hold no parallel group put together as one."""
    steps: list[Node] = []
    for is_chain, group in groupby(_items(node), key=_is_chain):
        nodes = tuple(group)
        steps += [Series(nodes)] if is_chain else nodes
    return steps


def _total_width(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _chain_block(items: Sequence[Node], width: int) -> list[str]:
    """Layers, ranges and repeats along one line, wrapped."""
    parts = list(words(items))
    if len(_ARROW.join(parts)) <= width:
        return [_ARROW.join(parts)]
    rows: list[list[str]] = [[]]
    room = width
    for word in (clip(part, width - len(_ARROW)) for part in parts):
        if len(word) + len(_ARROW) > room:
            rows.append([])
            room = width
        rows[-1].append(word)
        room -= len(word) + len(_ARROW)
    if len(rows) > _MAX_ROWS:
        hidden = sum(map(len, rows[_MAX_ROWS - 2 : -1]))
        rows[_MAX_ROWS - 2 : -1] = [[clip(f"… {hidden} more", width - len(_ARROW))]]
    lines = [_ARROW.join(row) + _ARROW.rstrip() for row in rows[:-1]] + [_ARROW.join(rows[-1])]
    return _align(lines)


def _parallel_block(branches: Sequence[Node], combine: str, width: int) -> list[str]:
    widths = [_natural_width(branch) for branch in branches]
    if len(branches) == 1:
        return _fork([_block(branches[0], width)], combine)
    if _total_width(widths) <= width:
        blocks = [_block(branch, room) for branch, room in zip(branches, widths, strict=True)]
        return _fork(blocks, combine)
    # As many of the first branches as fit, and the last; those between are counted.
    label = len(f"… {len(branches)} more …") if len(branches) > 2 else -_GAP
    count = 0
    while _total_width([*widths[: count + 1], label, widths[-1]]) <= width:
        count += 1
    if count:
        blocks = [_block(branches[i], widths[i]) for i in (*range(count), -1)]
    else:
        count = 1
        room = width - label - 2 * _GAP
        first, last = widths[0], widths[-1]
        blocks = [
            _block(branches[0], min(first, max(room // 2, room - last))),
            _block(branches[-1], min(last, max(room // 2, room - first))),
        ]
    hidden = len(branches) - count - 1
    if hidden:
        blocks.insert(-1, [f"… {hidden} more …"])
    return _fork(blocks, combine, unconnected=len(blocks) - 2 if hidden else None)


def _fork(blocks: list[list[str]], combine: str, unconnected: int | None = None) -> list[str]:
    """The blocks side by side between two bars; the one numbered `unconnected` only stands between them."""
    if len(blocks) == 1:
        return _join([*blocks, [combine]])
    height = max(map(len, blocks))
    columns: list[list[str]] = []
    centres: list[int] = []
    left = 0
    for number, block in enumerate(blocks):
        width = len(block[0])
        connected = number != unconnected
        if connected:
            centres.append(left + width // 2)
        columns.append(block + _align(["│" if connected else " "], width) * (height - len(block)))
        left += width + _GAP
    total = left - _GAP
    body = [(" " * _GAP).join(parts) for parts in zip(*columns, strict=True)]
    above = _bar(total, centres, "╭┬╮", _ENTERED)
    below = _bar(total, centres, "╰┴╯", _LEFT)
    return _align([above, *body, below, combine])


def _bar(width: int, centres: Sequence[int], marks: str, met: dict[str, str]) -> str:
    first, last = centres[0], centres[-1]
    bar = [" "] * width
    bar[first : last + 1] = "─" * (last + 1 - first)
    for centre in centres:
        bar[centre] = marks[1]
    bar[first], bar[last] = marks[0], marks[2]
    bar[width // 2] = met[bar[width // 2]]
    return "".join(bar)


def _box(block: list[str], title: str) -> list[str]:
    block = _align(block, max(len(block[0]), len(title) + 1))
    inner = len(block[0]) + 2
    return [f"╭─{title.ljust(inner - 1, '─')}╮", *(f"│ {line} │" for line in block), f"╰{'─' * inner}╯"]


def _join(blocks: Sequence[list[str]]) -> list[str]:
    """The blocks below each other, connected."""
    lines = [line for block in blocks for line in ("│", *_align(block))]
    widest = max(map(len, lines))
    return _align(lines[1:], widest)


def _align(lines: Sequence[str], width: int = 0) -> list[str]:
    """Pad the lines to one width, each line's middle column on the block's."""
    width = max(width, *map(len, lines))
    lefts = [width // 2 - len(line) // 2 for line in lines]
    return [" " * left + line + " " * (width - left - len(line)) for left, line in zip(lefts, lines, strict=True)]
