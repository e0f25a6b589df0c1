"""A store made of another: parameters of its own, and what else the other one has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.documents import read_json
from jaxpaint.models import checkpoint
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.family import Config

if TYPE_CHECKING:
    import numpy as np


def huggingface_config_of(store: Path) -> dict[str, Any]:
    """The config.json that the store's checkpoint came with. Raises UserError where it is damaged."""
    return read_json(store / "huggingface_config.json", dict[str, Any])


def save_derived(
    store: Path,
    manifest: Mapping[str, Any],
    destination: str | Path,
    config: Config,
    fill: Callable[[str, int | None, np.ndarray], None],
    *,
    huggingface_config: Mapping[str, Any] | None = None,
    healed: Sequence[Mapping[str, Any]] | None = None,
    composed: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a store with the tokenizer, dtype, generation settings, source and history of `store`; returns its path.

    `manifest` is what `jaxpaint.models.checkpoint.verified` gave of it. What is None is the other one's, too; the rest
    is as `jaxpaint.models.checkpoint.save` takes and raises it.
    """
    generation = store / checkpoint.GENERATION_CONFIG
    return checkpoint.save(
        destination,
        config,
        fill,
        dtype=manifest["dtype"],
        huggingface_config=huggingface_config or huggingface_config_of(store),
        tokenizer_files=[store / "tokenizer" / name for name in manifest["tokenizer"]],
        generation_config=generation if checkpoint.GENERATION_CONFIG in manifest.get("files", {}) else None,
        source=manifest["source"],
        revision=manifest.get("revision"),
        quantisation=manifest.get("quantisation"),
        healed=manifest.get("healed", ()) if healed is None else healed,
        composed=composed or manifest.get("composed"),
        adapter=manifest.get("adapter"),
        overwrite=overwrite,
        progress=progress,
    )
