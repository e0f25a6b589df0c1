"""The small model of the paper: layers of attention with one head, no layer norm, a key matrix that is query and key.

    x_t <- x_t + W_O W_V sum over s <= t of A[t, s] x_s,    A[t, :] = softmax over s <= t of x_t' W_K x_s / sqrt(D)

and, where there is one, x <- x + F(x) in the last layer, F a matrix W_F or a ReLU network. Layers' parameters are
stacked, so that the engine's executors run them under any plan. Layer 0 of a plan is the paper's layer 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.birth import probes
from jaxpaint.birth.layers import NEVER, Parameters, feed_forward, of_layer
from jaxpaint.engine.events import Events, run_events
from jaxpaint.plans.plan import Plan

Start: TypeAlias = Literal["default", "orthogonal"]
FeedForward: TypeAlias = Literal["none", "linear", "mlp"]
Blocked: TypeAlias = Bool[Array, "B T T"]
FULL = Plan.of(0, 1)
MLP_WIDTH = 4  # times the model's


@dataclass(frozen=True)
class SmallModel:
    """The architecture: `width` D, texts of at most `length` tokens, `vocabulary` tokens, `layers` layers.

    `start` is PyTorch's default (embeddings of variance 1, matrices uniform up to 1/sqrt(D)) or `orthogonal`, nearly:
    everything normal of variance 1/D. Without `scaled` scores are not divided by sqrt(D).
    """

    width: int
    length: int
    vocabulary: int = 65
    layers: int = 2
    start: Start = "default"
    feed_forward: FeedForward = "none"
    scaled: bool = True

    def init(self, key: Array) -> Parameters:
        """Parameters at the start, in float32."""
        near, width, stacked = self.start == "orthogonal", self.width, (self.layers, self.width, self.width)
        wide = {"none": 0, "linear": width, "mlp": 2 * MLP_WIDTH * width}[self.feed_forward]
        of_embeddings, of_matrices = jax.random.split(key)
        # One draw of each kind, because each compiles for half a second.
        rows = jax.random.normal(of_embeddings, (self.vocabulary + self.length, width))
        rows = rows / np.sqrt(width) if near else rows
        count = width * (self.vocabulary + self.layers * (3 * width + wide))
        numbers = (
            jax.random.normal(of_matrices, (count,)) if near else jax.random.uniform(of_matrices, (count,), minval=-1)
        )
        taken = 0

        def matrix(*shape: int, fan_in: int = width) -> Array:
            nonlocal taken
            taken += int(np.prod(shape))
            return numbers[taken - int(np.prod(shape)) : taken].reshape(shape) / np.sqrt(fan_in)

        parameters = {
            "tokens": rows[: self.vocabulary],
            "positions": rows[self.vocabulary :],
            "unembedding": matrix(self.vocabulary, width),
            "layers": {"key": matrix(*stacked), "value": matrix(*stacked), "output": matrix(*stacked)},
        }
        is_last = (jnp.arange(self.layers) == self.layers - 1)[:, None, None]  # elsewhere F is zero, and stays so
        if self.feed_forward == "linear":
            parameters["layers"]["feed_forward"] = matrix(*stacked) * is_last
        elif self.feed_forward == "mlp":
            inner = MLP_WIDTH * width
            parameters["layers"]["feed_forward_in"] = matrix(self.layers, width, inner) * is_last
            parameters["layers"]["feed_forward_out"] = matrix(self.layers, inner, width, fan_in=inner) * is_last
        return parameters

    @property
    def block(self) -> Callable[[Parameters, Array, tuple[()]], Array]:
        """One layer as the engine's executors take it: `(parameters of one layer, x [B, T, D], ()) -> x`."""

        def run(
            layer: Parameters, x: Float[Array, "B T D"], context: tuple[()] = (), blocked: Blocked | None = None
        ) -> Float[Array, "B T D"]:
            mixed = self.attention(layer, x, blocked) @ x
            x = x + mixed @ (layer["output"] @ layer["value"]).T
            return x + feed_forward(layer, x) if self.feed_forward != "none" else x

        return run

    def attention(
        self, layer: Parameters, x: Float[Array, "B T D"], blocked: Blocked | None = None
    ) -> Float[Array, "B T T"]:
        """How much each position attends to each, itself and those before; rows sum to 1. No row may be all blocked."""
        scores = (x @ layer["key"]) @ x.swapaxes(-1, -2)
        scores = scores / np.sqrt(self.width) if self.scaled else scores
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        visible = visible if blocked is None else visible & ~blocked
        return jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)

    def embed(self, parameters: Parameters, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Token and position embeddings, added."""
        return parameters["tokens"][tokens] + parameters["positions"][: tokens.shape[1]]

    def unembed(self, parameters: Parameters, x: Float[Array, "B T D"]) -> Float[Array, "B T N"]:
        """Logits."""
        return x @ parameters["unembedding"].T

    def released(self, embeddings: bool) -> dict[str, np.ndarray]:
        """The step from which each trained parameter is trained, by its path: a number, or one for each layer.

        W_K of all layers, W_O of all but the first, F of the last; w_E and w_U only with `embeddings`.
        """
        every, first, last = np.zeros(self.layers, np.int32), np.full(self.layers, NEVER, np.int32), self.layers - 1
        found = {"layers/key": every, "layers/output": np.where(np.arange(self.layers) == 0, first, every)}
        for name in {"none": (), "linear": ("",), "mlp": ("_in", "_out")}[self.feed_forward]:
            found[f"layers/feed_forward{name}"] = np.where(np.arange(self.layers) == last, every, first)
        if embeddings:
            found |= {"tokens": np.array(0), "unembedding": np.array(0)}
        return found

    def memories(
        self,
        parameters: Parameters,
        stored: Int[Array, " N"],
        triggers: Int[Array, " K"],
        bigrams: Float[Array, "N N"],
    ) -> dict[str, Float[Array, ""]]:
        """What the weights of two layers store (`jaxpaint.birth.probes`), the norm of the last W_O, and D(W_F)."""
        found = probes.recalls(parameters, stored) if self.layers == 2 else {}
        found |= {"output_norm": jnp.linalg.norm(parameters["layers"]["output"][-1])}
        if self.feed_forward != "none":
            found |= {"bigram_distance": probes.bigram_distance(parameters, bigrams, triggers)}
        return found

    def logits(
        self,
        parameters: Parameters,
        events: Events,
        tokens: Int[Array, "B T"],
        blocked: Bool[Array, "events B T T"] | None = None,
    ) -> Float[Array, "B T N"]:
        """Of every position, under a plan given as its events; in each without the edges `blocked`, query by key."""
        own = () if blocked is None else (blocked,)
        x = run_events(self.block, parameters["layers"], events, self.embed(parameters, tokens), (), own)
        return self.unembed(parameters, x)


def attention_patterns(model: SmallModel, parameters: Parameters, tokens: Int[Array, "B T"]) -> list[Array]:
    """Each layer's attention [B, T, T] in the full model, in order."""
    x, found = model.embed(parameters, tokens), []
    for index in range(model.layers):
        found.append(model.attention(of_layer(parameters, index), x))
        x = model.block(of_layer(parameters, index), x, ())
    return found
