"""Families of plans: every strategy of "Transformer Layers as Painters" (arXiv 2407.09298), and neighbours.

For a model of T layers (`num_layers`), a start layer s leaves the layers 0 ... s and T-s ... T-1 as they are
and changes the *middle* between them, s+1 ... T-s-1; it has M = T - 2s - 1 layers, at least one.
Where a value is out of range, every function here raises `UserError`.
"""

from __future__ import annotations

import difflib
import inspect
import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, series


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


def parallel_pairs(num_layers: int, start: int) -> Plan:
    """The middle in pairs, residual updates summed; an odd last layer alone (arXiv 2502.02790)."""
    middle = _middle(num_layers, start)
    pairs: list[Node] = [
        Parallel((Layer(first), Layer(second)), "sum") for first, second in zip(middle[::2], middle[1::2], strict=False)
    ]
    if len(middle) % 2:
        pairs.append(Layer(middle[-1]))
    return _around(num_layers, start, *pairs)


def skip_one(num_layers: int, layer: int) -> Plan:
    """Every layer but `layer` (figure 2)."""
    _check("layer", layer, _choices("skip-one", "layer", num_layers), num_layers)
    return Plan.of(index for index in range(num_layers) if index != layer)


def switch(num_layers: int, layer: int) -> Plan:
    """Layers `layer` and `layer` + 1 swapped (figure 2)."""
    _check("layer", layer, _choices("switch", "layer", num_layers), num_layers)
    return Plan.of(range(layer), layer + 1, layer, range(layer + 2, num_layers))


STRATEGIES: Mapping[str, Callable[..., Plan]] = MappingProxyType(
    {
        "full": full,
        "skip": skip,
        "middle-repeat": middle_repeat,
        "reverse": reverse,
        "random": random_order,
        "parallel": parallel,
        "looped-parallel": looped_parallel,
        "block-repeat": block_repeat,
        "parallel-pairs": parallel_pairs,
        "skip-one": skip_one,
        "switch": switch,
    }
)
"""The strategies by the names the command line uses; a strategy's options are its function's parameters."""

CUSTOM = "custom"


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

    @property
    def affected(self) -> int | None:
        """How many layers the strategy changes: M for those with a start, 1 for skip-one, 2 for switch.

        None for a plan of someone's own.
        """
        if self.start is not None:
            return self.num_layers - 2 * self.start - 1
        return {"full": 0, "skip-one": 1, "switch": 2, CUSTOM: None}[self.strategy]

    @property
    def label(self) -> str:
        """The strategy and its options, such as "looped-parallel start=8 iterations=3"; the text of one's own plan."""
        if self.strategy == CUSTOM:
            return str(self.plan)
        return " ".join([self.strategy, *(f"{name}={getattr(self, name)}" for name in _options(self.strategy))])


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
) -> Variant:
    """One plan of the strategy called `name` for a model of `num_layers` layers.

    Raises:
        UserError: no such strategy, an option that it needs is missing, one that it does not take is given,
            or a value is out of range.
    """
    options = _options(name)
    given = {"start": start, "seed": seed, "iterations": iterations, "times": times, "layer": layer}
    for option, value in given.items():
        if value is not None and option not in options:
            takes = " and ".join(options) or "no options"
            raise UserError(f"strategy {name} does not take {option} (given {value}): it takes {takes}")
    values = {option: default if given[option] is None else given[option] for option, default in options.items()}
    for option, value in values.items():
        if value is None:
            needed = "seed" if option == "seed" else "start layer" if option == "start" else "layer"
            span = "" if option == "seed" else f": {_span(_choices(name, option, num_layers), num_layers)}"
            raise UserError(f"strategy {name} needs a {needed}{span}")
    return Variant(name, STRATEGIES[name](num_layers, **values), num_layers, **values)


def family(
    name: str,
    num_layers: int,
    *,
    starts: Iterable[int] | None = None,
    seeds: Iterable[int] = range(10),
    iterations: Iterable[int] = (3,),
    times: Iterable[int] = (2, 3),
) -> tuple[Variant, ...]:
    """Every plan of a strategy: all combinations of its options; every layer for skip-one and switch.

    Without `starts`, every start the model has. Options that the strategy does not take are ignored, so that
    one call's arguments can serve every strategy.

    Raises:
        UserError: no such strategy, or a value out of range.
    """
    options = _options(name)
    values: dict[str, Sequence[int]] = {
        "start": _choices(name, "start", num_layers) if starts is None else tuple(starts),
        "seed": tuple(seeds),
        "iterations": tuple(iterations),
        "times": tuple(times),
        "layer": _choices(name, "layer", num_layers),
    }
    combinations = itertools.product(*(values[option] for option in options))
    return tuple(build(name, num_layers, **dict(zip(options, chosen, strict=True))) for chosen in combinations)


def _options(name: str) -> dict[str, int | None]:
    """The options of a strategy with their defaults, None for those that must be given."""
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the strategies are {', '.join(STRATEGIES)}"
        raise UserError(f"unknown strategy {name!r}: {hint}")
    parameters = list(inspect.signature(STRATEGIES[name]).parameters.values())[1:]
    return {p.name: None if p.default is p.empty else p.default for p in parameters}


def _choices(name: str, option: str, num_layers: int) -> range:
    if option == "start":
        return starts(num_layers)
    if num_layers < 2:
        return range(0)
    return range(num_layers - 1 if name == "switch" else num_layers)


def _layers(num_layers: int) -> range:
    if num_layers < 1:
        raise UserError(f"a model has at least 1 layer, not {num_layers}")
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
