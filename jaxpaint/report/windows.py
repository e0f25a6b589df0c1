"""Plans that leave out or repeat one block of layers, by the block's first layer and its width."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxpaint.plans.plan import Plan

Kind: TypeAlias = Literal["left out", "repeated"]
LEAST = 4  # windows of a kind that make a map


@dataclass(frozen=True)
class Window:
    """The layers `first` to `first + width - 1` of a plan that otherwise is the full model."""

    kind: Kind
    first: int
    width: int


def window(plan: Plan, num_layers: int) -> Window | None:
    """What a plan leaves out or runs twice in a row, if that is all in which it is not the full model."""
    if not plan.is_sequence or plan.applications > 2 * num_layers:
        return None
    run, full = plan.sequence(), tuple(range(num_layers))
    same = next((place for place, (one, other) in enumerate(zip(run, full, strict=False)) if one != other), None)
    first = min(len(run), num_layers) if same is None else same
    width = abs(num_layers - len(run))
    if width == 0:
        return None
    if len(run) < num_layers:
        return Window("left out", first, width) if run[first:] == full[first + width :] else None
    # The run leaves the model's order where the block begins again.
    start = first - width
    repeated = start >= 0 and run[first:] == full[start:]
    return Window("repeated", start, width) if repeated else None


def window_maps(plans: Sequence[Plan], num_layers: int) -> dict[Kind, dict[int, Window]]:
    """Windows by kind and by the plan's place: of kinds with several windows of one width, which make a map."""
    found: dict[Kind, dict[int, Window]] = defaultdict(dict)
    for place, plan in enumerate(plans):
        if (each := window(plan, num_layers)) is not None:
            found[each.kind][place] = each
    return {kind: windows for kind, windows in found.items() if _is_map(windows)}


def _is_map(windows: dict[int, Window]) -> bool:
    different = set(windows.values())
    widths = [each.width for each in different]
    return len(different) >= LEAST and max(widths.count(width) for width in widths) > 1
