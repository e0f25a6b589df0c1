"""Layers by the names of the models that a composed one has them of: `A:0-15 B:8-23` (`jaxpaint compose`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeAlias

from jaxpaint.plans.nodes import PlanError

Names: TypeAlias = Mapping[str, Mapping[int, int]]
"""By a model's name, where its layers are in the composed one. Without names no layer has one."""

NAME = re.compile(r"(\d*[^\W\d]\w*)\s*:")


class NamedLayersError(PlanError):
    """A text that is well written, and names layers of a composed model where none is at hand."""


def unnamed(layer: str) -> str:
    """Why a layer such as `A:3` is none where there are no names."""
    return (
        f"{layer} names a layer of a composed model, and no model is given; give its store as --model, or the text to "
        "the loaded model itself"
    )


def unknown(name: str, layer: int, names: Names, there: str) -> str:
    """Why the names have no such layer; `there` are those of the model, as text."""
    if not names:
        return (
            f"{name}:{layer} names a layer of a composed model, and layers of this one have no names; "
            f"jaxpaint compose --model {name}=MODEL gives them names"
        )
    if name not in names:
        return f"there is no model {name}; there is {', '.join(names)}"
    return f"{name}:{layer}: of {name} the store has {f'layers {there}' if there else 'no layer as it was'}"
