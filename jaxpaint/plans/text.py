"""The text form of plans: printing nodes, and parsing text into nodes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

from jaxpaint.base.part import Part
from jaxpaint.plans.names import NAME, NamedLayersError, Names, unknown, unnamed
from jaxpaint.plans.nodes import (
    LETTERS,
    MAX_COST,
    MAX_LAYER,
    MAX_NESTING,
    MAX_REPEATS,
    MAX_WEIGHT,
    TOO_COSTLY,
    TOO_DEEP,
    Combine,
    Layer,
    Node,
    Parallel,
    PlanError,
    Repeat,
    Series,
    Weighted,
    layer,
)
from jaxpaint.plans.pasted import SIGNS, SLICE, SPACE, refuse_mergekit, two_numbers


def node_text(node: Node) -> str:
    """The node as one item of a plan's text, a series in parentheses."""
    match node:
        case Layer(index, part, beside):
            return f"{index}{LETTERS[part]}{'' if beside is None else f'~{beside}'}"
        case Series(items):
            return f"({text_of_items(items)})"
        case Parallel(branches, combine):
            return f"{'sum' if combine == 'sum' else ''}{{{text_of_items(branches)}}}"
        case Repeat(body, times):
            return f"{node_text(body)}*{times}"
        case Weighted(body, weight):
            return f"{node_text(body)}@{weight_text(weight)}"


def weight_text(weight: float) -> str:
    """The shortest digits that read back as the weight, without an exponent."""
    digits = format(Decimal(repr(weight)), "f")
    return digits.removesuffix(".0")


def text_of_items(nodes: Sequence[Node]) -> str:
    """The nodes side by side, consecutive layers as ranges."""
    return " ".join(words(nodes))


def words(nodes: Sequence[Node]) -> Iterator[str]:
    """The nodes' texts: one for each, or for a range of three or more consecutive layers, up or down."""
    start = 0
    while start < len(nodes):
        length = max(_run_length(nodes, start, 1), _run_length(nodes, start, -1))
        last = start + length - 1 if length >= 3 else start
        first = nodes[start]
        if last > start and isinstance(first, Layer):
            yield f"{first.index}-{node_text(nodes[last])}"  # a sublayers' letter is written once
        else:
            yield node_text(first)
        start = last + 1


def _run_length(nodes: Sequence[Node], start: int, step: int) -> int:
    first = nodes[start]
    if not isinstance(first, Layer) or first.beside is not None:
        return 1
    stop = start + 1
    while stop < len(nodes):
        node = nodes[stop]
        if not isinstance(node, Layer) or (node.part, node.beside) != (first.part, None):
            break
        if node.index != first.index + step * (stop - start):
            break
        stop += 1
    return stop - start


def clip(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


_PARTS: dict[str, Part] = {letter: part for part, letter in LETTERS.items() if letter}
_AN_ITEM = "a layer such as 7, a range such as 0-8, or a group in ( ) or { }"
_TOKEN = re.compile(r"[0-9]+|[A-Za-z_]+|.", re.DOTALL)
_UNPACKED = re.compile(r"\s*range\b")
_CLOSER = {"(": ")", "{": "}", "[": "]"}
_MINUS = "".join(sign for sign, meant in SIGNS.items() if meant == "-")
_WEIGHT = re.compile(f"([-{_MINUS}]?)([0-9]+(?:[.][0-9]+)?|[.][0-9]+)")


def parse_nodes(text: str, names: Names | None = None) -> Series:
    """The tree that a plan's text stands for, not yet in normal form, with the numbers that named layers have.

    Raises:
        NamedLayersError: the text is a plan with names, and `names` is None.
        PlanError: the text is not a plan, is beyond a limit, or names a layer that is not there.
    """
    refuse_mergekit(text)
    return _Parser(text, names).plan()


def layer_parallel(one: int, other: int) -> tuple[Parallel, Parallel]:
    """Two layers as the released code of Layer Parallelism (arXiv 2502.02790) runs them.

    Both attentions read the input and their updates are added; of the sum both feed-forwards read, through one norm
    whose gain is the mean of theirs, and their updates are added.
    """
    attentions = Parallel((layer(one, "attention"), layer(other, "attention")), "sum")
    return attentions, Parallel((layer(one, "mlp", other), layer(other, "mlp", one)), "sum")


class _Parser:
    """Recursive descent over

    series := item (','? item)*        item := atom ('*' count | '@' weight)*
    atom   := layers | '(' series ')' | '[' layers (','? layers)* ']' | ('sum' | 'lp')? '{' series '}'
    layers := layer | layer '-' layer | 'range' '(' number (',' number)* ')'
    layer  := (name ':')? number ('a' | 'm' ('~' (name ':')? number)?)?
    """

    def __init__(self, text: str, names: Names | None) -> None:
        self.text = text
        self.names = names
        self.has_names = ":" in text
        self.unread: NamedLayersError | None = None  # of the first name, where there are no names
        self.token = ""
        self.start = self.end = 0
        self.advance()

    def advance(self) -> None:
        space = SPACE.match(self.text, self.end)
        self.start = self.end = space.end() if space else self.end
        token = _TOKEN.match(self.text, self.start)
        self.token = token.group() if token else ""
        self.end += len(self.token)
        self.token = SIGNS.get(self.token, self.token)

    def fail(self, message: str, start: int | None = None) -> PlanError:
        return PlanError(message, self.text, (self.start if start is None else start) + 1)

    def expected(self, what: str) -> PlanError:
        found = f"found {clip(self.token, 20)!r}" if self.token else "the plan ends here"
        return self.fail(f"expected {what}, but {found}{SLICE if self.token == ':' else ''}")

    @property
    def at_number(self) -> bool:
        return self.token.isascii() and self.token.isdigit()

    @property
    def at_name(self) -> bool:
        return self.has_names and NAME.match(self.text, self.start) is not None

    def plan(self) -> Series:
        if not self.token:
            raise self.fail(f"the plan is empty: expected {_AN_ITEM}")
        nodes = tuple(self.items("", 0, 0)[0])
        if self.unread is not None:
            raise self.unread
        return Series(nodes)

    def items(self, opener: str, opened_at: int, level: int) -> tuple[list[Node], int]:
        """The items up to the closing bracket (which stays the current token), and their cost."""
        closer = _CLOSER.get(opener, "")
        ending = f"{closer!r} to close the {opener!r} of column {opened_at + 1}" if opener else "the end of the plan"
        nodes: list[Node] = []
        cost, items, comma, commas, names = 0, 0, True, 0, 0
        while self.token != closer or not nodes or (comma and not opener):
            if comma and self.token == "*" and _UNPACKED.match(self.text, self.end):
                self.advance()  # [*range(9), 16]
            at_name = self.at_name
            if opener == "[" and not at_name and self.token in ("(", "[", "{", "sum", "lp"):
                raise self.fail("a list holds layers and ranges alone: write ( ) for a series, { } for side by side")
            if not (self.at_number or at_name or self.token in ("(", "[", "{", "sum", "lp", "range")):
                raise self.expected(_AN_ITEM if comma else f"{_AN_ITEM}, or '*', or '@', or {ending}")
            start = self.start
            more, more_cost = self.item(level)
            cost += more_cost
            if cost > MAX_COST:
                raise self.fail(TOO_COSTLY, start)
            nodes += more
            items += 1
            names += at_name
            comma = self.token == ","
            if comma:
                self.advance()
                commas += self.token != closer
        if opener in ("(", "[") and items == 2 and commas and not names:
            self.refuse_pair(nodes, opened_at)
        return nodes, cost

    def refuse_pair(self, nodes: Sequence[Node], opened_at: int) -> None:
        match nodes:
            case [Layer(first), Layer(second)] if first < second:
                raise self.fail(two_numbers(first, second), opened_at)

    def item(self, level: int) -> tuple[list[Node], int]:
        """One item as the nodes it stands for: several only for a range that is not repeated or weighted."""
        if self.at_number or self.at_name:
            nodes, cost = self.layers()
        else:
            nodes, cost = self.half_open() if self.token == "range" else self.group(level + 1)
        if self.token not in ("*", "@"):
            return nodes, cost
        if len(nodes) > 1 and level == MAX_NESTING:
            raise self.fail(TOO_DEEP)
        node: Node = Series(tuple(nodes))
        while self.token in ("*", "@"):
            if self.token == "*":
                times = self.times(cost)
                node, cost = Repeat(node, times), cost * times
            else:
                level += 1
                if level > MAX_NESTING:
                    raise self.fail(TOO_DEEP)
                node = Weighted(node, self.weight())
        return [node], cost

    def times(self, cost: int) -> int:
        """The product of the repeat counts that follow."""
        times = 1
        while self.token == "*":
            self.advance()
            start = self.start
            times *= self.number("a repeat count such as 3", "the repeat count", MAX_REPEATS)
            if not times:
                raise self.fail("the repeat count is 0: it must be at least 1", start)
            if cost * times > MAX_COST:
                raise self.fail(TOO_COSTLY, start)
        return times

    def weight(self) -> float:
        self.advance()
        found = _WEIGHT.match(self.text, self.start)
        if found is None:
            raise self.expected("a weight such as 0.5")
        sign, digits = found.groups()
        if float(digits) > MAX_WEIGHT:
            raise self.fail(f"the weight {clip(found.group(), 20)} is not between -{MAX_WEIGHT:g} and {MAX_WEIGHT:g}")
        self.end = found.end()
        self.advance()
        return -float(digits) if sign else float(digits)

    def layers(self) -> tuple[list[Node], int]:
        start = self.start
        name = self.name()
        first = self.number("a layer", "layer", MAX_LAYER)
        part = self.part()
        if self.token == "~":
            return [layer(self.place(name, first, start), part, self.other_layer(name, part))], 1
        if self.token != "-":
            return [layer(self.place(name, first, start), part)], 1
        self.advance()
        at_last = self.start
        if self.name() not in ("", name):
            raise self.fail("a range has the layers of one model: write A:0-15 B:16-31", at_last)
        last = self.number("the last layer of the range", "layer", MAX_LAYER)
        part_of_last = self.part()
        if part not in ("whole", part_of_last):
            meant = f"{first}-{last}{LETTERS[part]}"
            raise self.fail(f"the range begins with {part} and ends otherwise: write {meant} for {part} alone", at_last)
        step = 1 if last >= first else -1
        indices: Sequence[int] = range(first, last + step, step)
        if name:
            indices = [self.place(name, index, start) for index in indices]
        nodes: list[Node] = [layer(index, part_of_last) for index in indices]
        return nodes, len(nodes)

    def name(self) -> str:
        """Of the model whose layer follows; "" where none is named."""
        found = NAME.match(self.text, self.start)
        if found is None:
            return ""
        self.end = found.end()
        self.advance()
        if not self.at_number:
            raise self.expected(f"a layer's number after {found[0]}")
        return found[1]

    def place(self, name: str, index: int, start: int) -> int:
        """The number of a layer, which is named as that of a model, or has its number already."""
        if not name:
            return index
        if self.names is None:
            self.unread = self.unread or NamedLayersError(unnamed(f"{name}:{index}"), self.text, start + 1)
            return index
        found = self.names.get(name, {}).get(index)
        if found is None:
            there = text_of_items([layer(each) for each in sorted(self.names.get(name, {}))])
            raise self.fail(unknown(name, index, self.names, clip(there)), start)
        return found

    def other_layer(self, name: str, part: Part) -> int:
        """Whose norm is shared; of the same model, unless it has a name of its own."""
        if part != "mlp":
            raise self.fail("'~' is for feed-forwards that share a norm: write 7m~8")
        self.advance()
        start = self.start
        name = self.name() or name
        return self.place(name, self.number("the layer whose norm is shared", "layer", MAX_LAYER), start)

    def part(self) -> Part:
        """That of the layer just read: its letter follows at once."""
        if self.token.lower() not in _PARTS or self.text[self.start - 1].isspace():
            return "whole"
        part = _PARTS[self.token.lower()]
        self.advance()
        return part

    def half_open(self) -> tuple[list[Node], int]:
        """Python's range, which ends before its last number."""
        began = self.start
        self.advance()
        if self.token != "(":
            raise self.expected("'(' after 'range'")
        numbers: list[int] = []
        while self.token == "," or not numbers:
            self.advance()
            if sign := self.token == "-":
                self.advance()
            number = self.number("a number of range( )", "number", MAX_LAYER + 1)
            numbers.append(-number if sign else number)
        if self.token != ")":
            raise self.expected("',' or ')' in range( )")
        self.advance()
        found = range(*numbers) if len(numbers) < 3 or (len(numbers) == 3 and numbers[2]) else range(0)
        if not found or min(found) < 0 or max(found) > MAX_LAYER:
            written = clip(", ".join(map(str, numbers)), 30)
            raise self.fail(f"range({written}) does not name layers from 0 to {MAX_LAYER}", began)
        nodes: list[Node] = [layer(index) for index in found]
        return nodes, len(nodes)

    def group(self, level: int) -> tuple[list[Node], int]:
        if level > MAX_NESTING:
            raise self.fail(TOO_DEEP)
        name = self.token if self.token in ("sum", "lp") else ""
        if name:
            self.advance()
            if self.token != "{":
                raise self.expected(f"'{{' after '{name}'")
        opener = self.token
        start = self.start
        self.advance()
        nodes, cost = self.items(opener, start, level)
        self.advance()
        if name == "lp":
            match nodes:
                case [Layer(one, "whole"), Layer(other, "whole")]:
                    return list(layer_parallel(one, other)), 2 * cost
            raise self.fail("lp{ } takes two whole layers, such as lp{7 8}", start)
        combine: Combine = "sum" if name else "mean"
        group: Node = Parallel(tuple(nodes), combine) if opener == "{" else Series(tuple(nodes))
        return [group], cost

    def number(self, what: str, name: str, limit: int) -> int:
        if not self.at_number:
            raise self.expected(what)
        digits = self.token.lstrip("0") or "0"
        if len(digits) > len(str(limit)) or int(digits) > limit:
            raise self.fail(f"{name} {clip(digits, 20)} is too large: at most {limit}")
        self.advance()
        return int(digits)
