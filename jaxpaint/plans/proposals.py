"""Plans proposed from numbers that were measured on a model: which layers to leave out, or to put side by side.

A proposal is a pure function of the numbers (`jaxpaint.analysis.measurements` makes them) and of `count`, 1 to T - 1 of
a model's T layers. States are those of the full model: 0 are the embeddings, l + 1 what layer l gives. Of equal numbers
the first counts. Raises UserError for a count out of range.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.part import Part
from jaxpaint.plans.nodes import Layer, Node, Parallel
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategy import Strategy

SETTLED = 0.5  # of the agreement that the last layer finds: from there on answers are being settled


def drop_least(numbers: Sequence[float], count: int) -> Plan:
    """Without the `count` layers that have the least of one number a layer.

    Of Block Influence it is ShortGPT's (Men et al., arXiv 2403.03853); of the perplexity without each layer, all
    left out at once, Shortened LLaMA's (Kim et al., arXiv 2402.02834).
    """
    _check(count, len(numbers))
    return _without(sorted(range(len(numbers)), key=lambda layer: numbers[layer])[:count], len(numbers))


def drop_least_attentions(numbers: Sequence[float], count: int) -> Plan:
    """Without the `count` attentions of least; numbers are of each layer's attention and feed-forward in turn.

    Of Block Influence it is "What Matters in Transformers? Not All Attention is Needed" (He et al., arXiv 2406.15786);
    of the perplexity without each, all left out at once, a sublayer's form of Shortened LLaMA's.
    """
    return _with_parts(numbers[::2], count, "mlp")


def drop_least_mlps(numbers: Sequence[float], count: int) -> Plan:
    """Without the `count` feed-forwards that have the least of one number a sublayer, as `drop_least_attentions`."""
    return _with_parts(numbers[1::2], count, "attention")


def drop_span(distances: Sequence[Sequence[float]], count: int) -> Plan:
    """Without the `count` layers in a row over which a state changes its direction least.

    Entry [l][n - 1] is the angular distance of states l and l + n (Gromov et al., arXiv 2403.17887, section 3.2).
    """
    layers = len(distances)
    _check(count, layers)
    first = min(range(layers - count + 1), key=lambda layer: distances[layer][count - 1])
    return _without(range(first, first + count), layers)


def drop_settled(agreement: Sequence[float], count: int) -> Plan:
    """Without the `count` layers that change least, once answers are settled, what the logit lens finds most likely.

    `agreement` is the share of tokens, state by state, at which the lens finds the token that the full model does.
    Layers whose input agrees half as often as the last one's, or more (`SETTLED`), go first, by the change that they
    make; should they not be enough, those before them follow, the latest first. The last layer, after which all agree
    whatever it does, goes last. Of no paper.
    """
    layers = len(agreement) - 1
    _check(count, layers)
    enough = SETTLED * agreement[-2]

    def order(layer: int) -> tuple[int, float]:
        if layer == layers - 1:
            return 2, 0.0
        if agreement[layer] >= enough:
            return 0, abs(agreement[layer + 1] - agreement[layer])
        return 1, -layer

    return _without(sorted(range(layers), key=order)[:count], layers)


def parallel_alike(similarity: Sequence[Sequence[float]], count: int) -> Plan:
    """The layers whose outputs are most alike side by side, averaged: `count` layers less depth, none left out.

    `similarity` is of each pair of states. Neighbouring groups join, `count` times: those whose least alike outputs
    are most alike (complete linkage). After "Transformer Layers as Painters" (arXiv 2407.09298), whose figures 3 and 8
    show that middle layers' states are alike, and how such layers run in parallel.
    """
    layers = len(similarity) - 1
    _check(count, layers)
    groups = [[layer] for layer in range(layers)]
    for _ in range(count):
        alike = [
            min(similarity[one + 1][other + 1] for one in left for other in right) for left, right in pairwise(groups)
        ]
        at = max(range(len(alike)), key=lambda place: alike[place])
        groups[at : at + 2] = [groups[at] + groups[at + 1]]
    nodes: list[Node] = []
    for group in groups:
        members = tuple(map(Layer, group))
        nodes.append(members[0] if len(members) == 1 else Parallel(members))
    return Plan.of(*nodes)


_ENTRIES = (
    Strategy(
        "drop-by-influence",
        drop_least,
        "drop by influence",
        ("vermillion", "<", "--"),
        trades=True,
        measurement="block_influence",
    ),
    Strategy(
        "drop-attention-by-influence",
        drop_least_attentions,
        "drop attention by influence",
        ("sky", "<", ":"),
        trades=True,
        measurement="sublayer_influence",
    ),
    Strategy(
        "drop-mlp-by-influence",
        drop_least_mlps,
        "drop feed-forwards by influence",
        ("yellow", "<", "-."),
        trades=True,
        measurement="sublayer_influence",
    ),
    Strategy(
        "drop-span-by-angle",
        drop_span,
        "drop span by angle",
        ("purple", ">", "-."),
        trades=True,
        measurement="angular_distance",
    ),
    Strategy(
        "drop-by-perplexity",
        drop_least,
        "drop by perplexity",
        ("blue", "d", "--"),
        trades=True,
        measurement="perplexity",
    ),
    Strategy(
        "drop-attention-by-perplexity",
        drop_least_attentions,
        "drop attention by perplexity",
        ("sky", "d", ":"),
        trades=True,
        measurement="sublayer_perplexity",
    ),
    Strategy(
        "drop-mlp-by-perplexity",
        drop_least_mlps,
        "drop feed-forwards by perplexity",
        ("yellow", "d", "-."),
        trades=True,
        measurement="sublayer_perplexity",
    ),
    Strategy("drop-settled", drop_settled, "drop settled", ("sky", "H", ":"), trades=True, measurement="agreement"),
    Strategy(
        "parallel-by-similarity",
        parallel_alike,
        "parallel by similarity",
        ("green", "*", ":"),
        trades=True,
        measurement="similarity",
    ),
)
MEASURED: Mapping[str, Strategy] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Those whose plans are proposed from measurements of the model, which `jaxpaint study` and `jaxpaint.propose` make."""


def stand_ins(num_layers: int) -> Mapping[str, Any]:
    """Numbers in place of every measurement, before one is made: plans of them have the cost and depth of the real."""
    states = range(num_layers + 1)
    rising = [float(layer) for layer in range(num_layers)]
    return {
        "block_influence": rising,
        "sublayer_influence": [float(half) for half in range(2 * num_layers)],
        "perplexity": rising,
        "sublayer_perplexity": [float(half) for half in range(2 * num_layers)],
        "angular_distance": [[0.0] * (num_layers - layer) for layer in range(num_layers)],
        "agreement": [0.0 for _ in states],
        "similarity": [[1.0 for _ in states] for _ in states],
    }


def _without(layers: Iterable[int], num_layers: int) -> Plan:
    left_out = set(layers)
    return Plan.of(layer for layer in range(num_layers) if layer not in left_out)


def _with_parts(numbers: Sequence[float], count: int, left: Part) -> Plan:
    """Of the `count` layers of least only what is `left` of them."""
    layers = len(numbers)
    _check(count, layers)
    least = set(sorted(range(layers), key=lambda layer: numbers[layer])[:count])
    return Plan.of(*(Layer(layer, left if layer in least else "whole") for layer in range(layers)))


def halves(num_layers: int) -> Plan:
    """The full plan sublayer by sublayer: the same, but where attention and feed-forward read one input."""
    return Plan.of(*(Layer(layer, part) for layer in range(num_layers) for part in ("attention", "mlp")))


def without_halves(num_layers: int) -> list[Plan]:
    """The full plan without each layer's attention and without its feed-forward, in turn."""
    others: tuple[Part, Part] = ("mlp", "attention")
    return [
        Plan.of(*(Layer(layer, left if layer == one else "whole") for layer in range(num_layers)))
        for one in range(num_layers)
        for left in others
    ]


def _check(count: int, num_layers: int) -> None:
    if not 1 <= count < num_layers:
        span = f"1-{num_layers - 1}" if num_layers > 2 else "only 1" if num_layers == 2 else "it is too small for any"
        raise UserError(f"count {count} is out of range: {span} for a model of {num_layers} layers")
