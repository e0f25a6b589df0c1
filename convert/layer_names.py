"""The names of a composed model's layers: `A:3` is layer 3 of A, wherever the store has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convert.composition import composition
from convert.sources import local_path, require_known
from jaxpaint.models.manifest import is_store, read_manifest
from jaxpaint.plans.names import NAME, Names


def layer_names(manifest: Mapping[str, Any]) -> Names:
    """Where a store has the layers of the models that it was composed of, by their names; {} where they have none.

    A layer that is there twice is its first place, and merged ones have no name.
    """
    composed = manifest.get("composed")
    if composed is None:
        return {}
    found: dict[str, dict[int, int]] = {name: {} for name in composed["models"] if NAME.fullmatch(f"{name}:")}
    for place, origin in enumerate(composition(composed["layers"], composed["models"])):
        if len(origin.layers) == 1 and origin.model in found:
            found[origin.model].setdefault(*origin.layers, place)
    return found


def names_of(model: str | Path) -> Names:
    """As `layer_names`, of what is given as a model. Raises UserError where there is none, or a damaged store."""
    require_known(model)
    path = local_path(model)
    return layer_names(read_manifest(path)) if is_store(path) else {}
