"""Tiny random decoders in every variation that the families know, on torch and here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from flax.traverse_util import unflatten_dict

from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.models import from_huggingface
from jaxpaint.plans.plan import Plan

VOCAB_SIZE = 61
NUM_LAYERS = 5
# Plans of all kinds, many that begin alike, two that are equal, and one of more states than are compared in one call.
PLANS = [
    Plan.parse(text)
    for text in (
        "0-4",
        "0 {1-3}*3 4",
        "0 {1-3} 4",
        "0 {1-3}*2 4",
        "0-2",
        "0 2 1 3 4",
        "4-0",
        "0 sum{1 2} 3 4",
        "0 {1@0.25 (2 3)@1.5}@0.5*2 4@-0.5",
        "0 {(1 {2 3}) 2} 4",
        "0 1a {3a (1m 2) 4m}*2 2m@0.5 3",
        "0 lp{1 2} 3m~0 4",
        "0 (1 2)*5 4",
        "0-4",
        "3",
    )
]
LONGEST = 24  # tokens in a test's texts: beyond the sliding window, and into every regime of the rope scaling
WINDOW = 5

SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-2,  # large, so that it matters
}
_LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 5000.0,
}
VARIATIONS: dict[str, dict[str, Any]] = {
    "multi-head": {"num_key_value_heads": 4},
    "grouped-query": {},
    "multi-query": {"num_key_value_heads": 1},
    "tied embeddings": {"tie_word_embeddings": True},
    "head size": {"head_dim": 6, "num_attention_heads": 8, "num_key_value_heads": 4},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True},
    "gelu": {"hidden_act": "gelu"},
    "linear rope": {"rope_parameters": _LINEAR},
    "llama3 rope": {"rope_parameters": _LLAMA3},
    "sliding window": {"model_type": "mistral", "head_dim": 8, "sliding_window": WINDOW},
    "no sliding window": {"model_type": "mistral", "head_dim": 8, "sliding_window": None},
    "gemma": {"model_type": "gemma", "head_dim": 8},
    "gemma2": {
        "model_type": "gemma2",
        "head_dim": 6,
        "query_pre_attn_scalar": 3,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": WINDOW,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        "head_dim": 6,
        "query_pre_attn_scalar": 3,
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] + ["sliding_attention"] * 2,
        "rope_parameters": {
            "full_attention": _LINEAR,
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
    },
    "neox": {"model_type": "gpt_neox"},
    "neox, residuals in series": {"model_type": "gpt_neox", "use_parallel_residual": False},
    "neox, whole heads turn": {
        "model_type": "gpt_neox",
        "rope_parameters": {**_LINEAR, "partial_rotary_factor": 1.0},
        "hidden_act": "gelu_fast",
    },
    "neox, tied, no attention bias": {
        "model_type": "gpt_neox",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default", "partial_rotary_factor": 0.5},
    },
    "qwen2": {"model_type": "qwen2"},
    "qwen2, windows in turn": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    },
    "qwen3": {
        "model_type": "qwen3",
        "head_dim": 6,
        "use_sliding_window": True,
        "sliding_window": WINDOW,
        "max_window_layers": 2,
    },
    "olmo2": {"model_type": "olmo2"},
    "phi3": {
        "model_type": "phi3",
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.75},
        "sliding_window": WINDOW,
        "pad_token_id": 0,
    },
    "stablelm": {"model_type": "stablelm", "use_qkv_bias": True},
}
# Of parts that the others have not: tests/models/test_families.py alone runs over them.
BESIDE: dict[str, dict[str, Any]] = {
    "gpt2": {
        **{"model_type": "gpt2", "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    },
    "falcon": {"model_type": "falcon"},
    "falcon, new": {"model_type": "falcon", "new_decoder_architecture": True, "bias": True},
    "mixtral": {
        **{"model_type": "mixtral", "sliding_window": WINDOW, "head_dim": 6},
        **{"num_local_experts": 4, "num_experts_per_tok": 2},
    },
    "olmo3": {
        "model_type": "olmo3",
        "sliding_window": WINDOW,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] + ["full_attention"] * 2,
        "rope_parameters": {
            "full_attention": _LINEAR,
            "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
        },
    },
    "qwen2_moe": {
        **{"model_type": "qwen2_moe", "num_experts": 6, "num_experts_per_tok": 3},
        **{"moe_intermediate_size": 24, "shared_expert_intermediate_size": 40},
    },
    "qwen3_moe": {
        **{"model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2, "norm_topk_prob": True},
        **{"moe_intermediate_size": 24, "head_dim": 6},
    },
}
# Attributes of the sizes that a family has under another name, or not at all.
_OTHER_NAMES: dict[str, dict[str, str | None]] = {
    "falcon": {
        **{"num_key_value_heads": "num_kv_heads", "rms_norm_eps": "layer_norm_epsilon"},
        **{"intermediate_size": "ffn_hidden_size"},
    },
    "gpt2": {
        **{"num_key_value_heads": None, "rms_norm_eps": "layer_norm_epsilon", "hidden_size": "n_embd"},
        **{"intermediate_size": "n_inner", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        **{"max_position_embeddings": "n_positions"},
    },
    "gpt_neox": {"num_key_value_heads": None, "rms_norm_eps": "layer_norm_eps"},
    "stablelm": {"rms_norm_eps": "layer_norm_eps"},
}


@dataclass(frozen=True)
class Tiny:
    """One model twice, with the same random weights: on torch by transformers, and ours."""

    torch: Any
    model: Model

    @property
    def raw_config(self) -> dict[str, Any]:
        """Its config.json as transformers writes it."""
        return json.loads(self.torch.config.to_json_string())

    @property
    def torch_layers(self) -> Any:
        """transformers' list of layers."""
        return getattr(self.torch.base_model, self.layers_name)

    @property
    def layers_name(self) -> str:
        """What transformers calls it."""
        return "layers" if hasattr(self.torch.base_model, "layers") else "h"

    @property
    def module(self) -> Any:
        """Ours as a Flax module."""
        return nnx.merge(self.model.graphdef, self.model.state)

    def block(self, index: int) -> Any:
        """Our layer `index` as a Flax module."""
        graphdef, stacked = nnx.split(self.module.blocks)
        return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[index], stacked))

    def context(self, index: int, *layout: Any) -> Any:
        """What our layer `index` reads of a batch's layout."""
        context, kinds = self.module.context(*layout), self.module.layer_kinds
        return context if kinds is None else context.of_kind(kinds[index])

    def torch_logits(self, tokens: np.ndarray, lengths: Any = None, layers: Any = None) -> np.ndarray:
        """transformers' logits, right-padded texts masked beyond their lengths, its layer list rearranged."""
        lengths = np.full(len(tokens), tokens.shape[1]) if lengths is None else np.asarray(lengths)
        mask = torch.tensor(np.arange(tokens.shape[1]) < lengths[:, None]).long()
        network, config, original = self.torch.base_model, self.torch.config, self.torch_layers
        order = range(len(original)) if layers is None else layers
        kinds = getattr(config, "layer_types", None)
        try:
            setattr(network, self.layers_name, torch.nn.ModuleList(original[index] for index in order))
            config.num_hidden_layers = len(order)
            if kinds:
                config.layer_types = [kinds[index] for index in order]
            with torch.no_grad():
                return self.torch(torch.tensor(tokens), attention_mask=mask, use_cache=False).logits.numpy()
        finally:
            setattr(network, self.layers_name, original)
            config.num_hidden_layers = len(original)
            if kinds:
                config.layer_types = kinds


@cache
def make_tiny(variation: str) -> Tiny:
    values = {**SIZES, **{**VARIATIONS, **BESIDE}[variation]}
    return tiny_like(values.pop("model_type", "llama"), **values)


def tiny_like(model_type: str, **values: Any) -> Tiny:
    """A family's random model of these values, which are given by Llama's names and set by the family's own."""
    # Here, because it takes seconds that most test files can do without.
    import transformers

    values = named({"model_type": model_type, **values})
    config = transformers.AutoConfig.for_model(**values, attn_implementation="eager", experts_implementation="eager")
    return tiny_of(transformers.AutoModelForCausalLM.from_config(config))


def named(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json's values as its family names them."""
    names = _OTHER_NAMES.get(values["model_type"], {})
    return {known: value for name, value in values.items() if (known := names.get(name, name))}


def tiny_of(network: Any) -> Tiny:
    """A network of transformers with random weights, and ours of the same."""
    randomise(network.eval())
    config = from_huggingface(json.loads(network.config.to_json_string()))
    return Tiny(network, from_parameters(config, stacked_parameters(network.state_dict(), config.num_hidden_layers)))


def randomise(network: torch.nn.Module, seed: int = 0) -> None:
    """Weights that all matter: norms are not ones, biases not zeros, attention neither uniform nor one-hot."""
    generator = torch.Generator().manual_seed(seed)
    scale = 0 if network.config.model_type.startswith("gemma") else 1  # theirs are stored less 1
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if ("norm" in name.lower() or "ln_" in name) and name.endswith("weight"):
                parameter.copy_(scale + 0.3 * noise)
            elif name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            else:
                # The embedding's scale is one column's.
                parameter.copy_(1.3 * noise / parameter.shape[-1] ** 0.5)


def stacked_parameters(
    state_dict: Mapping[str, torch.Tensor], num_layers: int, transposed: bool | None = None
) -> dict[str, Any]:
    """Torch weights as ours, independently of `convert`: kernels `transposed` but for GPT-2's, layers stacked.

    What a name outside of the layers stands for is told by its structure: within the base module the norm says that it
    is one and the embedding is the rest; the head lies beside the base module.
    """
    first = next(name for name in state_dict if ".0." in name).split(".0.")[0] + ".0."
    transposed = "transformer.h.0.attn.c_attn.weight" not in state_dict if transposed is None else transposed
    flat: dict[str, np.ndarray] = {}
    outside = {name: value for name, value in state_dict.items() if not re.search(r"\.\d+\.", name)}
    embedding = next(value for value in outside.values() if value.ndim == 2)  # the embedding comes first
    for name, value in outside.items():
        module, kind = name.rsplit(".", 1)
        if module == "lm_head":
            if value.data_ptr() != embedding.data_ptr():
                flat["lm_head/kernel"] = value.numpy().T
        elif value.ndim == 1:
            flat["norm/bias" if kind == "bias" else "norm/scale"] = value.numpy()
        else:
            flat["embed/embedding" if value is embedding else "embed/position/embedding"] = value.numpy()
    for name in (key.removeprefix(first) for key in state_dict if key.startswith(first)):
        stacked = np.stack([state_dict[first.replace(".0.", f".{i}.") + name].numpy() for i in range(num_layers)])
        path, kind = name.replace(".", "/").rsplit("/", 1)
        if stacked.ndim == 4:  # of experts, those that are joined one after the other
            parts = kind.split("_")[:-1]
            for part, kernel in zip(parts, np.split(stacked.swapaxes(2, 3), len(parts), axis=-1), strict=True):
                flat[f"blocks/{path}/{part}_proj/kernel"] = kernel
        elif kind == "bias":
            flat[f"blocks/{path}/bias"] = stacked
        elif stacked.ndim == 2:
            flat[f"blocks/{path}/scale"] = stacked
        else:
            flat[f"blocks/{path}/kernel"] = stacked.transpose(0, 2, 1) if transposed else stacked
    return unflatten_dict(jax.tree.map(jax.numpy.asarray, flat), sep="/")
