"""What the readers of `config.json` share: numbers and switches, rotary parameters, and refusing what is not handled.

Every number comes from the checkpoint. An attribute that could change the result and is not handled is refused by name,
so that a model is never run as something it is not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxpaint.base.documents import checked, shown, shown_items
from jaxpaint.base.errors import UserError
from jaxpaint.models.harmless import is_harmless
from jaxpaint.models.scalings import LongropeScaling, RopeScaling, Scaling, YarnScaling


class ConfigError(UserError):
    """A checkpoint's configuration that this project cannot reproduce faithfully."""


HIDDEN_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")
# Other names that transformers knows the same functions by.
SAME_ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_pytorch_tanh",
    "gelu_accurate": "gelu_new",
}

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Beyond what any model has: what is built of a config stays small until its numbers are compared with tensors.
LARGEST = {
    "vocab_size": 10**8,
    "hidden_size": 10**6,
    "intermediate_size": 10**7,
    "num_hidden_layers": 10**4,
    "num_attention_heads": 10**4,
    "num_key_value_heads": 10**4,
    "head_dim": 10**5,
}
LARGEST_WHOLE, LARGEST_NUMBER = 2**31 - 1, 1e30


def sizes(raw: Mapping[str, Any], required: Sequence[str] = REQUIRED) -> dict[str, Any]:
    """The numbers that a family's config.json must have. Raises ConfigError for a missing or senseless one."""
    missing = [name for name in required if raw.get(name) is None]
    if missing:
        raise ConfigError(
            f"config.json lacks {', '.join(missing)}: is it the config of a {raw['model_type']} checkpoint?"
        )
    return {name: number(raw, name) for name in required}


def refuse_unhandled(raw: Mapping[str, Any], handled: Iterable[str]) -> None:
    """Raises ConfigError naming the attributes that are neither handled nor harmless."""
    known = set(handled)
    unhandled = {name: value for name, value in raw.items() if name not in known and not is_harmless(name, value, raw)}
    if unhandled:
        listed = shown_items(sorted(unhandled.items()))
        raise ConfigError(
            f"config.json sets {listed}, which jaxpaint does not handle for {raw['model_type']} and which may change "
            "the result; remove it from config.json only if you know that it does not"
        )


def activation(values: Mapping[str, Any], default: str, attribute: str = "hidden_act") -> str:
    """The name of an activation: by default of that between a feed-forward's layers."""
    name = values.get(attribute) or default
    name = SAME_ACTIVATIONS.get(name, name) if isinstance(name, str) else name
    if name not in HIDDEN_ACTIVATIONS:
        raise ConfigError(f"{attribute}={shown(name)} is not handled; known: {', '.join(HIDDEN_ACTIVATIONS)}")
    return name


def number(values: Mapping[str, Any], name: str, default: float | None = None, kind: type = int) -> Any:
    """A positive number; null is as good as silence."""
    value = default if values.get(name) is None else values[name]
    largest = LARGEST.get(name, LARGEST_WHOLE) if kind is int else LARGEST_NUMBER
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0 or value == math.inf:
        raise ConfigError(f"{name}={shown(value)} in config.json is not a positive {'whole ' * (kind is int)}number")
    if value > largest:
        raise ConfigError(f"{name}={shown(value)} in config.json is more than any model has ({largest:,} at most)")
    if value != kind(value):
        raise ConfigError(f"{name}={shown(value)} in config.json is not a whole number")
    return kind(value)


def require_bounds(values: Mapping[str, Any]) -> None:
    """Raises ConfigError unless a config's numbers are 0 or positive, and no larger than any model's."""
    for name, value in values.items():
        if name in REQUIRED or (type(value) in (int, float) and value != 0):
            number(values, name, kind=int if name in REQUIRED else type(value))


def switch(values: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """True or false; silent and null are the default."""
    value = default if values.get(name) is None else values[name] or False
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={shown(value)} in config.json is neither true nor false")
    return value


def rope_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Of either spelling: `rope_scaling` (transformers 4, and first where both are there), `rope_parameters` (5)."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name) or {}, Mapping):
            raise ConfigError(f"{name}={shown(values[name])} in config.json is not an object of rope parameters")
    original = values.get("original_max_position_embeddings")  # beside them it counts before what they say
    own = {} if original is None else {"original_max_position_embeddings": original}
    return {**(values.get("rope_scaling") or values.get("rope_parameters") or {}), **own}


def rope_type(parameters: Mapping[str, Any]) -> Any:
    """The type of scaling that rotary parameters name, in either spelling."""
    return parameters.get("rope_type") or parameters.get("type") or "default"


def rope(parameters: Mapping[str, Any], theta: Any, length: int) -> tuple[float, Scaling | None, int]:
    """`(rope_theta, scaling, length)` of rotary parameters; `theta` where they do not name one.

    The length is the most tokens for which the scaling holds: at most `length`, which is `max_position_embeddings`.
    """
    parameters = dict(parameters)
    theta = number({"rope_theta": parameters.pop("rope_theta", theta)}, "rope_theta", 10000.0, float)
    kind = rope_type(parameters)
    parameters = {name: value for name, value in parameters.items() if name not in ("type", "rope_type")}
    strange = {name: value for name, value in parameters.items() if name not in ROPE_NAMES and value not in (None, 1.0)}
    if not isinstance(kind, str) or kind not in SCALINGS or strange:
        detail = f" with {shown(strange)}" if strange else ""
        raise ConfigError(f"rope scaling {shown(kind)}{detail} is not handled; known types: {', '.join(SCALINGS)}")
    lacking = [name for name in SCALINGS[kind] if parameters.get(name) is None]
    if lacking:
        raise ConfigError(f"rope scaling {kind!r} in config.json lacks {', '.join(lacking)}")
    if kind in UNSCALED:
        return theta, None, length
    if kind == "yarn":
        return theta, _yarn(parameters, theta, length), length
    if kind == "longrope":
        return theta, *_longrope(parameters, length)
    return theta, _scaling(kind, parameters, length), length


# What each type of rope scaling must name, and all that any may.
SCALINGS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "dynamic": ("factor",),
    "yarn": (),
    "longrope": ("short_factor", "long_factor"),
}
# Up to `max_position_embeddings`, and no longer text is read, dynamic scaling leaves the frequencies as they are.
UNSCALED = ("default", "dynamic")
ROPE_NAMES = {
    *("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "short_factor"),
    *("long_factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    "finetuned",  # tells of training
}


def is_dynamic(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json's rope scaling would read longer texts than the model's by other frequencies."""
    return rope_type(rope_parameters(raw)) == "dynamic"


def _scaling(kind: Any, parameters: Mapping[str, Any], length: int) -> RopeScaling:
    scaling = {name: number(parameters, name, kind=float) for name in SCALINGS[kind]}
    if kind == "llama3":
        scaling["original_max_position_embeddings"] = _original_length(parameters, length)
        if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise ConfigError(
                f"rope scaling 'llama3' has low_freq_factor={scaling['low_freq_factor']} not below "
                f"high_freq_factor={scaling['high_freq_factor']}"
            )
    return RopeScaling(rope_type=kind, **scaling)


def _yarn(parameters: Mapping[str, Any], theta: float, length: int) -> YarnScaling:
    """As transformers' `_compute_yarn_parameters` reads them, zero as good as silence included."""
    if theta <= 1:
        raise ConfigError(f"rope_theta={theta} in config.json is not above 1, which rope scaling 'yarn' needs")
    original = _original_length(parameters, length)
    factor = number(parameters, "factor", length / original, float)
    given = {name: parameters.get(name) or None for name in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim")}
    scales = [number(given, name, kind=float) for name in ("mscale", "mscale_all_dim") if given[name]]
    first, second = scales if len(scales) == 2 else (1.0, 0.0)
    implied = (_yarn_magnitude(factor, first)) / _yarn_magnitude(factor, second)
    return YarnScaling(
        factor=factor,
        attention_factor=number(parameters, "attention_factor", implied, float),
        beta_fast=number(given, "beta_fast", 32.0, float),
        beta_slow=number(given, "beta_slow", 1.0, float),
        original_max_position_embeddings=original,
        truncate=bool(parameters.get("truncate", True)),
    )


def _yarn_magnitude(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _longrope(parameters: Mapping[str, Any], length: int) -> tuple[LongropeScaling, int]:
    """The scaling and the most tokens of a text; long factors are there where one may have more than the original."""
    original = _original_length(parameters, length)
    factor = number(parameters, "factor", length / original, float)
    implied = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
    short, long = (_factors(parameters, name) for name in SCALINGS["longrope"])
    scaling = LongropeScaling(short, number(parameters, "attention_factor", implied, float))
    if original < length:
        scaling = dataclasses.replace(scaling, long_factor=long, original_max_position_embeddings=original)
    return scaling, length


def _factors(parameters: Mapping[str, Any], name: str) -> tuple[float, ...]:
    factors = parameters[name]
    if not isinstance(factors, list):
        raise ConfigError(f"{name}={shown(factors)} of rope scaling 'longrope' is not a list of numbers")
    return tuple(number({name: each}, name, kind=float) for each in factors)


def _original_length(parameters: Mapping[str, Any], length: int) -> int:
    """Without one it is the context's, as transformers' `standardize_rope_params` has it."""
    return number(parameters, "original_max_position_embeddings", length)


def decoder_fields(
    raw: Mapping[str, Any],
    handled: Iterable[str],
    length: int,
    hidden_act: str = "silu",
    parameters: Mapping[str, Any] | None = None,
    *,
    theta: str = "rope_theta",
) -> dict[str, Any]:
    """What decoders with rotary positions have alike, by the names of our configs' fields.

    `length` and `hidden_act` stand where config.json is silent, `theta` is its name of the rotary base, and
    `parameters` are `rope_parameters(raw)` without those that the family reads itself.

    Raises:
        ConfigError: a missing or senseless number, or an attribute that is neither `handled` nor harmless.
    """
    numbers = sizes(raw)
    length = number(raw, "max_position_embeddings", length)
    parameters = rope_parameters(raw) if parameters is None else parameters
    rope_theta, rope_scaling, length = rope(parameters, raw.get(theta), length)
    refuse_unhandled(raw, {"rope_parameters", "original_max_position_embeddings", *handled})
    return {
        "model_type": raw["model_type"],
        **numbers,
        "max_position_embeddings": length,
        "rope_theta": rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": switch(raw, "tie_word_embeddings"),
        "hidden_act": activation(raw, hidden_act),
    }


def grouped_heads(values: Mapping[str, Any]) -> dict[str, Any]:
    """`num_key_value_heads` and `head_dim`. Raises ConfigError for heads that do not group, or cannot turn."""
    heads = number(values, "num_attention_heads")
    key_value_heads = number(values, "num_key_value_heads", heads)
    if heads % key_value_heads:
        raise ConfigError(f"num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value_heads}")
    head_dim = number(values, "head_dim", values["hidden_size"] // heads)
    if head_dim % 2:
        raise ConfigError(f"head_dim={head_dim} is odd: rotary positions turn halves of a head against each other")
    return {"num_key_value_heads": key_value_heads, "head_dim": head_dim}


def windows_of_layers(raw: Mapping[str, Any]) -> dict[str, Any]:
    """`sliding_window` and `layer_types` of the Qwens: windows only where `use_sliding_window`, from a layer on.

    Raises ConfigError for kinds of layers that there are not.
    """
    window = number(raw, "sliding_window", 4096) if switch(raw, "use_sliding_window") else None
    layers = range(number(raw, "num_hidden_layers"))
    full = checked({"max_window_layers": 28, **raw}["max_window_layers"], int, "max_window_layers in config.json")
    of_full = range(full if window else len(layers))
    named = checked(raw.get("layer_types"), list[str] | None, "layer_types in config.json")  # type: ignore[arg-type]
    kinds = tuple(named or ("full_attention" if layer in of_full else "sliding_attention" for layer in layers))
    if set(kinds) - {"full_attention", *(["sliding_attention"] if window else [])} or len(kinds) != len(layers):
        raise ConfigError(
            f"layer_types={shown(list(kinds))} is not handled for {len(layers)} layers of window {window}"
        )
    return {"sliding_window": window, "layer_types": kinds}


WINDOWS = {"use_sliding_window", "max_window_layers"}  # what it reads beside those


def rope_and_share(raw: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """`rope_parameters(raw)` without the share of a head that turns, and that share: None where it is not said."""
    parameters = rope_parameters(raw)
    share = parameters.pop("partial_rotary_factor", None)
    return parameters, raw.get("partial_rotary_factor") if share is None else share


def turning(head_dim: int, share: Any, default: float, name: str = "partial_rotary_factor") -> int:
    """How many numbers of a head turn. Raises ConfigError unless they are an even part of it."""
    turning = int(head_dim * number({name: share}, name, default, float))
    if turning % 2 or not 0 < turning <= head_dim:
        raise ConfigError(
            f"{name}={shown(share)} turns {turning} of a head's {head_dim} numbers: rotary positions turn halves of an "
            "even part of a head against each other"
        )
    return turning


def whole_heads(numbers: Mapping[str, Any]) -> int:
    """The size of a head where heads share `hidden_size`. Raises ConfigError where they do not divide it."""
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if hidden_size % heads:
        raise ConfigError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={heads}")
    return hidden_size // heads


def names_of(config: type) -> set[str]:
    """The names of a config's fields."""
    return {field.name for field in dataclasses.fields(config)}
