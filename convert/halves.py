"""The layers that an exported model has, each an attention and a feed-forward of the source's or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaint.models.family import Traits
from jaxpaint.plans import nodes
from jaxpaint.plans.plan import Layer, Plan


@dataclass(frozen=True)
class Assembled:
    """One exported layer: whose attention and whose feed-forward it has; None is none, which adds zeros."""

    attention: int | None
    mlp: int | None

    @property
    def kind(self) -> int:
        """The layer of the source that it is of the kind of."""
        layer = self.mlp if self.attention is None else self.attention
        assert layer is not None
        return layer


def assembled(plan: Plan, residuals: str) -> tuple[Assembled, ...]:
    """The layers of a series plan. A feed-forward joins the attention before it, where residuals are "in series"."""
    found: list[Assembled] = []
    for unit in nodes.units(plan.root):
        assert isinstance(unit, Layer)
        if unit.part == "mlp" and residuals == "in series" and found and found[-1].mlp is None:
            found[-1] = Assembled(found[-1].attention, unit.index)
        else:
            has_attention, has_mlp = unit.part != "mlp", unit.part != "attention"
            found.append(Assembled(unit.index if has_attention else None, unit.index if has_mlp else None))
    return tuple(found)


def whole(layers: Sequence[int]) -> tuple[Assembled, ...]:
    """Layers as they are."""
    return tuple(Assembled(layer, layer) for layer in layers)


def source_of(path: str, layer: Assembled, traits: Traits | None) -> tuple[int, bool]:
    """Which layer's parameter of this path an exported layer has, and whether it is zeros in its place."""
    if traits is None or layer.attention == layer.mlp:
        return layer.kind, False
    _, module, *inner = path.split("/")
    in_attention = module == traits.attention or module in traits.norms[:2]
    own = layer.attention if in_attention else layer.mlp
    if own is not None:
        return own, False
    # What nobody reads is the other half's layer's, and what is added are zeros.
    return layer.kind, inner[-2:-1] == [traits.projections[-1] if in_attention else traits.mlp[-1]]
