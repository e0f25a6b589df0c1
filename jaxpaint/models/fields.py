"""What the readers of `config.json` share: numbers and switches, rotary parameters, and refusing what is not handled.

Every number comes from the checkpoint. An attribute that could change the result and is not handled is refused by name,
so that a model is never run as something it is not.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxpaint.base.documents import shown, shown_items
from jaxpaint.base.errors import UserError


class ConfigError(UserError):
    """A checkpoint's configuration that this project cannot reproduce faithfully."""


@dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are rescaled (transformers `modeling_rope_utils`): `linear` or `llama3`.

    `linear` divides every frequency by `factor`; `llama3` divides the low ones, keeps the high ones and blends
    between, by wavelength relative to `original_max_position_embeddings` (in tokens).
    """

    rope_type: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


HIDDEN_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")

# Attributes that leave the logits of a frozen model as they are.
_HARMLESS = """
    _name_or_path architectures model_type torch_dtype dtype transformers_version use_cache initializer_range
    pretraining_tp attention_dropout hidden_dropout classifier_dropout bos_token_id eos_token_id pad_token_id
    unk_token_id is_llama_config transformers.js_config task_specific_params id2label label2id problem_type
    finetuning_task _attn_implementation _attn_implementation_autoset attn_implementation output_attentions
    output_hidden_states return_dict tokenizer_class unsloth_version unsloth_fixed
"""
# Settings of generation, which older configs carry.
_OF_GENERATION = """
    max_length min_length temperature top_k top_p do_sample num_beams repetition_penalty chat_template
"""
HARMLESS = frozenset((_HARMLESS + _OF_GENERATION).split())
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


def sizes(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that every family's config.json must have. Raises ConfigError for a missing or senseless one."""
    missing = [name for name in REQUIRED if raw.get(name) is None]
    if missing:
        raise ConfigError(
            f"config.json lacks {', '.join(missing)}: is it the config of a {raw['model_type']} checkpoint?"
        )
    return {name: number(raw, name) for name in REQUIRED}


def refuse_unhandled(raw: Mapping[str, Any], handled: Iterable[str]) -> None:
    """Raises ConfigError naming the attributes that are neither handled nor harmless."""
    known = HARMLESS.union(handled)
    # An attribute that is off (null, false, zero, empty) changes nothing, whatever it means when on.
    unhandled = {name: value for name, value in raw.items() if name not in known and value}
    if unhandled:
        listed = shown_items(sorted(unhandled.items()))
        raise ConfigError(
            f"config.json sets {listed}, which jaxpaint does not handle for {raw['model_type']} and which may change "
            "the result; remove it from config.json only if you know that it does not"
        )


def activation(values: Mapping[str, Any], default: str) -> str:
    """The name of the activation between a feed-forward's layers."""
    name = values.get("hidden_act") or default
    if name not in HIDDEN_ACTIVATIONS:
        raise ConfigError(f"hidden_act={shown(name)} is not handled; known: {', '.join(HIDDEN_ACTIVATIONS)}")
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
    """Both spellings together: `rope_scaling` (transformers 4) and `rope_parameters` (transformers 5)."""
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(values.get(name) or {}, Mapping):
            raise ConfigError(f"{name}={shown(values[name])} in config.json is not an object of rope parameters")
    return {**(values.get("rope_scaling") or {}), **(values.get("rope_parameters") or {})}


def rope(parameters: Mapping[str, Any], theta: Any, max_position_embeddings: int) -> tuple[float, RopeScaling | None]:
    """`(rope_theta, scaling)` of rotary parameters; `theta` where they do not name one."""
    parameters = dict(parameters)
    theta = number({"rope_theta": parameters.pop("rope_theta", theta)}, "rope_theta", 10000.0, float)
    older = parameters.pop("type", None)
    rope_type = parameters.pop("rope_type", None) or older or "default"
    known = names_of(RopeScaling)
    strange = {name: value for name, value in parameters.items() if name not in known and value not in (None, 1.0)}
    if not isinstance(rope_type, str) or rope_type not in SCALINGS or strange:
        detail = f" with {shown(strange)}" if strange else ""
        raise ConfigError(f"rope scaling {shown(rope_type)}{detail} is not handled; known types: {', '.join(SCALINGS)}")
    return theta, None if rope_type == "default" else _scaling(rope_type, parameters, max_position_embeddings)


# What each type of rope scaling must name.
SCALINGS = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}


def _scaling(rope_type: Any, parameters: Mapping[str, Any], max_position_embeddings: int) -> RopeScaling:
    lacking = [name for name in SCALINGS[rope_type] if parameters.get(name) is None]
    if lacking:
        raise ConfigError(f"rope scaling {rope_type!r} in config.json lacks {', '.join(lacking)}")
    scaling = {name: number(parameters, name, kind=float) for name in SCALINGS[rope_type]}
    if rope_type == "llama3":
        # Without one it is the context's, as transformers' `standardize_rope_params` has it.
        scaling["original_max_position_embeddings"] = number(
            parameters, "original_max_position_embeddings", max_position_embeddings
        )
        if scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
            raise ConfigError(
                f"rope scaling 'llama3' has low_freq_factor={scaling['low_freq_factor']} not below "
                f"high_freq_factor={scaling['high_freq_factor']}"
            )
    return RopeScaling(rope_type=rope_type, **scaling)


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
    rope_theta, rope_scaling = rope(parameters, raw.get(theta), length)
    refuse_unhandled(raw, {"rope_parameters", *handled})
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


def whole_heads(numbers: Mapping[str, Any]) -> int:
    """The size of a head where heads share `hidden_size`. Raises ConfigError where they do not divide it."""
    heads, hidden_size = numbers["num_attention_heads"], numbers["hidden_size"]
    if hidden_size % heads:
        raise ConfigError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={heads}")
    return hidden_size // heads


def names_of(config: type) -> set[str]:
    """The names of a config's fields."""
    return {field.name for field in dataclasses.fields(config)}
