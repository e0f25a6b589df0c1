"""Tiny random encoders of every family beside BERT, on torch, and as checkpoints of any task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask
from transformers.models.modernbert import modeling_modernbert

from jaxpaint.plans.plan import Layer, Parallel, Plan, Repeat, Series, Weighted
from tests.helpers.decoders import randomise

VOCAB_SIZE, NUM_LAYERS, LONGEST, PADDING = 61, 5, 24, 1
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": NUM_LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "layer_norm_eps": 1e-2,  # large, so that it matters
    "pad_token_id": PADDING,
}
ROBERTA = {**SIZES, "type_vocab_size": 1, "hidden_act": "gelu_new"}
MODERNBERT = {
    **{name: value for name, value in SIZES.items() if name != "layer_norm_eps"},
    **{"norm_eps": 1e-2, "norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True},
    **{"local_attention": 9, "global_attn_every_n_layers": 3, "classifier_pooling": "mean", "cls_token_id": 2},
    **{"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3},
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 700.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 20.0},
    },
}
DISTILBERT = {
    **{"vocab_size": VOCAB_SIZE, "dim": 32, "hidden_dim": 48, "n_layers": NUM_LAYERS, "n_heads": 4},
    **{"max_position_embeddings": 40, "activation": "gelu", "pad_token_id": 0},
}


@dataclass(frozen=True)
class Variation:
    """A config.json's values, how many tokens a text may have, and the halves of one of torch's layers."""

    config: dict[str, Any]
    positions: int
    attention: Any
    mlp: Any
    pooler: bool = True
    joint_head: bool = False
    """Classifiers of all kinds, and the masked-LM head, begin with the same head."""

    @property
    def model_type(self) -> str:
        return self.config["model_type"]


def _first(found: Any) -> Any:
    return found[0] if isinstance(found, tuple) else found


def _berts(model_type: str, values: dict[str, Any], positions: int) -> Variation:
    return Variation(
        {"model_type": model_type, **values},
        positions,
        lambda layer, x, *shared, **named: _first(layer.attention(x, *shared, **named)),
        lambda layer, x: layer.output(layer.intermediate(x), x),
    )


VARIATIONS = {
    "roberta": _berts("roberta", ROBERTA, 38),
    "xlm-roberta": _berts("xlm-roberta", {**ROBERTA, "pad_token_id": 3, "hidden_act": "gelu"}, 36),
    "distilbert": Variation(
        {"model_type": "distilbert", **DISTILBERT},
        40,
        lambda layer, x, *shared, **named: layer.sa_layer_norm(layer.attention(x, *shared, **named)[0] + x),
        lambda layer, x: layer.output_layer_norm(layer.ffn(x) + x),
        pooler=False,
    ),
    "mpnet": _berts("mpnet", {**SIZES, "max_position_embeddings": 302}, 300),
    "modernbert": Variation(
        {"model_type": "modernbert", **MODERNBERT},
        40,
        lambda layer, x, *shared, **named: x + layer.attn(layer.attn_norm(x), *shared, **named)[0],
        lambda layer, x: x + layer.mlp(layer.mlp_norm(x)),
        pooler=False,
        joint_head=True,
    ),
}
# Those whose code paths differ from one another's.
DISTINCT = ["roberta", "distilbert", "mpnet", "modernbert"]


def config_of(name: str, **more: Any) -> Any:
    values = {**VARIATIONS[name].config, **more}
    return transformers.AutoConfig.for_model(values.pop("model_type"), attn_implementation="eager", **values)


@cache
def torch_encoder(name: str, task: str = "MaskedLM") -> Any:
    """transformers' model of a task: `AutoModel` for none. Those of a family have the same encoder."""
    kind = getattr(transformers, f"AutoModelFor{task}" if task else "AutoModel")
    network = kind.from_config(config_of(name)).eval()
    randomise(network)
    base, first = network.base_model, kind is not transformers.AutoModel and torch_encoder(name, "")
    if first:
        weights = first.state_dict()
        base.load_state_dict({name: weights[name] for name in base.state_dict()})
    return network


class Half(torch.nn.Module):
    """A layer's attention or feed-forward with its residual and norm."""

    def __init__(self, variation: Variation, layer: Any, part: str) -> None:
        super().__init__()
        self.layer, self.run, self.part = layer, getattr(variation, part), part

    def forward(self, x: Any, *shared: Any, **named: Any) -> Any:
        return (self.run(self.layer, x, *shared, **named) if self.part == "attention" else self.run(self.layer, x),)


class Joined(torch.nn.Module):
    """A node of a plan over torch's layers."""

    def __init__(self, variation: Variation, node: Any, layers: Any) -> None:
        super().__init__()
        self.node = node
        inner = {Series: "items", Parallel: "branches"}.get(type(node))
        nodes = getattr(node, inner) if inner else [node.body]
        self.inner = torch.nn.ModuleList(torch_node(variation, each, layers) for each in nodes)

    def forward(self, x: Any, *shared: Any, **named: Any) -> Any:
        def run(module: Any, x: Any) -> Any:
            return _first(module(x, *shared, **named))

        match self.node:
            case Parallel(_, combine):
                outputs = torch.stack([run(module, x) for module in self.inner])
                y = outputs.mean(dim=0) if combine == "mean" else x + (outputs - x).sum(dim=0)
            case Weighted(_, weight):
                y = x + weight * (run(self.inner[0], x) - x)
            case _:
                y = x
                for _ in range(self.node.times if isinstance(self.node, Repeat) else 1):
                    for module in self.inner:
                        y = run(module, y)
        return y


def torch_node(variation: Variation, node: Any, layers: Any) -> Any:
    if not isinstance(node, Layer):
        return Joined(variation, node, layers)
    layer = layers[node.index] if node.part == "whole" else Half(variation, layers[node.index], node.part)
    return OfItsKind(layer, layers[node.index]) if variation.model_type == "modernbert" else layer


class OfItsKind(torch.nn.Module):
    """A layer of ModernBERT, or half of one, given the mask of full attention: it makes its own, and rotary tables."""

    def __init__(self, part: Any, layer: Any) -> None:
        super().__init__()
        self.part, self.config, self.kind = part, layer.config, layer.attention_type
        self.turn = modeling_modernbert.ModernBertRotaryEmbedding(layer.config)

    def forward(self, x: Any, attention_mask: Any = None, **_: Any) -> Any:
        window = self.kind == "sliding_attention"
        masked = create_bidirectional_sliding_window_mask if window else create_bidirectional_mask
        seen = None if attention_mask is None else attention_mask[:, 0, 0] == 0
        tables = self.turn(x, torch.arange(x.shape[1])[None], self.kind)
        return self.part(x, attention_mask=masked(self.config, x, seen), position_embeddings=tables)


class Layers:
    """ModernBERT's list of layers by the name that other encoders have for theirs."""

    def __init__(self, base: Any) -> None:
        self.base = base

    @property
    def layer(self) -> Any:
        return self.base.layers

    @layer.setter
    def layer(self, layers: Any) -> None:
        self.base.layers = layers


def encoder_of(network: Any) -> Any:
    """What holds the layers."""
    base = network.base_model
    if hasattr(base, "layers"):
        return Layers(base)
    return base.encoder if hasattr(base, "encoder") else base.transformer


def torch_logits(name: str, tokens: np.ndarray, lengths: np.ndarray, plan: Plan | None = None) -> np.ndarray:
    """transformers' masked-LM logits of right-padded rows, a plan in place of its layers."""
    network = torch_encoder(name)
    encoder, layers = encoder_of(network), encoder_of(network).layer
    with torch.no_grad():
        try:
            if plan is not None:
                encoder.layer = torch.nn.ModuleList([torch_plan(name, plan, layers)])
            return network(**torch_inputs(name, tokens, lengths)).logits.numpy()
        finally:
            encoder.layer = layers


def torch_states(name: str, tokens: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """transformers' hidden states of right-padded rows, the last one before the final norm, where there is one."""
    base = torch_encoder(name).base_model
    final = getattr(base, "final_norm", None)
    try:
        if final is not None:
            base.final_norm = torch.nn.Identity()
        with torch.no_grad():
            found = base(**torch_inputs(name, tokens, lengths), output_hidden_states=True).hidden_states
        return [state.numpy() for state in found]
    finally:
        if final is not None:
            base.final_norm = final


def torch_plan(name: str, plan: Plan, layers: Any) -> Any:
    """One module in the place of all layers, which gives what the family's layers give."""
    module = torch_node(VARIATIONS[name], plan.root, layers)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.attention_type = module, "full_attention"

        def forward(self, x: Any, *shared: Any, **named: Any) -> Any:
            found = _first(self.module(x, *shared, **named))
            return (found,) if VARIATIONS[name].model_type == "mpnet" else found

    return Whole()


def torch_inputs(name: str, tokens: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """Rows as a tokenizer pads them."""
    seen = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    padding = VARIATIONS[name].config["pad_token_id"]
    return {
        "input_ids": torch.tensor(np.where(seen, tokens, padding)).long(),
        "attention_mask": torch.tensor(seen).long(),
    }
