"""The small model of the paper: layers of attention with one head, no layer norm, a key matrix that is query and key.

    x_t <- x_t + W_O W_V sum over s <= t of A[t, s] x_s,    A[t, :] = softmax over s <= t of x_t' W_K x_s / sqrt(D)

and, where there is one, x <- x + F(x) in the last layer, F a matrix W_F or a ReLU network. Layers' parameters are
stacked, so that the engine's executors run them under any plan. Layer 0 of a plan is the paper's layer 1.

With rotary positions nothing is added to the tokens: layer 0 alone turns x_t and W_K x_s by the angles of t and s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.birth import probes
from jaxpaint.birth.behaviour import attention_maps, attention_scores
from jaxpaint.birth.data import Batch
from jaxpaint.birth.layers import NEVER, Parameters, feed_forward
from jaxpaint.engine.events import Events, event_states, events_of, run_events
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
        if self.positions == "sinusoidal":
            parameters["positions"] = jnp.array(sinusoids(self.length, width) / (np.sqrt(width) if near else 1))
        elif self.positions == "rotary":
            del parameters["positions"]
            parameters["layers"]["turns"] = (jnp.arange(self.layers) == 0).astype(jnp.float32)
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
            x = x + _by_rows(self.attention(layer, x, blocked) @ x, layer["value"].T @ layer["output"].T)
            return x + feed_forward(layer, x) if self.feed_forward != "none" else x

        return run

    def attention(
        self, layer: Parameters, x: Float[Array, "B T D"], blocked: Blocked | None = None
    ) -> Float[Array, "B T T"]:
        """How much each position attends to each, itself and those before; rows sum to 1. No row may be all blocked."""
        if self.positions == "rotary":
            scores = self._turned(layer, x) @ self._turned(layer, x @ layer["key"].T).swapaxes(-1, -2)
        else:
            scores = _by_rows(x, layer["key"]) @ x.swapaxes(-1, -2)
        scores = scores / np.sqrt(self.width) if self.scaled else scores
        visible = jnp.tril(jnp.ones(scores.shape[-2:], bool))
        visible = visible if blocked is None else visible & ~blocked
        return jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)

    def _turned(self, layer: Parameters, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """Halves against each other, by their positions' angles; not at all in a layer without rotary positions."""
        half = jnp.arange(x.shape[-2])[:, None] * rope_frequencies(self.width, THETA)
        angles = layer["turns"] * jnp.concatenate([half, half], axis=-1)
        angles = jnp.broadcast_to(angles, x.shape)[:, :, None]  # of one head
        return apply_rope(x[:, :, None], jnp.cos(angles), jnp.sin(angles))[:, :, 0]

    def embed(self, parameters: Parameters, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        """Token and position embeddings, added; of rotary positions the tokens' alone."""
        x = parameters["tokens"][tokens]
        return x if self.positions == "rotary" else x + parameters["positions"][: tokens.shape[1]]

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
        found = probes.recalls(parameters, stored) if self.layers == 2 else {}  # none of W_K1 with rotary positions
        found |= {"output_norm": jnp.linalg.norm(parameters["layers"]["output"][-1])}
        if self.feed_forward != "none":
            found |= {"bigram_distance": probes.bigram_distance(parameters, bigrams, triggers)}
        return found

    def attention_by_event(self, parameters: Parameters, events: Events, tokens: Int[Array, "B T"]) -> list[Array]:
        """What each event of a plan attends to, [B, T, T] each."""
        *reads, _ = event_states(self.block, parameters["layers"], events, self.embed(parameters, tokens), ())
        layers = (layer_parameters(parameters["layers"], layer) for layer in jnp.asarray(events.layers))
        return [self.attention(layer, read) for layer, read in zip(layers, reads, strict=True)]

    def attended(
        self, parameters: Parameters, events: Events, batch: Batch
    ) -> tuple[dict[str, Float[Array, ""]], dict[str, Float[Array, "S S"]]]:
        """What two layers look at: shares (`attention_scores`), and the first text's maps (`attention_maps`)."""
        if self.layers != 2:
            return {}, {}
        patterns = self.attention_by_event(parameters, events, batch.tokens)
        logits = self.logits(parameters, events, batch.tokens)
        return attention_scores(patterns, events, logits, batch), attention_maps(patterns, events)

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


def _by_rows(x: Float[Array, "B T D"], matrix: Float[Array, "D E"]) -> Float[Array, "B T E"]:
    """x @ matrix as one product of matrices: its gradient then needs no turned copies, which cost more than it does."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def attention_patterns(
    model: SmallModel, parameters: Parameters, tokens: Int[Array, "B T"], plan: Plan | None = None
) -> list[Array]:
    """Each event's attention [B, T, T] under a plan; each layer's, in order, unless one is given."""
    plan = Plan.of(*range(model.layers)) if plan is None else plan.validate(model.layers)
    return model.attention_by_event(parameters, events_of(plan), tokens)


def sinusoids(length: int, width: int) -> Float[np.ndarray, "T D"]:
    """Sines and cosines of each position, in turns, from a wavelength of 2 pi to one of 2 pi `THETA`."""
    angles = np.arange(length)[:, None] * THETA ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width).astype(np.float32)
