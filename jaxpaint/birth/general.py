"""The general model: any number of layers, several heads, layer norm, learned positions, a ReLU network beside them.

Each layer reads its input once: x <- x + attention(norm(x)) + network(norm'(x)), as the authors' code has it (not one
after the other). It starts as PyTorch has it: embeddings of variance 1, matrices uniform up to one over the square root
of what they read, no biases. In Flax; its layers are stacked, so that it runs under any plan.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.birth.data import Batch
from jaxpaint.birth.layers import Parameters
from jaxpaint.engine.events import Events, run_events

EPSILON = 1e-5  # of layer norms
START = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # up to 1/sqrt(fan in)


class Block(nnx.Module):
    """One layer, residual connections included."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        start: Any = {"use_bias": False, "kernel_init": START, "rngs": rngs}
        self.attention = nnx.MultiHeadAttention(
            num_heads=heads, in_features=width, decode=False, out_kernel_init=START, **start
        )
        self.network_norm = nnx.LayerNorm(width, epsilon=EPSILON, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, **start)
        self.narrow = nnx.Linear(4 * width, width, **start)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        visible = nnx.make_causal_mask(x[..., 0])
        mixed = self.attention(self.attention_norm(x), mask=visible)
        return x + mixed + self.narrow(jax.nn.relu(self.wide(self.network_norm(x))))


@dataclass(frozen=True)
class GeneralModel:
    """The architecture, of the shape of `jaxpaint.birth.model.SmallModel`; all of its parameters are trained."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    length: int = 256
    vocabulary: int = 65

    def init(self, key: Array) -> Parameters:
        """Parameters at the start, in float32."""
        of_layers, of_tokens, of_positions, of_output = jax.random.split(key, 4)

        def layer(key: Array) -> Parameters:
            return nnx.to_pure_dict(nnx.state(Block(self.width, self.heads, rngs=nnx.Rngs(key)), nnx.Param))

        width, numbers = self.width, jax.random.uniform(of_output, (self.vocabulary, self.width), minval=-1)
        return {
            "layers": jax.vmap(layer)(jax.random.split(of_layers, self.layers)),
            "tokens": jax.random.normal(of_tokens, (self.vocabulary, width)),
            "positions": jax.random.normal(of_positions, (self.length, width)),
            "norm": {"scale": jnp.ones(width), "bias": jnp.zeros(width)},
            "unembedding": numbers / np.sqrt(width),
        }

    @property
    def block(self) -> Callable[[Parameters, Array, tuple[()]], Array]:
        """One layer as the engine's executors take it."""
        graph, others = _graph(self.width, self.heads)

        def run(layer: Parameters, x: Float[Array, "B T D"], context: tuple[()] = ()) -> Float[Array, "B T D"]:
            return nnx.merge(graph, layer, others)(x)

        return run

    def logits(self, parameters: Parameters, events: Events, tokens: Int[Array, "B T"]) -> Float[Array, "B T N"]:
        """Of every position, under a plan given as its events."""
        x = parameters["tokens"][tokens] + parameters["positions"][: tokens.shape[1]]
        x = run_events(self.block, parameters["layers"], events, x, ())
        centred = x - x.mean(axis=-1, keepdims=True)
        normed = centred * jax.lax.rsqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        return (normed * parameters["norm"]["scale"] + parameters["norm"]["bias"]) @ parameters["unembedding"].T

    def released(self, embeddings: bool) -> dict[str, np.ndarray]:
        """Everything, from the first step on."""
        shapes = jax.eval_shape(lambda: self.init(jax.random.key(0)))
        paths = ("/".join(str(key.key) for key in path) for path, _ in jax.tree.leaves_with_path(shapes))
        return {path: np.zeros(self.layers if path.startswith("layers/") else (), np.int32) for path in paths}

    def memories(self, parameters: Parameters, stored: Array, triggers: Array, bigrams: Array) -> dict[str, Array]:
        """The probes read the small model's matrices alone."""
        return {}

    def attended(
        self, parameters: Parameters, events: Events, batch: Batch
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The probes are of layers with one head."""
        return {}, {}


@cache
def _graph(width: int, heads: int) -> tuple[Any, Any]:
    block = nnx.eval_shape(lambda: Block(width, heads, rngs=nnx.Rngs(0)))
    graph, *states = nnx.split(block, nnx.Param, ...)
    return graph, states[1]
