"""Tiny random BERTs on torch and here, with the same weights."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict

from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.models import from_huggingface
from tests.helpers.decoders import randomise

VOCAB_SIZE, NUM_LAYERS, LONGEST = 61, 5, 24
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-2,  # large, so that it matters
}
# transformers' names of a layer's modules, and ours.
MODULES = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "mlp/intermediate",
    "output.dense": "mlp/output",
    "output.LayerNorm": "mlp_norm",
}
LEAVES = {"weight": "kernel", "bias": "bias"}
NORM_LEAVES = {"weight": "scale", "bias": "bias"}


@cache
def torch_bert(hidden_act: str = "gelu") -> Any:
    """A model with a pooler and both heads of pre-training."""
    from transformers import BertConfig, BertForPreTraining

    network = BertForPreTraining(BertConfig(**SIZES, hidden_act=hidden_act, attn_implementation="eager")).eval()
    randomise(network)
    return network


@cache
def tiny_bert(hidden_act: str = "gelu") -> Model:
    """Ours of the same weights, independently of `convert`."""
    network = torch_bert(hidden_act)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    flat: dict[str, np.ndarray] = {}
    for theirs, ours in (("word", "word"), ("position", "position"), ("token_type", "token_type")):
        flat[f"embed/{ours}/embedding"] = weights[f"bert.embeddings.{theirs}_embeddings.weight"]
    for theirs, ours in MODULES.items():
        for kind, leaf in (NORM_LEAVES if "Norm" in theirs else LEAVES).items():
            each = [weights[f"bert.encoder.layer.{layer}.{theirs}.{kind}"] for layer in range(NUM_LAYERS)]
            flat[f"blocks/{ours}/{leaf}"] = np.stack([value.T for value in each])
    for theirs, ours, leaves in (
        ("bert.embeddings.LayerNorm", "embed/norm", NORM_LEAVES),
        ("bert.pooler.dense", "pooler", LEAVES),
        ("cls.predictions.transform.dense", "masked_lm/transform", LEAVES),
        ("cls.predictions.transform.LayerNorm", "masked_lm/norm", NORM_LEAVES),
    ):
        for kind, leaf in leaves.items():
            flat[f"{ours}/{leaf}"] = weights[f"{theirs}.{kind}"].T
    flat["masked_lm/bias"] = weights["cls.predictions.bias"]
    config = from_huggingface(json.loads(network.config.to_json_string()))
    return from_parameters(config, unflatten_dict({name: jnp.array(value) for name, value in flat.items()}, sep="/"))


def torch_outputs(network: Any, tokens: Any, lengths: Any, token_types: Any, layers: Any = None) -> tuple[Any, ...]:
    """transformers' (logits, pooled, hidden states) of padded rows, its layer list rearranged."""
    mask = torch.tensor(np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]).long()
    encoder = network.bert.encoder
    original = encoder.layer
    try:
        encoder.layer = torch.nn.ModuleList(original[i] for i in (range(len(original)) if layers is None else layers))
        with torch.no_grad():
            inputs = {"input_ids": torch.tensor(tokens), "attention_mask": mask}
            inputs["token_type_ids"] = torch.tensor(token_types)
            found = network.bert(**inputs, output_hidden_states=True)
            logits = network.cls.predictions(found.last_hidden_state)
        return logits.numpy(), found.pooler_output.numpy(), [state.numpy() for state in found.hidden_states]
    finally:
        encoder.layer = original
