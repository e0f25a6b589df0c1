"""A plan as a small drawing: its layers upwards, over their places on the longest chain from left to right."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaint.plans.events import events
from jaxpaint.plans.plan import Plan

MOST_EVENTS = 400  # more are no longer told apart at this size


@dataclass(frozen=True)
class Strip:
    """`path` has a square of one unit for each application of a layer, as SVG draws it, in a box of width x height.

    `out` has a band for each layer that never runs.
    """

    width: int
    height: int
    path: str
    out: str


def strip(plan: Plan, num_layers: int) -> Strip | None:
    """Of a model's plan; None of one that is too long to be drawn small."""
    if plan.applications > MOST_EVENTS:
        return None
    places = dict.fromkeys((event.depth, num_layers - 1 - event.layer) for event in events(plan))
    width = max(num_layers, 1 + max(depth for depth, _ in places))
    left_out = sorted(set(range(num_layers)) - set(plan.layers))
    out = "".join(f"M0 {num_layers - 1 - layer}h{width}v1h-{width}z" for layer in left_out)
    return Strip(width, num_layers, "".join(f"M{x} {y}h1v1h-1z" for x, y in places), out)
