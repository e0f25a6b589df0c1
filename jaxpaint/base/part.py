"""What of a layer runs: all of it, or a sublayer."""

from __future__ import annotations

from typing import Literal, TypeAlias

Part: TypeAlias = Literal["whole", "attention", "mlp"]
