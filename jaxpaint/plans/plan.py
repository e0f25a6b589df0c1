"""The plan algebra: which layers run, in which order, and which of them side by side on one input.

A plan is a frozen, hashable value in one normal form, with a text form that round-trips:

    7            one layer                       0-8          layers 0 to 8 (22-9 counts down)
    0-8 23-31    one after the other             ( ... )      a series as one item
    {9 10}       same input, outputs averaged    sum{9 10}    same input, residual updates added
    x*3          x three times in series        x@0.5        x with its update halved
    7a           the attention of layer 7       7m           its feed-forward
    7m~8         the same, its norm's gain the mean of layers 7's and 8's
    lp{7 8}      both as Layer Parallelism has it: sum{7a 8a} sum{7m~8 8m~7}
    A:0-8 B:3a   layers of a composed model, by the names of those that it has them of

`docs/plans.md` describes the language in full.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, TypeAlias

from jaxpaint.plans import edits, nodes
from jaxpaint.plans.drawing import draw
from jaxpaint.plans.names import Names
from jaxpaint.plans.nodes import Combine, Layer, Node, Parallel, PlanError, Repeat, Series, Weighted, layer
from jaxpaint.plans.text import clip, parse_nodes, text_of_items

if TYPE_CHECKING:
    from jaxpaint.plans.events import Step

EXAMPLE = "jaxpaint.Plan('0-8 {9-22} 23-31'), or of layers jaxpaint.Plan.of(range(9), 16)"


@dataclass(frozen=True, init=False)
class Plan:
    """What to run, in normal form: two plans are equal exactly when their texts are.

    Made of its text, or of any tree of nodes, which is normalised: a series inside a series is spliced into it, a
    series of one item is that item, `x*1` and `x@1` are `x`, `(x*a)*b` is `x*(a*b)` and `(x@a)@b` is `x@(a*b)`. The
    root alone is always a `Series`.
    Layers are not merged into repeats: `5 5` and `5*2` run alike and are different plans.

    Plans are values: what changes one (`without`, `replace`, `repeat`, `parallel`, `+`, `*`) returns another.

    Raises:
        PlanError: a text that is no plan; nested deeper than `MAX_NESTING` brackets, or more than `MAX_COST` layer
            applications.
    """

    root: Series

    def __init__(self, plan: str | Node) -> None:
        if isinstance(plan, str):
            plan = parse_nodes(plan)
        elif not isinstance(plan, (Layer, Series, Parallel, Repeat, Weighted)):
            raise PlanError(f"{_clipped(plan)} is no plan's text; write {EXAMPLE}")
        normal = nodes.normalise(plan)
        object.__setattr__(self, "root", normal if isinstance(normal, Series) else Series((normal,)))
        if nodes.nesting(self.root, series=1) - 1 > nodes.MAX_NESTING:  # the root has no brackets
            raise PlanError(nodes.TOO_DEEP)
        if self.applications > nodes.MAX_COST:
            raise PlanError(nodes.TOO_COSTLY)

    @classmethod
    def parse(cls, text: str, names: Names | None = None) -> Plan:
        """Read a plan from its text form. Whitespace between symbols is free.

        `names` has the numbers of layers with names (`A:3`), as `Model.layer_names` has them; a plan has numbers alone.

        Raises:
            NamedLayersError: a layer has a name, and `names` is None.
            PlanError: the text is not a plan; it says what was expected and points at the column.
        """
        return cls(parse_nodes(text, names))

    @classmethod
    def of(cls, *items: Item) -> Plan:
        """A series of the items: layer indices, `range`s and other iterables of them, nodes, plans and their texts.

        >>> str(Plan.of(range(9), "16*14", 23))
        '0-8 16*14 23'
        """
        return cls(series(*items))

    def __str__(self) -> str:
        return text_of_items(self.root.items)

    def __repr__(self) -> str:
        return f"Plan({str(self)!r})"

    def __len__(self) -> int:
        """How many steps it has: `len(plan.steps)`."""
        return nodes.steps(self.root)

    def __add__(self, other: Item) -> Plan:
        """This plan, then another; or a text, a layer, a `range`."""
        return Plan.of(self, other)

    def __radd__(self, other: Item) -> Plan:
        return Plan.of(other, self)

    def __mul__(self, times: int) -> Plan:
        """The whole plan `times` times in series."""
        return Plan(Repeat(self.root, _whole("times", times)))

    __rmul__ = __mul__

    def without(self, *layers: int) -> Plan:
        """The plan without these layers, wherever they stand, a group's branches and sublayers too.

        >>> str(Plan("0-8 {9-11}").without(3, 4, 10))
        '0-2 5-8 {9 11}'

        Raises:
            PlanError: the plan does not use a layer, or nothing is left.
        """
        self._require(*layers)
        rest = edits.without(self.root, frozenset(layers))
        if rest is None:
            raise PlanError(f"without {_clipped(layers)} nothing is left of plan {clip(str(self))}", str(self))
        return Plan(rest)

    def replace(self, layer: int, by: Item) -> Plan:
        """The plan with `by` in place of a layer, wherever that stands; a sublayer becomes the other layer's.

        >>> str(Plan("0-3 {4 5}").replace(4, "6*2"))
        '0-3 {6*2 5}'

        Raises:
            PlanError: the plan does not use the layer; a sublayer of it runs alone, and `by` is no layer.
        """
        self._require(layer)
        new = Plan.of(by).root.items
        return Plan(edits.replaced(self.root, layer, new[0] if len(new) == 1 else Series(new)))

    def repeat(self, first: int, last: int, times: int = 2) -> Plan:
        """The plan with what runs from layer `first` to layer `last` `times` times in series.

        >>> str(Plan("0-15").repeat(4, 7, times=3))
        '0-3 (4-7)*3 8-15'

        Raises:
            PlanError: one of the two is not exactly one step of the plan's own series, or they run the other way round.
        """
        return Plan(edits.repeated(self.root, _whole("first", first), _whole("last", last), _whole("times", times)))

    def parallel(self, first: int, last: int, combine: Combine = "mean") -> Plan:
        """The plan with what runs from layer `first` to layer `last` side by side on one input.

        Their outputs are averaged, or with `combine` "sum" their updates are added. Errors as `repeat`.

        >>> str(Plan("0-31").parallel(9, 22))
        '0-8 {9-22} 23-31'
        """
        return Plan(edits.side_by_side(self.root, _whole("first", first), _whole("last", last), combine))

    def _require(self, *layers: int) -> None:
        for each in layers:
            if _whole("layer", each) not in self.layers:
                raise PlanError(f"plan {clip(str(self))} does not use layer {each}", str(self))

    @property
    def steps(self) -> tuple[Step, ...]:
        """What runs one after the other, repeats unrolled: layers, and parallel groups as a whole."""
        from jaxpaint.plans import events

        return events.steps(self)

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

    def _repr_svg_(self) -> str:
        from jaxpaint.plans.picture import svg

        return svg(self.root)

    def _repr_html_(self) -> str:
        said = f"<code>{escape(clip(str(self), 200))}</code> &nbsp; cost {self.cost:g}, depth {self.depth:g}"
        return f'<div>{self._repr_svg_()}<div style="margin-top: 4px">{said}</div></div>'


Item: TypeAlias = "Plan | Node | str | int | Iterable[int]"
"""What a plan is put together of: layers' indices, `range`s and other iterables of them, nodes, plans, their texts."""


def series(*items: Item) -> Series:
    """A series node of the items. Raises PlanError for one that is none."""
    found: list[Node] = []
    for item in items:
        if isinstance(item, Plan):
            found.append(item.root)
        elif isinstance(item, (Layer, Series, Parallel, Repeat, Weighted)):
            found.append(item)
        elif isinstance(item, str):
            found.append(parse_nodes(item))
        elif isinstance(item, Iterable):
            found.extend(layer(_whole("layer", index)) for index in item)
        else:
            found.append(layer(_whole("layer", item)))
    return Series(tuple(found))


def _whole(name: str, value: object) -> int:
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise PlanError(f"{name} is {_clipped(value)}; expected a whole number") from None


def _clipped(value: object) -> str:
    return clip(repr(value))
