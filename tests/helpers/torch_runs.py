"""The oracle of runs that are looked into: transformers' layers in a plain loop, seen and changed by torch's hooks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from jaxpaint.plans.plan import Layer, Node, Parallel, Plan, Repeat, Series, Weighted
from tests.helpers.decoders import Tiny

# `(number of the event, layer, "attention" or "mlp", what it gives) -> what is gone on with`.
Change = Callable[[int, int, str, torch.Tensor], torch.Tensor]
# `(number of the event, layer) -> [N or 1, S, S]`, true where an edge from a query to a key is blocked.
Blocked = Callable[[int, int], Any]
ChangeState = Callable[[int, torch.Tensor], torch.Tensor]


def torch_run(
    tiny: Tiny,
    tokens: Any,
    plan: Plan,
    change: Change = lambda number, layer, what, y: y,
    blocked: Blocked = lambda number, layer: None,
    change_state: ChangeState = lambda number, x: x,
) -> dict[str, np.ndarray]:
    """Rows that are not padded, under a plan: all that a `jaxpaint.engine.run.Run` has, by the same names."""
    base, found = tiny.torch.base_model, {"attention": [], "attention_out": [], "mlp_out": [], "reads": []}
    states: list[torch.Tensor] = []

    def layer(index: int, part: str, beside: int | None, x: torch.Tensor) -> torch.Tensor:
        number, module = len(found["reads"]), tiny.torch_layers[index]
        if beside is not None:
            module = _sharing_norm(module, tiny.torch_layers[beside])
        attention = module.attention if hasattr(module, "attention") else module.self_attn

        def of_attention(_: Any, inputs: Any, outputs: Any) -> Any:
            found["attention"].append(outputs[1])
            changed = change(number, index, "attention", outputs[0]) * (part != "mlp")
            found["attention_out"].append(changed)
            return (changed, *outputs[1:])

        def of_mlp(_: Any, inputs: Any, output: Any) -> Any:
            found["mlp_out"].append(change(number, index, "mlp", output) * (part != "attention"))
            return found["mlp_out"][-1]

        hooks = attention.register_forward_hook(of_attention), module.mlp.register_forward_hook(of_mlp)
        found["reads"].append(x)
        try:
            length = x.shape[1]
            return module(
                x,
                attention_mask=_mask(tiny, index, length, blocked(number, index)),
                position_embeddings=base.rotary_emb(x, torch.arange(length)[None]),
            )
        finally:
            for hook in hooks:
                hook.remove()

    def apply(node: Node, x: torch.Tensor, outermost: bool) -> torch.Tensor:
        match node:
            case Layer(index, part, beside):
                x = layer(index, part, beside, x)
            case Series(items):
                for item in items:
                    x = apply(item, x, outermost)
                return x
            case Repeat(body, times):
                for _ in range(times):
                    x = apply(body, x, outermost)
                return x
            case Parallel(branches, combine):
                outputs = torch.stack([apply(branch, x, False) for branch in branches])
                x = outputs.mean(0) if combine == "mean" else x + (outputs - x).sum(0)
            case Weighted(body, weight):
                x = x + weight * (apply(body, x, False) - x)
        return kept(x) if outermost else x

    def kept(x: torch.Tensor) -> torch.Tensor:
        states.append(change_state(len(states), x))
        return states[-1]

    with torch.no_grad():
        embedded = tiny.torch.get_input_embeddings()(torch.tensor(np.asarray(tokens)))
        x = apply(plan.root, kept(embedded), True)
        last = base.final_layer_norm if hasattr(base, "final_layer_norm") else base.norm
        logits = tiny.torch.get_output_embeddings()(last(x))
    stacked = {name: torch.stack(each).numpy() for name, each in {**found, "states": states}.items()}
    return {**stacked, "logits": logits.numpy()}


def _sharing_norm(module: torch.nn.Module, other: torch.nn.Module) -> torch.nn.Module:
    """A layer whose norm before the feed-forward has the mean of both layers' parameters."""
    own = copy.deepcopy(module)
    norms = own.post_attention_layernorm, other.post_attention_layernorm
    for one, two in zip(*(norm.parameters() for norm in norms), strict=True):
        one.copy_((one + two) / 2)
    return own


def _mask(tiny: Tiny, layer: int, length: int, blocked: Any) -> torch.Tensor:
    """What the layer's attention adds to its scores."""
    query, key = np.arange(length)[:, None], np.arange(length)[None, :]
    window = getattr(tiny.torch.config, "sliding_window", None) or length
    kinds = getattr(tiny.torch.config, "layer_types", None)
    if kinds and kinds[layer] == "full_attention":
        window = length
    seen = ((key <= query) & (query - key < window))[None]
    seen = seen if blocked is None else seen & ~np.asarray(blocked)
    return torch.where(torch.tensor(seen), 0.0, torch.finfo(torch.float32).min)[None]
