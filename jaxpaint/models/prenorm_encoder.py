"""Encoders whose layers are a decoder's in which every token sees those on both sides of it (ModernBERT).

Norms come before what they are of, one more comes after the last layer, positions turn within attention, and some
layers see no further than a window. A layer may lack the norm of what its attention reads: that is part of its kind,
which it keeps wherever a plan runs it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.part import Part
from jaxpaint.models import attention as ops
from jaxpaint.models import decoder, rotary
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.narrow import Linear, products_with_rows
from jaxpaint.models.observed import Asked, Edits, edited, only
from jaxpaint.models.parts import MLP, norm, stacked, with_mean_norm


class Context(NamedTuple):
    """What layers of each kind read of one batch, until `of_kind` takes one's own.

    Kinds of layers are two for each of attention: `2 * attention`, and one more where what it reads is normed.
    """

    attention: decoder.Context
    normed: Bool[Array, ""] | bool = True

    def of_kind(self, kind: int | Int[Array, ""]) -> Context:
        """What a layer of this kind reads."""
        return Context(self.attention.of_kind(kind // 2), kind % 2 == 1)


class Embeddings(nnx.Module):
    """Words, normalised (transformers `ModernBertEmbeddings`)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        self.word = nnx.Embed(config.vocab_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.norm = _norm(config, dtype, rngs)

    def __call__(
        self, tokens: Int[Array, "B S"], positions: Int[Array, "#B S"], token_types: Int[Array, "B S"] | None = None
    ) -> Float[Array, "B S D"]:
        """There are no token types, and positions count within the layers."""
        return self.norm(self.word(tokens))


class Block(nnx.Module):
    """One layer, residuals included (transformers `ModernBertEncoderLayer`)."""

    def __init__(self, config: Any, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.config, traits = config, config.traits
        self.drops_both_outputs = config.encoder_traits.drops_both_outputs
        self.attention_norm, self.mlp_norm = _norm(config, dtype, rngs), _norm(config, dtype, rngs)
        self.attention = decoder.Attention(config, traits, dtype=dtype, implementation=implementation, rngs=rngs)
        how = {"gated": traits.gated, "use_bias": traits.mlp_bias}
        self.mlp = MLP(config, traits.mlp, dtype=dtype, rngs=rngs, **how)

    def __call__(
        self, x: Float[Array, "B S D"], context: Context, key: Array | None = None, *, part: Part = "whole"
    ) -> Float[Array, "B S D"]:
        """With a key the layer trains: it drops attention probabilities and outputs, and the feed-forward's inside,
        or its output."""
        probabilities = outputs = inside = last = None
        if key is not None:
            keys, rate = jax.random.split(key, 3), self.config.attention_probs_dropout_prob
            probabilities, outputs = Dropout(rate, keys[0]), Dropout(rate, keys[1])
            if self.drops_both_outputs:
                outputs, last = (Dropout(self.config.hidden_dropout_prob, own) for own in keys[1:])
            else:
                inside = Dropout(self.config.mlp_dropout, keys[2])
        if part != "mlp":
            attended, _ = self.attention(self._read(x, context), context.attention, dropped=probabilities)
            x = x + dropout(attended, outputs)
        return x if part == "attention" else x + dropout(self.mlp(self.mlp_norm(x), inside), last)

    def sharing_norm(self, other: Block) -> Block:
        """The layer whose feed-forward reads through a norm with the mean of both layers' gains and biases."""
        return with_mean_norm(self, other, "mlp_norm")

    def observed(
        self, x: Float[Array, "B S D"], context: Context, edits: Edits, asked: Asked
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """As a call, with edits, and with what is asked for of what lies on the way (`jaxpaint.models.observed`)."""
        read = self._read(x, context)
        attended, found = self.attention.observed(read, context.attention, edits.blocked, asked)
        attention_out = edited(attended, edits.attention)
        then = x + attention_out
        mlp_out = edited(self.mlp(self.mlp_norm(then)), edits.mlp)
        return then + mlp_out, only(asked, reads=x, attention_out=attention_out, mlp_out=mlp_out, **found)

    def _read(self, x: Float[Array, "B S D"], context: Context) -> Float[Array, "B S D"]:
        """What attention reads: one product serves both kinds of layers."""
        return jnp.where(context.normed, self.attention_norm(x), x)


class Head(nnx.Module):
    """What classifiers read, and what precedes the masked-LM head's product (`ModernBertPredictionHead`)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        size, self.activation = config.hidden_size, config.encoder_traits.head_activation
        self.dense = Linear(size, size, use_bias=config.classifier_bias, param_dtype=dtype, rngs=rngs)
        self.norm = _norm(config, dtype, rngs)

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        return self.norm(ops.activation(self.activation)(self.dense(x)))


class TokenBias(nnx.Module):
    """What is added to the logits of each token."""

    def __init__(self, vocab_size: int, dtype: Any):
        self.bias = nnx.Param(jnp.zeros(vocab_size, dtype))


class PreNormEncoder(nnx.Module):
    """Embeddings, stacked blocks, final norm, and the heads that the checkpoint has: classifiers' is the masked LM's.

    `layer_kinds` tells each layer's kind (`Context`).
    """

    def __init__(
        self,
        config: Any,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        attention_implementation: ops.AttentionImplementation = "matmul",
    ):
        self.config, self.traits = config, config.encoder_traits
        each = list(zip(config.traits.windows, config.traits.rotary, strict=True))
        kinds = list(dict.fromkeys(each))
        self.windows, self.rotaries = zip(*kinds, strict=True)
        has_norm = zip(each, config.attention_norms, strict=True)
        self.layer_kinds = tuple(2 * kinds.index(kind) + normed for kind, normed in has_norm)
        make = partial(Block, config, dtype=dtype, implementation=attention_implementation)
        self.embed = Embeddings(config, dtype=dtype, rngs=rngs)
        self.blocks = stacked(make, config.num_hidden_layers, rngs.params())
        self.norm = _norm(config, dtype, rngs)
        has_head = config.has_classifier_dense or config.has_masked_lm_head
        self.classifier_dense = Head(config, dtype=dtype, rngs=rngs) if has_head else None
        self.masked_lm = TokenBias(config.vocab_size, dtype) if config.has_masked_lm_head else None

    def row_context(self, lengths: Int[Array, " B"], size: int) -> Context:
        """The context of rows of `size` that each hold one right-padded text, which tokens see as far as windows go."""
        index = jnp.arange(size)
        distance = jnp.abs(index[:, None] - index)
        # What is padding sees itself, too: no window is empty.
        seen = (index < lengths[:, None])[:, None, None, :] | (distance == 0)
        masks = ops.within(self.windows, seen, jnp.broadcast_to(distance, seen.shape))
        positions = jnp.broadcast_to(index, (len(lengths), size))
        cos, sin = map(jnp.stack, zip(*(self._rotary_tables(positions, each) for each in self.rotaries), strict=True))
        return Context(decoder.Context(cos, sin, masks if len(self.windows) > 1 else masks[None]))

    def _rotary_tables(self, positions: Int[Array, "B S"], turn: Any) -> tuple[Array, Array]:
        return rotary.rope_tables(positions, rotary.rope_frequencies(self.config.traits.rotary_dim, turn.theta))

    def pooled(
        self, hidden: Float[Array, "B S D"], lengths: Int[Array, " B"], dropped: Dropout | None = None
    ) -> Float[Array, "B D"]:
        """What classifiers read: the first token's last state, or the mean of a text's, through the head.

        For models with one; `dropped` is for training.
        """
        assert self.classifier_dense is not None
        normed = self.norm(hidden)
        if self.config.classifier_pooling == "mean":
            of_text = (jnp.arange(hidden.shape[1]) < lengths[:, None])[..., None]
            found = jnp.where(of_text, normed, 0).sum(axis=1) / lengths[:, None].astype(normed.dtype)
        else:
            found = normed[:, 0]
        return self.classifier_dense(dropout(found, dropped))

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Logits in float32 of the token at each position. For models with a masked-LM head."""
        assert self.classifier_dense is not None
        assert self.masked_lm is not None
        x = self.classifier_dense(self.norm(hidden))
        return products_with_rows(x, self.embed.word.embedding[...]) + self.masked_lm.bias[...].astype(jnp.float32)


def _norm(config: Any, dtype: Any, rngs: nnx.Rngs) -> Any:
    traits = config.traits
    return norm(traits.norm, config.hidden_size, traits.epsilon, dtype, rngs, use_bias=traits.norm_bias)
