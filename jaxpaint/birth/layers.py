"""Parameters of a model, by name, whose layers are stacked along a leading axis."""

from __future__ import annotations

from typing import Any, TypeAlias

import jax

Parameters: TypeAlias = dict[str, Any]
NEVER = 2**31 - 1  # the step at which what is never trained is released


def of_layer(parameters: Parameters, index: int) -> Parameters:
    """One layer's parameters."""
    return jax.tree.map(lambda leaf: leaf[index], parameters["layers"])
