"""What of a layer runs: all of it, or a sublayer."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Part: TypeAlias = Literal["whole", "attention", "mlp"]


class Portion(NamedTuple):
    """What of a layer runs, and the index of the layer that a feed-forward shares its norm with: see `Layer`."""

    part: Part = "whole"
    beside: Any = None


WHOLE = Portion()
