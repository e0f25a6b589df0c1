"""What a plan takes on a machine, told from its parts: a few plans are measured, and hundreds are foreseen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np

from jaxpaint.plans.nodes import Parallel, Repeat, Series, layer
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True)
class Clock:
    """Seconds of a call whatever runs, of each attention, of each feed-forward, and of each layer of the longest chain.

    On one device the chain takes next to nothing beside what runs; where branches run side by side
    (`layer_parallel`), it is what takes the time.
    """

    overhead: float
    attention: float
    mlp: float
    chain: float

    @property
    def layer(self) -> float:
        """Seconds of a whole layer in series."""
        return self.attention + self.mlp + self.chain

    def seconds(self, plan: Plan) -> float:
        """Of a call under the plan."""
        return float(np.dot(_parts(plan), astuple(self)))

    def layers_within(self, seconds: float) -> int:
        """How many whole layers, one after the other, a call of so many seconds runs."""
        return math.floor((seconds - self.overhead) / self.layer + 1e-9)

    @classmethod
    def fitted(cls, plans: Sequence[Plan], seconds: Sequence[float]) -> Clock:
        """Least squares of the relative errors, no part below nothing; `seconds` are those measured."""
        from scipy.optimize import nnls

        weights = 1 / np.asarray(seconds)
        found, _ = nnls(np.array([_parts(plan) for plan in plans]) * weights[:, None], np.ones(len(plans)))
        overhead, *parts = found.tolist()
        if not sum(parts) > 0:  # layers too small to be told from the call
            parts = [0.0, 0.0, np.finfo(float).eps * overhead]
        return cls(overhead, *parts)


def probes(num_layers: int) -> tuple[Plan, ...]:
    """Plans that tell the parts apart, the full model first; each once."""
    full = tuple(map(layer, range(num_layers)))
    halves = [Series(full[: (num_layers + 1) // 2])]
    found = [
        Plan.of(*full),
        Plan.of(*halves),
        Plan.of(Repeat(halves[0], 3)),
        Plan.of(*(layer(index, "attention") for index in range(num_layers))),
        Plan.of(*(layer(index, "mlp") for index in range(num_layers))),
        _side_by_side(num_layers, 2),
        _side_by_side(num_layers, 4),
    ]
    return tuple(dict.fromkeys(found))


def _side_by_side(num_layers: int, size: int) -> Plan:
    groups = (range(start, min(start + size, num_layers)) for start in range(0, num_layers, size))
    return Plan.of(*(Parallel(tuple(map(layer, group))) if len(group) > 1 else layer(group[0]) for group in groups))


def _parts(plan: Plan) -> tuple[float, float, float, float]:
    """1, attentions, feed-forwards, and layers on the longest chain."""
    return 1.0, plan.attentions, 2 * plan.cost - plan.attentions, plan.depth
