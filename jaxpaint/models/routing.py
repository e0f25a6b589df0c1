"""What readers of a mixture's `config.json` share: how many experts there are, and that every layer has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpaint.base.documents import shown, shown_items
from jaxpaint.models.fields import ConfigError, number


def routing(raw: Mapping[str, Any], *, count: int, chosen: int) -> tuple[int, int]:
    """How many experts there are and how many a token goes through; `count`, `chosen` where config.json is silent.

    Raises:
        ConfigError: more chosen than there are, or two numbers of experts.
    """
    said = {name: raw[name] for name in ("num_experts", "num_local_experts") if raw.get(name) is not None}
    if len(set(map(str, said.values()))) > 1:
        raise ConfigError(f"config.json sets {shown_items(sorted(said.items()))}, which are names of one number")
    name = next(iter(said), "num_experts")
    count, chosen = number(raw, name, count), number(raw, "num_experts_per_tok", chosen)
    if chosen > count:
        raise ConfigError(f"num_experts_per_tok={chosen} is more than {name}={count}")
    return count, chosen


def require_sparse(raw: Mapping[str, Any]) -> None:
    """Raises ConfigError where some layers have one feed-forward in the place of experts."""
    for name, sparse in (("mlp_only_layers", []), ("decoder_sparse_step", 1)):
        if raw.get(name) not in (None, sparse):
            raise ConfigError(
                f"{name}={shown(raw[name])} is not handled: some layers would have one feed-forward in the place of "
                "experts, and layers that are stacked have the same weights"
            )


HANDLED = {"decoder_sparse_step", "mlp_only_layers"}  # what it reads
