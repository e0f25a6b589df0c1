"""Tiny random encoders of every family beside BERT, on torch, and as checkpoints of any task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers

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
}
# Those whose code paths differ from one another's.
DISTINCT = ["roberta", "distilbert", "mpnet"]


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
    return layers[node.index] if node.part == "whole" else Half(variation, layers[node.index], node.part)


def encoder_of(network: Any) -> Any:
    """The module that holds the layers."""
    base = network.base_model
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


def torch_plan(name: str, plan: Plan, layers: Any) -> Any:
    """One module in the place of all layers, which gives what the family's layers give."""
    module = torch_node(VARIATIONS[name], plan.root, layers)

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

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
