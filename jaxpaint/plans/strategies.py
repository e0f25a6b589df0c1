"""Families of plans: every strategy of "Transformer Layers as Painters" (arXiv 2407.09298), and neighbours.

For a model of T layers (`num_layers`), a start layer s leaves the layers 0 ... s and T-s ... T-1 as they are
and changes the *middle* between them, s+1 ... T-s-1; it has M = T - 2s - 1 layers, at least one.
Where a value is out of range, every function here raises `UserError`.
"""

from __future__ import annotations

import difflib
import itertools
import math
import random
from collections import ChainMap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.plans.nodes import MAX_LAYER
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, series
from jaxpaint.plans.proposals import MEASURED
from jaxpaint.plans.strategy import Strategy
from jaxpaint.plans.text import layer_parallel
from jaxpaint.plans.tree import units


def full(num_layers: int) -> Plan:
    """Every layer in order: the baseline."""
    return Plan.of(_layers(num_layers))


def skip(num_layers: int, start: int) -> Plan:
    """The middle left out (figure 4)."""
    return _around(num_layers, start)


def middle_repeat(num_layers: int, start: int) -> Plan:
    """Layer T // 2 in place of each middle layer (figure 5)."""
    times = len(_middle(num_layers, start))
    return _around(num_layers, start, Repeat(Layer(num_layers // 2), times))


def reverse(num_layers: int, start: int) -> Plan:
    """The middle backwards (figure 6)."""
    return _around(num_layers, start, series(reversed(_middle(num_layers, start))))


def random_order(num_layers: int, start: int, seed: int) -> Plan:
    """The middle as CPython's `random.seed(seed); random.shuffle(middle)` orders it (figure 7)."""
    middle = list(_middle(num_layers, start))
    if not 0 <= seed < 2**32:  # Python takes others, and -1 is the same as 1
        raise UserError(f"seed {seed} is out of range: 0 to 2^32 - 1")
    random.Random(seed).shuffle(middle)
    return _around(num_layers, start, series(middle))


def parallel(num_layers: int, start: int) -> Plan:
    """Every middle layer on the same input, the outputs averaged (figure 8)."""
    return _around(num_layers, start, _averaged(_middle(num_layers, start)))


def looped_parallel(num_layers: int, start: int, iterations: int = 3) -> Plan:
    """The parallel middle, its mean fed back, `iterations` times (figure 9; figure 10 sweeps 1 to 28)."""
    return _around(num_layers, start, _loop(_averaged(_middle(num_layers, start)), "iterations", iterations))


def block_repeat(num_layers: int, start: int, times: int = 2) -> Plan:
    """The middle in order, `times` times (section A.6: double and triple repeat)."""
    return _around(num_layers, start, _loop(series(_middle(num_layers, start)), "times", times))


def repeat_block(num_layers: int, first: int, last: int) -> Plan:
    """The layers `first` to `last` once more after themselves, wherever they stand.

    RYS ("LLM Neuroanatomy", dnhkng.github.io 2026) scores all of them, and finds blocks that make a model better.
    """
    _check("first", first, range(len(_layers(num_layers))), num_layers)
    _check("last", last, range(first, num_layers), num_layers)
    return Plan.of(range(last + 1), range(first, num_layers))


def parallel_pairs(num_layers: int, start: int) -> Plan:
    """The middle in pairs of whole layers, their updates summed; an odd last layer alone.

    After an idea of Layer Parallelism (arXiv 2502.02790), whose released code computes something else:
    `layer_parallelism`.
    """
    middle = _middle(num_layers, start)
    pairs: list[Node] = [
        Parallel((Layer(first), Layer(second)), "sum") for first, second in zip(middle[::2], middle[1::2], strict=False)
    ]
    if len(middle) % 2:
        pairs.append(Layer(middle[-1]))
    return _around(num_layers, start, *pairs)


def layer_parallelism(num_layers: int, start: int) -> Plan:
    """The middle in pairs, attentions and then feed-forwards summed, as Layer Parallelism's released code does.

    arXiv 2502.02790 (`jaxpaint.plans.text.layer_parallel`); an odd last layer alone.
    """
    middle = _middle(num_layers, start)
    pairs = zip(middle[::2], middle[1::2], strict=False)
    halves = itertools.chain.from_iterable(itertools.starmap(layer_parallel, pairs))
    return _around(num_layers, start, *halves, *(Layer(index) for index in middle[len(middle) // 2 * 2 :]))


def skip_attention(num_layers: int, start: int) -> Plan:
    """The middle's feed-forwards alone: its attentions left out."""
    return _around(num_layers, start, *(Layer(index, "mlp") for index in _middle(num_layers, start)))


def skip_mlp(num_layers: int, start: int) -> Plan:
    """The middle's attentions alone: its feed-forwards left out."""
    return _around(num_layers, start, *(Layer(index, "attention") for index in _middle(num_layers, start)))


def skip_one(num_layers: int, layer: int) -> Plan:
    """Every layer but `layer` (figure 2)."""
    _check("layer", layer, _choices("skip-one", "layer", num_layers), num_layers)
    return Plan.of(index for index in range(num_layers) if index != layer)


def switch(num_layers: int, layer: int) -> Plan:
    """Layers `layer` and `layer` + 1 swapped (figure 2)."""
    _check("layer", layer, _choices("switch", "layer", num_layers), num_layers)
    return Plan.of(range(layer), layer + 1, layer, range(layer + 2, num_layers))


_ENTRIES = (
    Strategy("full", full, "full model", ("black", "o", "-"), figure="2", affected=0),
    Strategy("skip", skip, "skip", ("orange", "s", "--"), "4", ranked=True, trades=True),
    Strategy("middle-repeat", middle_repeat, "middle repeat", ("vermillion", "X", ":"), "5", ranked=True),
    Strategy("reverse", reverse, "reverse", ("purple", "v", "-."), "6", ranked=True),
    Strategy("random", random_order, "random order", ("sky", "D", "-"), "7", ranked=True),
    Strategy("parallel", parallel, "parallel", ("green", "^", "--"), "8", ranked=True, trades=True),
    Strategy("looped-parallel", looped_parallel, "looped parallel", ("blue", "o", "-"), "9", ranked=True, trades=True),
    Strategy("block-repeat", block_repeat, "block repeat", ("yellow", "P", "-."), "17", trades=True),
    Strategy("repeat-block", repeat_block, "repeat a block", ("vermillion", "d", ":"), trades=True),
    Strategy("parallel-pairs", parallel_pairs, "parallel pairs", ("black", "h", ":"), trades=True),
    Strategy("layer-parallelism", layer_parallelism, "layer parallelism", ("black", "d", "-."), trades=True),
    Strategy("skip-attention", skip_attention, "skip attention", ("sky", "P", ":"), trades=True),
    Strategy("skip-mlp", skip_mlp, "skip feed-forwards", ("vermillion", "v", "-."), trades=True),
    Strategy("skip-one", skip_one, "skip one", ("orange", "s", "--"), "2", affected=1),
    Strategy("switch", switch, "switch with the next", ("green", "^", "-"), "2", affected=2),
)
MAX_PLANS = 100_000
"""Of one study; the paper's has some thousands."""

_BY_NAME = {entry.name: entry for entry in _ENTRIES}
STRATEGIES: Mapping[str, Strategy] = MappingProxyType(_BY_NAME)
"""The strategies by the names the command line uses."""
EVERY: Mapping[str, Strategy] = ChainMap(dict(MEASURED), _BY_NAME)
"""These, and after them those that propose plans from measurements (`jaxpaint.plans.proposals`)."""

CUSTOM = "custom"
OWN = Strategy(CUSTOM, Plan, "own plan", ("grey", "*", "none"), trades=True)
"""What reports say of plans of someone's own; no strategy that could be asked for."""


def entry(name: str) -> Strategy:
    """The strategy called `name`, also of a store's, where it may be `CUSTOM` or of another version."""
    return OWN if name == CUSTOM else EVERY.get(name, Strategy(name, Plan, name))


def ranked() -> tuple[str, ...]:
    """The strategies that the paper ranks by the harm they do."""
    return tuple(name for name, strategy in STRATEGIES.items() if strategy.ranked)


def beyond_paper() -> tuple[str, ...]:
    """The strategies that the paper does not have."""
    return tuple(name for name, strategy in EVERY.items() if not strategy.in_paper)


def taking(option: str) -> tuple[str, ...]:
    """The strategies that take an option, such as "start"."""
    return tuple(name for name, strategy in EVERY.items() if option in strategy.options)


@dataclass(frozen=True)
class Variant:
    """One plan of a strategy, with the options that made it; those the strategy does not take are None.

    A plan of someone's own has the strategy "custom" and no options.
    """

    strategy: str
    plan: Plan
    num_layers: int
    start: int | None = None
    seed: int | None = None
    iterations: int | None = None
    times: int | None = None
    layer: int | None = None
    count: int | None = None
    first: int | None = None
    last: int | None = None

    @property
    def affected(self) -> int | None:
        """How many layers the strategy changes: M for those with a start. None for a plan of someone's own."""
        if self.start is not None:
            return self.num_layers - 2 * self.start - 1
        if self.first is not None and self.last is not None:
            return self.last - self.first + 1
        if self.strategy in MEASURED:
            return self.num_layers - sum(isinstance(unit, Layer) and unit.part == "whole" for unit in units(self.plan))
        return entry(self.strategy).affected

    @property
    def label(self) -> str:
        """The strategy and its options, such as "looped-parallel start=8 iterations=3"; the text of one's own plan.

        Of a proposed plan with its text, which the options alone do not say.
        """
        if self.strategy == CUSTOM:
            return str(self.plan)
        text = " ".join([self.strategy, *(f"{name}={getattr(self, name)}" for name in _options(self.strategy))])
        return f"{text}: {self.plan}" if self.strategy in MEASURED else text


def starts(num_layers: int) -> range:
    """The start layers of a model of `num_layers` layers: those that leave a middle of at least one layer."""
    return range(len(_layers(num_layers)) // 2)


def build(
    name: str,
    num_layers: int,
    *,
    start: int | None = None,
    seed: int | None = None,
    iterations: int | None = None,
    times: int | None = None,
    layer: int | None = None,
    first: int | None = None,
    last: int | None = None,
) -> Variant:
    """One plan of the strategy called `name` for a model of `num_layers` layers.

    Raises:
        UserError: no such strategy, one that takes measurements, an option that it needs is missing, one that it does
            not take is given, or a value is out of range.
    """
    options = _options_alone(name)
    given = {"start": start, "seed": seed, "iterations": iterations, "times": times, "layer": layer}
    given |= {"first": first, "last": last}
    for option, value in given.items():
        if value is not None and option not in options:
            takes = " and ".join(options) or "no options"
            raise UserError(f"strategy {name} does not take {option} (given {value}): it takes {takes}")
    values = {option: default if given[option] is None else given[option] for option, default in options.items()}
    for option, value in values.items():
        if value is None:
            named = {"seed": "seed", "start": "start layer", "first": "first layer", "last": "last layer"}
            needed = named.get(option, "layer")
            span = "" if option == "seed" else f": {_span(_choices(name, option, num_layers), num_layers)}"
            raise UserError(f"strategy {name} needs a {needed}{span}")
    return Variant(name, STRATEGIES[name].plan(num_layers, **values), num_layers, **values)


def proposed(name: str, num_layers: int, numbers: Any, count: int) -> Variant:
    """The plan of a strategy of `MEASURED`, from the numbers of its measurement (`jaxpaint.plans.proposals`).

    Raises UserError for another strategy, or a count out of range.
    """
    if name not in MEASURED:
        _options(name)  # tells of a name that is none
        raise UserError(f"strategy {name} takes no measurements; those that do are {', '.join(MEASURED)}")
    return Variant(name, MEASURED[name].plan(numbers, count), num_layers, count=count)


def family(
    name: str,
    num_layers: int,
    *,
    starts: Iterable[int] | None = None,
    seeds: Iterable[int] = range(10),
    iterations: Iterable[int] = (3,),
    times: Iterable[int] = (2, 3),
) -> tuple[Variant, ...]:
    """Every plan of a strategy: all combinations of its options; every layer for skip-one and switch, every
    block for repeat-block.

    Without `starts`, every start the model has. Options that the strategy does not take are ignored, so that
    one call's arguments can serve every strategy.

    Raises:
        UserError: no such strategy, a value out of range, or more than `MAX_PLANS` plans, which are not made first.
    """
    given = {"start": starts, "seed": seeds, "iterations": iterations, "times": times}
    values = {option: tuple(numbers) for option, numbers in given.items() if numbers is not None}
    require_few([name], num_layers, {option: len(numbers) for option, numbers in values.items()})
    options = _options_alone(name)
    chosen_from = [values[option] if option in values else _choices(name, option, num_layers) for option in options]
    combinations = (dict(zip(options, chosen, strict=True)) for chosen in itertools.product(*chosen_from))
    return tuple(build(name, num_layers, **chosen) for chosen in combinations if _is_block(chosen))


def require_few(names: Iterable[str], num_layers: int | None, given: Mapping[str, int | None], others: int = 0) -> None:
    """Raises UserError where strategies make more than `MAX_PLANS` plans, with `others` beside them.

    `given` has how many values an option has been given, None or nothing where the model's layers say, which count for
    one while these (`num_layers`) are not known.
    """
    found = {name: _size(name, num_layers, given) for name in names}
    if sum(found.values()) + others > MAX_PLANS:
        listed = [f"{count:,} of {name}" for name, count in found.items()] + [f"{others:,} of your own"] * (others > 0)
        raise UserError(
            f"that makes {sum(found.values()) + others:,} plans ({', '.join(listed)}), and one study has at most "
            f"{MAX_PLANS:,}; give fewer starts, seeds, loops or times, or make several studies of them"
        )


def _size(name: str, num_layers: int | None, given: Mapping[str, int | None]) -> int:
    def choices(option: str) -> int:
        if (count := given.get(option)) is not None:
            return count
        return 1 if num_layers is None else len(_choices(name, option, num_layers))

    size = math.prod(map(choices, _options(name)))
    return size if num_layers is None or "last" not in _options(name) else num_layers * (num_layers + 1) // 2


def _is_block(options: Mapping[str, int | None]) -> bool:
    """Whether a block, where there is one, does not end before it begins."""
    first, last = options.get("first"), options.get("last")
    return first is None or last is None or first <= last


def _options(name: str) -> dict[str, int | None]:
    """The options of a strategy with their defaults, None for those that must be given."""
    if name not in EVERY:
        near = difflib.get_close_matches(name, EVERY, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the strategies are {', '.join(EVERY)}"
        raise UserError(f"unknown strategy {name!r}: {hint}")
    return EVERY[name].options


def _options_alone(name: str) -> dict[str, int | None]:
    """Of a strategy that takes no measurements."""
    if name in MEASURED:
        raise UserError(
            f"strategy {name} takes measurements of a model: `jaxpaint study --strategies {name} --counts 2,4` makes "
            "them, and in Python jaxpaint.propose"
        )
    return _options(name)


def _choices(name: str, option: str, num_layers: int) -> range:
    if option == "start":
        return starts(num_layers)
    if option in ("first", "last"):
        return range(num_layers)
    if num_layers < 2:
        return range(0)
    if option == "count":
        return range(1, num_layers)
    return range(num_layers + 1 - (STRATEGIES[name].affected or 1))


def _layers(num_layers: int) -> range:
    if num_layers < 1:
        raise UserError(f"a model has at least 1 layer, not {num_layers}")
    if num_layers > MAX_LAYER + 1:
        raise UserError(f"a model has at most {MAX_LAYER + 1} layers, not {num_layers}")
    return range(num_layers)


def _middle(num_layers: int, start: int) -> range:
    _check("start", start, starts(num_layers), num_layers)
    return range(start + 1, num_layers - start)


def _around(num_layers: int, start: int, *middle: Node) -> Plan:
    """The plan that runs `middle` in place of the middle layers."""
    replaced = _middle(num_layers, start)
    return Plan.of(range(replaced.start), *middle, range(replaced.stop, num_layers))


def _averaged(layers: Iterable[int]) -> Parallel:
    return Parallel(tuple(Layer(index) for index in layers))


def _loop(body: Node, option: str, times: int) -> Repeat:
    if times < 1:
        raise UserError(f"{option} must be at least 1, not {times}")
    return Repeat(body, times)


def _check(option: str, value: int, choices: range, num_layers: int) -> None:
    if value not in choices:
        raise UserError(f"{option} {value} is out of range: {_span(choices, num_layers)}")


def _span(choices: range, num_layers: int) -> str:
    model = f"a model of {num_layers} layer{'s' * (num_layers != 1)}"
    if not choices:
        return f"{model} is too small to have one"
    return f"{choices[0]}-{choices[-1]} for {model}" if len(choices) > 1 else f"only {choices[0]} for {model}"
