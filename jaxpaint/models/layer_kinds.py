"""Layers with a sliding window and layers without, in turn: what config.json says of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxpaint.base.documents import checked, shown
from jaxpaint.models.fields import ConfigError, number, rope_parameters, rope_type

KINDS = "full_attention", "sliding_attention"


def said(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What a config.json says: null is as good as silence."""
    return {name: value for name, value in raw.items() if value is not None}


def kinds_of_layers(raw: Mapping[str, Any], pattern: int) -> dict[str, Any]:
    """`layer_types` and `sliding_window`, by default 4,096 tokens.

    Where config.json names no `layer_types`, every `pattern`th layer attends in full and the others have the window.

    Raises:
        ConfigError: other kinds of layers, or no window where some have one.
    """
    layers = range(number(raw, "num_hidden_layers"))
    named = checked(raw.get("layer_types"), list[str] | None, "layer_types in config.json")  # type: ignore[arg-type]
    kinds = tuple(named or ("sliding_attention" if (i + 1) % pattern else "full_attention" for i in layers))
    if set(kinds) - set(KINDS) or len(kinds) != len(layers):
        raise ConfigError(f"layer_types={shown(list(kinds))} is not handled for {len(layers)} layers")
    none = "sliding_window" in raw and raw["sliding_window"] is None
    if none and "sliding_attention" in kinds:
        raise ConfigError("sliding_window=None in config.json, and some of its layer_types are sliding_attention")
    return {"layer_types": kinds, "sliding_window": None if none else number(raw, "sliding_window", 4096)}


def rope_of_kinds(raw: Mapping[str, Any], theta: float, local_theta: float) -> tuple[dict[str, Any], float]:
    """`(rope parameters of full attention, rotary base of layers with a window)`, by default of these bases.

    So transformers' `Gemma3TextConfig` and `Olmo3Config`, the latter without `rope_local_base_freq`. transformers 5
    writes `rope_parameters` for each kind of layer; 4 wrote `rope_theta`, `rope_local_base_freq` and `rope_scaling`, of
    which the scaling counts before the former and the bases where these are silent.

    Raises:
        ConfigError: parameters of other kinds, a scaling beside a window, or one that depends on a text's length.
    """
    rope_parameters(raw)  # both are objects, if they are there
    of_kinds = said(raw.get("rope_parameters") or {})
    if strange := {name: each for name, each in of_kinds.items() if name not in KINDS or not isinstance(each, Mapping)}:
        raise ConfigError(
            f"rope_parameters of a {raw['model_type']} are an object for each of {' and '.join(KINDS)}, and those in "
            f"config.json have {shown(strange)}"
        )
    whole, local = (said(of_kinds.get(kind, {})) for kind in KINDS)
    scaling = rope_parameters({**raw, "rope_parameters": None})
    whole = {"rope_theta": number(raw, "rope_theta", theta, float), **whole, **said(scaling)}
    if rope_type(whole) in ("dynamic", "longrope"):
        raise ConfigError(f"rope scaling {rope_type(whole)!r} is not handled for a {raw['model_type']}")
    base = local.pop("rope_theta", raw.get("rope_local_base_freq"))
    if local not in ({}, {"rope_type": "default"}):
        raise ConfigError(
            f"rope_parameters of sliding_attention in config.json have {shown(local)}, which is not handled"
        )
    return whole, number({"rope_local_base_freq": base}, "rope_local_base_freq", local_theta, float)
