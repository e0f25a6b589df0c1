"""The plan algebra: which layers run, in which order, and which of them side by side on one input.

A plan is a frozen, hashable value in one normal form, with a text form that round-trips:

    7            one layer                       0-8          layers 0 to 8 (22-9 counts down)
    0-8 23-31    one after the other             ( ... )      a series as one item
    {9 10}       same input, outputs averaged    sum{9 10}    same input, residual updates added
    x*3          x three times in series        x@0.5        x with its update halved
    7a           the attention of layer 7       7m           its feed-forward
    7m~8         the same, its norm's gain the mean of layers 7's and 8's
    lp{7 8}      both as Layer Parallelism has it: sum{7a 8a} sum{7m~8 8m~7}

`docs/plans.md` describes the language in full.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from jaxpaint.plans import nodes
from jaxpaint.plans.drawing import draw
from jaxpaint.plans.nodes import Layer, Node, Parallel, PlanError, Repeat, Series, Weighted, layer
from jaxpaint.plans.text import clip, parse_nodes, text_of_items


@dataclass(frozen=True)
class Plan:
    """What to run, in normal form: two plans are equal exactly when their texts are.

    Any tree of nodes is accepted and normalised: a series inside a series is spliced into it, a series of one
    item is that item, `x*1` and `x@1` are `x`, `(x*a)*b` is `x*(a*b)` and `(x@a)@b` is `x@(a*b)`. The root alone
    is always a `Series`.
    Layers are not merged into repeats: `5 5` and `5*2` run alike and are different plans.

    Raises:
        PlanError: nested deeper than `MAX_NESTING` brackets, or more than `MAX_COST` layer applications.
    """

    root: Series

    def __post_init__(self) -> None:
        normal = nodes.normalise(self.root)
        object.__setattr__(self, "root", normal if isinstance(normal, Series) else Series((normal,)))
        if nodes.nesting(self.root, series=1) - 1 > nodes.MAX_NESTING:  # the root has no brackets
            raise PlanError(nodes.TOO_DEEP)
        if self.applications > nodes.MAX_COST:
            raise PlanError(nodes.TOO_COSTLY)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read a plan from its text form. Whitespace between symbols is free.

        Raises:
            PlanError: the text is not a plan; it says what was expected and points at the column.
        """
        return cls(parse_nodes(text))

    @classmethod
    def of(cls, *items: Plan | Node | int | Iterable[int]) -> Plan:
        """A series of the items: layer indices, `range`s and other iterables of them, nodes, other plans.

        >>> str(Plan.of(range(9), Repeat(Layer(16), 14), 23))
        '0-8 16*14 23'
        """
        return cls(series(*items))

    def __str__(self) -> str:
        return text_of_items(self.root.items)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers the plan uses, each once, ascending."""
        return tuple(sorted(set(nodes.written_layers(self.root))))

    @cached_property
    def cost(self) -> float:
        """Layer applications in one forward pass, a sublayer half of one."""
        return nodes.cost(self.root)

    @cached_property
    def applications(self) -> int:
        """How often layers and sublayers run: `cost`, where all run whole."""
        return nodes.applications(self.root)

    @cached_property
    def attentions(self) -> int:
        """How often an attention runs: the keys and values that a token leaves behind."""
        return nodes.attentions(self.root)

    @cached_property
    def has_sublayers(self) -> bool:
        """Whether some layer does not run whole."""
        return nodes.has_sublayers(self.root)

    @cached_property
    def shares_norms(self) -> bool:
        """Whether some feed-forward reads through a norm that it shares with another layer's."""
        return nodes.shares_norms(self.root)

    @cached_property
    def depth(self) -> float:
        """Layers on the longest chain: the latency, in layers, if parallel branches truly run at once."""
        return nodes.depth(self.root)

    @cached_property
    def chain_length(self) -> int:
        """How often layers and sublayers run on the longest chain: `depth`, where all run whole."""
        return nodes.chain_length(self.root)

    @cached_property
    def nesting(self) -> int:
        """How deep parallel groups and weights lie within each other; 0 for a series plan."""
        return nodes.nesting(self.root)

    @property
    def is_series(self) -> bool:
        """Whether the plan is one chain of layers and sublayers, with no parallel group and no weights."""
        return self.nesting == 0

    @property
    def is_sequence(self) -> bool:
        """Whether the plan is a mere order of layers, which `sequence` gives."""
        return self.is_series and not self.has_sublayers

    def sequence(self) -> tuple[int, ...]:
        """The layers of a series plan in the order they run, loops unrolled; its length is `cost`.

        Raises:
            PlanError: the plan has a parallel group, a weight, or a sublayer.
        """
        if not self.is_sequence:
            what = "a parallel group" if "{" in str(self) else "a weight" if "@" in str(self) else "a sublayer"
            raise PlanError(f"plan {clip(str(self))} has {what}, so it is no mere order of layers", str(self))
        return tuple(unit.index for unit in nodes.units(self.root) if isinstance(unit, Layer))

    def of_whole_layers(self, what: str) -> Plan:
        """Return the plan itself if no sublayer runs alone. `what` needs that, in words such as "exporting a model".

        Raises:
            PlanError: a sublayer runs.
        """
        if not self.has_sublayers:
            return self
        raise PlanError(f"plan {clip(str(self))} runs sublayers, and {what} takes whole layers only", str(self))

    def validate(self, num_layers: int) -> Plan:
        """Return the plan itself if a model of `num_layers` layers can run it.

        Raises:
            PlanError: a layer is outside the model.
        """
        outside = [index for index in self.layers if index >= num_layers]
        if not outside:
            return self
        which = clip(text_of_items([Layer(index) for index in outside]))
        span = "" if num_layers < 1 else ", 0" if num_layers == 1 else f", 0-{num_layers - 1}"
        raise PlanError(
            f"the plan uses layer{'s' * (len(outside) > 1)} {which}, but the model has "
            f"{num_layers} layer{'s' * (num_layers != 1)}{span}",
            str(self),
        )

    def draw(self, width: int = 80) -> str:
        """The plan as a drawing in box characters, from the input at the top to the output at the bottom.

        `width` is in columns (40 at least). What does not fit is abbreviated and counted.
        """
        return draw(self.root, width)


def series(*items: Plan | Node | int | Iterable[int]) -> Series:
    """A series node of layer indices, `range`s and other iterables of them, nodes and plans."""
    found: list[Node] = []
    for item in items:
        if isinstance(item, Plan):
            found.append(item.root)
        elif isinstance(item, (Layer, Series, Parallel, Repeat, Weighted)):
            found.append(item)
        elif isinstance(item, Iterable):
            found.extend(layer(operator.index(index)) for index in item)
        else:
            found.append(layer(operator.index(item)))
    return Series(tuple(found))
