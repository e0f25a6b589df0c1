"""Folders with generation settings, and what transformers' generate writes on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch


def with_settings(
    folder: Path, copy: Path, generation: dict[str, Any] | None, config: dict[str, Any] | None = None
) -> Path:
    """A copy of a folder with another generation_config.json (None: without one), and changes in its config.json."""
    shutil.copytree(folder, copy)
    (copy / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (copy / "generation_config.json").write_text(json.dumps(generation))
    values = json.loads((copy / "config.json").read_text()) | (config or {})
    (copy / "config.json").write_text(json.dumps({name: value for name, value in values.items() if value is not None}))
    return copy


def by_transformers(network: Any, prompts: Sequence[Sequence[int]], new: int) -> list[tuple[int, ...]]:
    """What transformers' generate writes after each prompt greedily, the token that ends it included."""
    found = []
    for tokens in prompts:
        mask = torch.ones(1, len(tokens), dtype=torch.long)
        options = {"attention_mask": mask, "max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            text = network.generate(torch.tensor([list(tokens)]), **options)
        found.append(tuple(text[0, len(tokens) :].tolist()))
    return found
