"""The model families, by the `model_type` of their Hugging Face config. A family is one file and a line here."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, get_type_hints

from jaxpaint.base.documents import checked, shown
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.models import (
    bert,
    distilbert,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    llama,
    mixtral,
    modernbert,
    mpnet,
    olmo2,
    olmo3,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    roberta,
    stablelm,
    vit,
)
from jaxpaint.models.family import Config, Family
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.scalings import LongropeScaling, scaling_from_dict

if TYPE_CHECKING:
    from jaxpaint.base.precision import Weights
    from jaxpaint.models.decoder import Implementation

FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    distilbert.FAMILY,
    falcon.FAMILY,
    gemma.FAMILY,
    gemma2.FAMILY,
    gemma3.FAMILY,
    gpt2.FAMILY,
    gpt_neox.FAMILY,
    llama.FAMILY,
    mixtral.FAMILY,
    modernbert.FAMILY,
    mpnet.FAMILY,
    olmo2.FAMILY,
    olmo3.FAMILY,
    phi3.FAMILY,
    qwen2.FAMILY,
    qwen2_moe.FAMILY,
    qwen3.FAMILY,
    qwen3_moe.FAMILY,
    roberta.FAMILY,
    stablelm.FAMILY,
    vit.FAMILY,
)


def family_of(model_type: Any) -> Family:
    """The family that a config.json names. Raises ConfigError for one that is not known."""
    known = {name: family for family in FAMILIES for name in family.model_types}
    if not isinstance(model_type, str) or model_type not in known:
        names = ", ".join(sorted(known))
        part = "; save the part of it that reads texts by itself (docs/how-to/text-part.md)"
        advice = part if model_type in gemma3.WITH_IMAGES else ""
        raise ConfigError(f"model_type {shown(model_type)} is not one this version converts; it knows {names}{advice}")
    return known[model_type]


def from_huggingface(raw: Mapping[str, Any]) -> Config:
    """Reads a Hugging Face `config.json` (of transformers 4 or 5) of a known family.

    Raises ConfigError for an unknown model type, a missing number, or an attribute that would change the result
    and is not handled.
    """
    config: Any = family_of(raw.get("model_type")).read(raw)
    scaling = getattr(config, "rope_scaling", None)
    if isinstance(scaling, LongropeScaling):
        frequencies = config.traits.rotary_dim // 2
        for name, factors in (("short", scaling.short_factor), ("long", scaling.long_factor)):
            if factors is not None and len(factors) != frequencies:
                raise ConfigError(
                    f"rope scaling 'longrope' has {len(factors)} {name} factors for the {frequencies} frequencies of a "
                    "head"
                )
    return config


def from_dict(values: Mapping[str, Any]) -> Config:
    """A configuration from what its `to_dict` gave. Raises ConfigError for anything else."""
    config = family_of(values.get("model_type")).config
    try:
        scaling = {"rope_scaling": scaling_from_dict(values["rope_scaling"])} if values.get("rope_scaling") else {}
        kinds = get_type_hints(config)
        plain = {name: checked(value, kinds[name], name) for name, value in {**values, **scaling}.items()}
        return config(**plain)
    except (KeyError, TypeError, UserError) as error:  # another name, one that lacks, another type
        raise ConfigError(f"this is not the config of a {values['model_type']}: {first_line(error)}") from error


# Fields that tell something of each layer: those of a model of other layers are these layers' own.
OF_EACH_LAYER = ("layer_types", "attention_norms")


def with_layers(config: Config, layers: Sequence[int]) -> Config:
    """The configuration of a model of these layers alone: where layers differ in kind, each keeps its own."""
    named: dict[str, Any] = {name: getattr(config, name, None) for name in OF_EACH_LAYER}
    own = {name: tuple(kinds[layer] for layer in layers) for name, kinds in named.items() if kinds}
    return dataclasses.replace(config, num_hidden_layers=len(layers), **own)  # type: ignore[type-var]


def model_class(config: Config) -> Any:
    """The Flax module of a configuration's family."""
    if config.capabilities.decoder:
        from jaxpaint.models.decoder import Decoder

        return Decoder
    if config.capabilities.images:
        from jaxpaint.models.vision_encoder import VisionEncoder

        return VisionEncoder
    if hasattr(config, "traits"):
        from jaxpaint.models.prenorm_encoder import PreNormEncoder

        return PreNormEncoder
    from jaxpaint.models.encoder import Encoder

    return Encoder


def abstract_model(
    config: Config,
    dtype: Any,
    attention_implementation: Implementation = "matmul",
    weights: Weights = "float",
) -> Any:
    """The model with shapes in place of arrays: nothing is allocated."""
    from flax import nnx

    return nnx.merge(*_abstract_parts(config, dtype, attention_implementation, weights))


@cache
def _abstract_parts(config: Config, dtype: Any, attention_implementation: Implementation, weights: Weights) -> Any:
    """Graph and shapes of it; each is made once, since a command asks for them of one model several times."""
    from flax import nnx

    return nnx.split(nnx.eval_shape(lambda: new_model(config, dtype, attention_implementation, weights)))


def new_model(
    config: Config,
    dtype: Any,
    attention_implementation: Implementation,
    weights: Weights = "float",
    *,
    seed: Any = 0,
) -> Any:
    """The model with random parameters, of a number or a JAX key."""
    from flax import nnx

    from jaxpaint.models.quantised import quantise_layers

    how = {"dtype": dtype, "attention_implementation": attention_implementation}
    model = model_class(config)(config, rngs=nnx.Rngs(seed), **how)
    quantise_layers(model, weights)
    return model


def abstract_parameters(config: Config, dtype: Any, weights: Weights = "float") -> dict[str, Any]:
    """Every parameter's path (`blocks/mlp/up_proj/kernel`) with its stacked shape and dtype.

    Block parameters have a leading layer axis of `num_hidden_layers`; kernels are [in, out].
    """
    from flax import nnx
    from flax.traverse_util import flatten_dict

    return flatten_dict(nnx.to_pure_dict(nnx.state(abstract_model(config, dtype, weights=weights), nnx.Param)), sep="/")
