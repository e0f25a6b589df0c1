"""The model families, by the `model_type` of their Hugging Face config."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpaint.models.config import Config

if TYPE_CHECKING:
    from jaxpaint.models.attention import AttentionImplementation


def model_class(config: Config) -> Any:
    """The Flax module of a configuration's family."""
    from jaxpaint.models.bert import Bert
    from jaxpaint.models.gpt_neox import Neox
    from jaxpaint.models.llama import Llama

    return {"llama": Llama, "mistral": Llama, "gpt_neox": Neox, "bert": Bert}[config.model_type]


def abstract_model(config: Config, dtype: Any, attention_implementation: AttentionImplementation = "matmul") -> Any:
    """The model with shapes in place of arrays: nothing is allocated."""
    from flax import nnx

    return nnx.eval_shape(
        lambda: model_class(config)(
            config, rngs=nnx.Rngs(0), dtype=dtype, attention_implementation=attention_implementation
        )
    )


def abstract_parameters(config: Config, dtype: Any) -> dict[str, Any]:
    """Every parameter's path (`blocks/mlp/up_proj/kernel`) with its stacked shape and dtype.

    Block parameters have a leading layer axis of `num_hidden_layers`; kernels are [in, out].
    """
    from flax import nnx
    from flax.traverse_util import flatten_dict

    return flatten_dict(nnx.to_pure_dict(nnx.state(abstract_model(config, dtype), nnx.Param)), sep="/")
