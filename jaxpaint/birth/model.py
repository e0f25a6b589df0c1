"""The small model of the paper: layers of attention with one head, no layer norm, a key matrix that is query and key.

    x_t <- x_t + W_O W_V sum over s <= t of A[t, s] x_s,    A[t, :] = softmax over s <= t of x_t' W_K x_s / sqrt(D)

and, where there is one, x <- x + F(x) in the last layer, F a matrix W_F or a ReLU network. In Flax; layers' parameters
are stacked, so that the engine's executors run them under any plan. Layer 0 of a plan is the paper's layer 1.

With rotary positions nothing is added to the tokens: layer 0 alone turns x_t and W_K x_s by the angles of t and s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.birth import probes
from jaxpaint.birth.behaviour import attention_maps, attention_scores
from jaxpaint.birth.data import Batch
from jaxpaint.birth.layers import NEVER, Parameters, of_layer
from jaxpaint.engine.events import Events, event_states, events_of
from jaxpaint.engine.layers import layer_parameters
from jaxpaint.models.rotary import apply_rope, rope_frequencies
from jaxpaint.plans.plan import Plan

Start: TypeAlias = Literal["default", "orthogonal"]
FeedForward: TypeAlias = Literal["none", "linear", "mlp"]
Blocked: TypeAlias = Bool[Array, "B T T"]
Positions: TypeAlias = Literal["random", "sinusoidal", "rotary"]
FULL = Plan.of(0, 1)
THETA = 10_000.0  # the longest wavelength of sines, cosines and turns, in tokens over two pi
MLP_WIDTH = 4  # times the model's


@dataclass(frozen=True)
class SmallModel:
    """The architecture: `width` D, texts of at most `length` tokens, `vocabulary` tokens, `layers` layers.

    `start` is PyTorch's default (embeddings of variance 1, matrices uniform up to 1/sqrt(D)) or `orthogonal`, nearly:
    everything normal of variance 1/D. Without `scaled` scores are not divided by sqrt(D). `positions` are random
    vectors, sines and cosines (of the same norm, about), or rotary, in layer 0 alone. Raises UserError for an odd width
    where they need an even one.
    """

    width: int
    length: int
    vocabulary: int = 65
    layers: int = 2
    start: Start = "default"
    feed_forward: FeedForward = "none"
    scaled: bool = True
    positions: Positions = "random"

    def __post_init__(self) -> None:
        if self.positions != "random" and self.width % 2:
            raise UserError(f"{self.positions} positions need an even width, not {self.width}")

    def init(self, key: Array) -> Parameters:
        """Parameters at the start, in float32, by name."""
        return nnx.to_pure_dict(nnx.state(Transformer(self, key)))

    def module(self, parameters: Parameters) -> Transformer:
        """The model with these parameters."""
        return nnx.merge(_graphs(self)[0], parameters)

    def layer(self, parameters: Parameters) -> Layer:
        """A layer with these parameters."""
        return nnx.merge(_graphs(self)[1], parameters)

    @property
    def block(self) -> Callable[..., Array]:
        """One layer as the engine's executors take it: `(parameters of one layer, x [B, T, D], ()) -> x`."""
        return lambda layer, *inputs: self.layer(layer)(*inputs)

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
        found = probes.recalls(parameters, stored) if self.layers == 2 else {}  # none of W_K1 with rotary positions
        found |= {"output_norm": jnp.linalg.norm(parameters["layers"]["output"][-1])}
        if self.feed_forward != "none":
            written = self.layer(of_layer(parameters, -1)).feed_forward_of(parameters["tokens"])
            found |= {"bigram_distance": probes.bigram_distance(written, parameters["unembedding"], bigrams, triggers)}
        return found

    def attended(
        self, parameters: Parameters, events: Events, batch: Batch
    ) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, "S S"]]]:
        """What two layers look at: shares (`attention_scores`), and the first text's maps (`attention_maps`)."""
        if self.layers != 2:
            return {}, {}
        module = self.module(parameters)
        patterns, logits = module.attention_by_event(events, batch.tokens), module.logits(events, batch.tokens)
        return attention_scores(patterns, events, logits, batch), attention_maps(patterns, events)

    def logits(
        self,
        parameters: Parameters,
        events: Events,
        tokens: Int[Array, "B T"],
        blocked: Bool[Array, "events B T T"] | None = None,
    ) -> Float[Array, "B T N"]:
        """Of every position, under a plan given as its events; in each without the edges `blocked`, query by key."""
        return self.module(parameters).logits(events, tokens, blocked)


class Transformer(nnx.Module):
    """The whole model; its layers are one `Layer`, whose parameters have a leading axis."""

    def __init__(self, model: SmallModel, key: Array) -> None:
        self.model = model
        near, width, layers = model.start == "orthogonal", model.width, model.layers
        wide = {"none": 0, "linear": width, "mlp": 2 * MLP_WIDTH * width}[model.feed_forward]
        of_embeddings, of_matrices = jax.random.split(key)
        # One draw of each kind, because each compiles for half a second.
        rows = jax.random.normal(of_embeddings, (model.vocabulary + model.length, width))
        rows = rows / np.sqrt(width) if near else rows
        count = width * (model.vocabulary + layers * (3 * width + wide))
        numbers = (
            jax.random.normal(of_matrices, (count,)) if near else jax.random.uniform(of_matrices, (count,), minval=-1)
        )
        taken = 0

        def matrix(*shape: int, fan_in: int = width) -> Array:
            nonlocal taken
            taken += int(np.prod(shape))
            return numbers[taken - int(np.prod(shape)) : taken].reshape(shape) / np.sqrt(fan_in)

        self.tokens = nnx.Param(rows[: model.vocabulary])
        if model.positions == "random":
            self.positions = nnx.Param(rows[model.vocabulary :])
        elif model.positions == "sinusoidal":
            norm = np.sqrt(width) if near else 1
            self.positions = nnx.Param(jnp.array(sinusoids(model.length, width) / norm))
        self.unembedding = nnx.Param(matrix(model.vocabulary, width))
        self.layers = Layer(model, matrix)

    def embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Token and position embeddings, added; of rotary positions the tokens' alone."""
        x = self.tokens[...][tokens]
        return x if self.model.positions == "rotary" else x + self.positions[: tokens.shape[1]]

    def unembed(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N"]:
        """Logits."""
        return x @ self.unembedding[...].T

    def logits(
        self, events: Events, tokens: Int[Array, "B T"], blocked: Bool[Array, "events B T T"] | None = None
    ) -> Float[Array, "B T N"]:
        """As `SmallModel.logits`."""
        return self.unembed(self._states(events, tokens, () if blocked is None else (blocked,))[-1])

    def attention_by_event(self, events: Events, tokens: Int[Array, "B T"]) -> list[Array]:
        """What each event of a plan attends to, [B, T, T] each."""
        *reads, _ = self._states(events, tokens)
        stacked = nnx.state(self.layers)
        layers = (self.model.layer(layer_parameters(stacked, layer)) for layer in jnp.asarray(events.layers))
        return [layer.attention(read) for layer, read in zip(layers, reads, strict=True)]

    def _states(self, events: Events, tokens: Int[Array, "B T"], own: Any = ()) -> list[Float[Array, "B T D"]]:
        return event_states(self.model.block, nnx.state(self.layers), events, self.embed(tokens), (), own)


class Layer(nnx.Module):
    """One layer, residuals included, or all of them stacked; then it is not called."""

    def __init__(self, model: SmallModel, matrix: Callable[..., Array]) -> None:
        self.model = model
        layers, width = model.layers, model.width
        self.key, self.value, self.output = (nnx.Param(matrix(layers, width, width)) for _ in range(3))
        if model.positions == "rotary":
            self.turns = nnx.Param((jnp.arange(layers) == 0).astype(jnp.float32))
        is_last = (jnp.arange(layers) == layers - 1)[:, None, None]  # elsewhere F is zero, and stays so
        if model.feed_forward == "linear":
            self.feed_forward = nnx.Param(matrix(layers, width, width) * is_last)
        elif model.feed_forward == "mlp":
            inner = MLP_WIDTH * width
            self.feed_forward_in = nnx.Param(matrix(layers, width, inner) * is_last)
            self.feed_forward_out = nnx.Param(matrix(layers, inner, width, fan_in=inner) * is_last)

    def __call__(
        self, x: Float[Array, "B T D"], context: tuple[()] = (), blocked: Blocked | None = None
    ) -> Float[Array, "B T D"]:
        x = x + _by_rows(self.attention(x, blocked) @ x, self.value[...].T @ self.output[...].T)
        return x + self.feed_forward_of(x) if self.model.feed_forward != "none" else x

    def attention(self, x: Float[Array, "B T D"], blocked: Blocked | None = None) -> Float[Array, "B T T"]:
        """How much each position attends to each, itself and those before; rows sum to 1. No row may be all blocked."""
        if self.model.positions == "rotary":
            scores = self._turned(x) @ self._turned(x @ self.key[...].T).swapaxes(-1, -2)
        else:
            scores = _by_rows(x, self.key[...]) @ x.swapaxes(-1, -2)
        scores = scores / np.sqrt(self.model.width) if self.model.scaled else scores
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        visible = visible if blocked is None else visible & ~blocked
        return jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)

    def feed_forward_of(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """F(x), a matrix or a ReLU network, without the residual; of a model that has one."""
        if self.model.feed_forward == "linear":
            return x @ self.feed_forward[...].T
        return jax.nn.relu(x @ self.feed_forward_in[...]) @ self.feed_forward_out[...]

    def _turned(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Halves against each other, by their positions' angles; not at all in a layer without rotary positions."""
        half = jnp.arange(x.shape[-2])[:, None] * rope_frequencies(self.model.width, THETA)
        angles = self.turns[...] * jnp.concatenate([half, half], axis=-1)
        angles = jnp.broadcast_to(angles, x.shape)[:, :, None]  # of one head
        return apply_rope(x[:, :, None], jnp.cos(angles), jnp.sin(angles))[:, :, 0]


@cache
def _graphs(model: SmallModel) -> tuple[Any, Any]:
    """What is not parameters, of the whole model and of its layers."""
    whole = nnx.eval_shape(lambda: Transformer(model, jax.random.key(0)))
    return nnx.split(whole)[0], nnx.split(whole.layers)[0]


def _by_rows(x: Float[Array, "B T D"], matrix: Float[Array, "D E"]) -> Float[Array, "B T E"]:
    """x @ matrix as one product of matrices: its gradient then needs no turned copies, which cost more than it does."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def attention_patterns(
    model: SmallModel, parameters: Parameters, tokens: Int[Array, "B T"], plan: Plan | None = None
) -> list[Array]:
    """Each event's attention [B, T, T] under a plan; each layer's, in order, unless one is given."""
    plan = Plan.of(*range(model.layers)) if plan is None else plan.validate(model.layers)
    return model.module(parameters).attention_by_event(events_of(plan), tokens)


def sinusoids(length: int, width: int) -> Float[np.ndarray, "T D"]:
    """Sines and cosines of each position, in turns, from a wavelength of 2 pi to one of 2 pi `THETA`."""
    angles = np.arange(length)[:, None] * THETA ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)
