"""A store of layers of one store or several, in any order, some of them merged into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.composition import Origin, composition
from convert.to_huggingface import rearranged
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import require_new
from jaxpaint.models import OF_EACH_LAYER, checkpoint
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.derived import huggingface_config_of, save_derived
from jaxpaint.models.family import Config

# What a model's own layers say, and not what they have in common.
_OF_LAYERS = ("num_hidden_layers", *OF_EACH_LAYER)


def compose(
    stores: Mapping[str, Path],
    layers: str,
    destination: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes the store of a model whose layers are those that a text names, and returns its path.

    `stores` are by the names that the text has for them (`convert.composition`). All that is no layer, and the
    tokenizer, is the first one's. Layers that are merged are one whose every weight is W0 + sum(Wk - W0), the
    differences of those that follow from the first (LaCo, arXiv 2402.11187, equation 1), in float32.

    Raises:
        UserError: a text that cannot be read or names a layer that a model lacks; models of different architectures;
            layers of different kinds to merge; no such store, or a damaged one; a destination that is there already.
    """
    configs = {name: checkpoint.read_config(store) for name, store in stores.items()}
    origins = composition(layers, stores)
    config = composed_config(configs, origins)
    require_new(destination, overwrite=overwrite, replaces=checkpoint.is_store)
    (first, store), *_ = stores.items()
    with ExitStack() as stack:
        manifests = {name: stack.enter_context(checkpoint.verified(each)) for name, each in stores.items()}

        def fill(path: str, layer: int | None, out: np.ndarray) -> None:
            if layer is None:
                out[...] = checkpoint.read_tensor(store, path, None)
                return
            origin = origins[layer]
            parts = (checkpoint.read_tensor(stores[origin.model], path, each) for each in origin.layers)
            out[...] = next(parts) if len(origin.layers) == 1 else _merged([part.astype(np.float32) for part in parts])

        manifest = manifests[first]
        return save_derived(
            store,
            manifest,
            destination,
            config,
            fill,
            huggingface_config=rearranged(huggingface_config_of(store), config, manifest["dtype"]),
            healed=[each for used in manifests.values() for each in used.get("healed", ())],
            composed={"layers": layers, "models": {name: _named(each) for name, each in manifests.items()}},
            overwrite=overwrite,
            progress=progress,
        )


def composed_config(configs: Mapping[str, Config], origins: Sequence[Origin]) -> Config:
    """The architecture of a composed model. Raises UserError where there can be none."""
    (first, config), *others = configs.items()
    for name, other in others:
        _require_alike(first, config, name, other)
    for origin in origins:
        count = configs[origin.model].num_hidden_layers
        if (lacking := next((layer for layer in origin.layers if layer >= count), None)) is not None:
            raise UserError(f"there is no layer {lacking} in {origin.model}, which has {count}: 0-{count - 1}")
    kinds: dict[str, Any] = {}
    for name in OF_EACH_LAYER:
        if getattr(config, name, None):
            kinds[name] = tuple(_of_origin(getattr(configs[origin.model], name), origin) for origin in origins)
    return replace(config, num_hidden_layers=len(origins), **kinds)  # type: ignore[type-var]


def _of_origin(kinds: Sequence[Any], origin: Origin) -> Any:
    """The kind of all layers that are merged."""
    first, *others = dict.fromkeys(kinds[layer] for layer in origin.layers)
    if others:
        raise UserError(f"layers {', '.join(map(str, origin.layers))} are of different kinds: {[first, *others]}")
    return first


def _require_alike(first: str, config: Config, name: str, other: Config) -> None:
    one, another = ({k: v for k, v in each.to_dict().items() if k not in _OF_LAYERS} for each in (config, other))
    for key in ("model_type", *sorted(one.keys() | another.keys())):
        if one.get(key) != another.get(key):
            raise UserError(
                f"{first} and {name} are not of one architecture: {key} is {one.get(key)} and {another.get(key)}"
            )


def _merged(parts: Sequence[np.ndarray]) -> np.ndarray:
    first, *others = parts
    return first + sum((other - first for other in others), np.zeros_like(first))


def _named(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: manifest.get(name) for name in ("source", "revision", "fingerprint")}
