"""Every encoder, as Flax modules whose blocks are stacked. A family's `EncoderTraits` say what it does its own way.

LayerNorms after each residual sum, learned positions, token types where there are some; a pooler and a masked-LM head
where the checkpoint has them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.base.part import Part
from jaxpaint.models import attention as ops
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.narrow import Linear, products_with_rows
from jaxpaint.models.observed import Asked, Edges, Edits, edited, observed_attention, only
from jaxpaint.models.parts import MLP, norm, stacked


class Context(NamedTuple):
    """What every layer of one batch shares: which tokens are text, and what is added to scores (None for nothing)."""

    mask: Bool[Array, "B 1 S S"]
    bias: Float[Array, "1 N S S"] | None = None


class Embeddings(nnx.Module):
    """Words, positions and token types, summed and normalised (transformers `BertEmbeddings`, `RobertaEmbeddings`)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        embed = partial(nnx.Embed, features=config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.word = embed(config.vocab_size)
        traits = config.encoder_traits
        self.padding_token = traits.padding_token
        before = 0 if self.padding_token is None else self.padding_token + 1
        self.position = embed(config.max_position_embeddings + before)
        self.token_type = embed(traits.token_types) if traits.token_types else None
        self.norm = norm("layer", config.hidden_size, traits.epsilon, dtype, rngs)

    def __call__(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "#B S"], token_types: Int[Array, "B S"] | None = None
    ) -> Float[Array, "B S D"]:
        if self.padding_token is not None:
            counted = tokens != self.padding_token
            positions = jnp.cumsum(counted, axis=1) * counted + self.padding_token
        # Rows may be padded beyond the last position.
        positions = jnp.minimum(positions, self.position.num_embeddings - 1)
        x = self.word(tokens)
        if self.token_type is not None:
            x = x + self.token_type(jnp.zeros_like(tokens) if token_types is None else token_types)
        return self.norm(x + self.position(positions))


class Attention(nnx.Module):
    """Self-attention of every token to all of the text (transformers `BertSelfAttention`, `BertSelfOutput.dense`)."""

    def __init__(self, config: Any, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.config, self.implementation = config, implementation
        linear = partial(Linear, config.hidden_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.query, self.key, self.value, self.output = linear(), linear(), linear(), linear()

    def __call__(
        self, x: Float[Array, "B S D"], context: Context, dropped: Dropout | None = None
    ) -> Float[Array, "B S D"]:
        query, key, value = self._heads(x)
        mixed = ops.attention(query, key, value, context.mask, self.implementation, dropped, bias=context.bias)
        return self.output(mixed.reshape(x.shape))

    def observed(
        self,
        x: Float[Array, "B S D"],
        context: Context,
        blocked: Edges | None,
        asked: Asked,
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """`(output, found)` with what is asked for of the attention, and without the edges that are blocked."""
        query, key, value = self._heads(x)
        mixed, found = observed_attention(query, key, value, context.mask, blocked, asked, bias=context.bias)
        return self.output(mixed.reshape(x.shape)), found

    def _heads(self, x: Float[Array, "B S D"]) -> list[Float[Array, "B S N H"]]:
        split = (*x.shape[:2], -1, self.config.head_dim)
        return [project(x).reshape(split) for project in (self.query, self.key, self.value)]


class Block(nnx.Module):
    """One encoder layer, residuals and norms included (transformers `BertLayer`)."""

    def __init__(self, config: Any, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.config, self.traits = config, config.encoder_traits
        self.attention = Attention(config, dtype=dtype, implementation=implementation, rngs=rngs)
        self.attention_norm = norm("layer", config.hidden_size, self.traits.epsilon, dtype, rngs)
        self.mlp = MLP(config, ("intermediate", "output"), dtype=dtype, rngs=rngs)
        self.mlp_norm = norm("layer", config.hidden_size, self.traits.epsilon, dtype, rngs)

    def __call__(
        self, x: Float[Array, "B S D"], context: Context, key: Array | None = None, *, part: Part = "whole"
    ) -> Float[Array, "B S D"]:
        """With a key the layer trains: it drops attention probabilities and outputs at the config's rates."""
        inside = first = second = None
        if key is not None:
            keys, rate = jax.random.split(key, 3), self.config.hidden_dropout_prob
            inside = Dropout(self.config.attention_probs_dropout_prob, keys[0])
            first = Dropout(rate, keys[1]) if self.traits.drops_attention_output else None
            second = Dropout(rate, keys[2])
        if part != "mlp":
            x = self.attention_norm(x + dropout(self.attention(x, context, inside), first))
        return x if part == "attention" else self.mlp_norm(x + dropout(self.mlp(x), second))

    def sharing_norm(self, other: Block) -> Block:
        """Raises UserError: see `jaxpaint.models.decoder.Block`."""
        raise UserError("an encoder's feed-forward reads through no norm of its own that lp{ } and ~ could share")

    def observed(
        self, x: Float[Array, "B S D"], context: Context, edits: Edits, asked: Asked
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """As a call, with edits, and with what is asked for of what lies on the way (`jaxpaint.models.observed`)."""
        attended, found = self.attention.observed(x, context, edits.blocked, asked)
        attention_out = edited(attended, edits.attention)
        then = self.attention_norm(x + attention_out)
        mlp_out = edited(self.mlp(then), edits.mlp)
        return self.mlp_norm(then + mlp_out), only(
            asked, reads=x, attention_out=attention_out, mlp_out=mlp_out, **found
        )


class MaskedLMHead(nnx.Module):
    """What precedes the product with the word embeddings, and its bias (transformers `BertLMPredictionHead`)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        traits = config.encoder_traits
        self.activation = traits.head_activation
        self.transform = Linear(config.hidden_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.norm = norm("layer", config.hidden_size, traits.epsilon, dtype, rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size, dtype))

    def __call__(self, hidden: Float[Array, "*batch D"], word: nnx.Embed) -> Float[Array, "*batch V"]:
        x = self.norm(ops.activation(self.activation)(self.transform(hidden)))
        return products_with_rows(x, word.embedding[...]) + self.bias[...].astype(jnp.float32)


class RelativeBias(nnx.Embed):
    """What the distance of two tokens adds to every head's scores (transformers `MPNetEncoder`)."""

    def __init__(self, buckets: int, heads: int, dtype, rngs: nnx.Rngs):
        super().__init__(buckets, heads, param_dtype=dtype, rngs=rngs)

    def __call__(self, size: int) -> Float[Array, "1 N S S"]:  # type: ignore[override]
        of_distance = self.embedding[...][distance_buckets(np.arange(1 - size, size), self.num_embeddings)]
        place = jnp.arange(size)
        bias = of_distance[place[None, :] - place[:, None] + size - 1].astype(jnp.float32)
        return jnp.moveaxis(bias, -1, 0)[None]


def distance_buckets(distances: np.ndarray, buckets: int, furthest: int = 128) -> np.ndarray:
    """The bucket of each distance, that of a key less that of the query (`MPNetEncoder.relative_position_bucket`).

    Half of them are for what comes after. Of a half, one half is of single distances, the other of ever more of them
    up to `furthest`, and the last also of what is further.
    """
    half = buckets // 2
    exact, far = half // 2, np.abs(distances)
    # In float32, as there: whole numbers of the logarithm are at the edges of buckets.
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(exact)) / np.float32(math.log(furthest / exact))
    more = np.minimum(exact + (ratio * np.float32(half - exact)).astype(np.int32), half - 1)
    return np.where(distances > 0, half, 0) + np.where(far < exact, far, more)


class Encoder(nnx.Module):
    """Embeddings, stacked blocks, and the heads that the checkpoint has."""

    def __init__(
        self,
        config: Any,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        attention_implementation: ops.AttentionImplementation = "matmul",
    ):
        self.config, self.traits = config, config.encoder_traits
        make = partial(Block, config, dtype=dtype, implementation=attention_implementation)
        self.embed = Embeddings(config, dtype=dtype, rngs=rngs)
        buckets = self.traits.relative_buckets
        self.relative = RelativeBias(buckets, config.num_attention_heads, dtype, rngs) if buckets else None
        self.blocks = stacked(make, config.num_hidden_layers, rngs.params())
        dense = partial(Linear, config.hidden_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.pooler = dense() if getattr(config, "has_pooler", False) else None
        self.classifier_dense = dense() if getattr(config, "has_classifier_dense", False) else None
        self.masked_lm = MaskedLMHead(config, dtype=dtype, rngs=rngs) if config.has_masked_lm_head else None

    def row_context(self, lengths: Int[Array, " B"], size: int) -> Context:
        """The context of rows of `size` that each hold one right-padded text: every token sees all of the text."""
        seen = jnp.arange(size) < lengths[:, None]
        mask = jnp.broadcast_to(seen[:, None, None, :], (len(lengths), 1, size, size))
        return Context(mask, None if self.relative is None else self.relative(size))

    def pooled(
        self, hidden: Float[Array, "B S D"], lengths: Int[Array, " B"], dropped: Dropout | None = None
    ) -> Float[Array, "B D"]:
        """What classifiers read: the first token's last state through the pooler. For models with one.

        A classifier's own first layer goes before a pooler that was trained without it; `dropped` is for training.
        """
        dense = self.pooler if self.classifier_dense is None else self.classifier_dense
        assert dense is not None
        activation = jnp.tanh if self.traits.pooler_activation == "tanh" else jax.nn.relu
        return activation(dense(dropout(hidden[:, 0], dropped)))

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Logits in float32 of the token at each position. For models with a masked-LM head."""
        assert self.masked_lm is not None
        return self.masked_lm(hidden, self.embed.word)
