"""GPT-NeoX (Pythia and kin) as Flax modules whose blocks are stacked.

Attention and feed-forward read the same input side by side, LayerNorms and biases, rotary positions in a part of each
head. Parity with transformers' `GPTNeoXForCausalLM` is tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.models import attention as ops
from jaxpaint.models import blocks, decoder
from jaxpaint.models.decoder import Context, KeysValues
from jaxpaint.models.neox_config import NeoxConfig


class Attention(nnx.Module):
    """Self-attention, query, key and value of a head side by side in one product (transformers `GPTNeoXAttention`)."""

    def __init__(self, config: NeoxConfig, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.config, self.implementation = config, implementation
        linear = partial(nnx.Linear, use_bias=config.attention_bias, param_dtype=dtype, rngs=rngs)
        self.query_key_value = linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = linear(config.hidden_size, config.hidden_size)

    def __call__(self, x: Float[Array, "B S D"], context: Context) -> Float[Array, "B S D"]:
        mixed = ops.attention(*self._projected(x, context), context.mask, self.implementation)
        return self.dense(mixed.reshape(x.shape))

    def with_past(
        self, x: Float[Array, "B S D"], context: Context, pasts: Sequence[ops.Past]
    ) -> tuple[Float[Array, "B S D"], KeysValues]:
        """As a call that also attends to `pasts`; with the keys and values of x."""
        query, key, value = self._projected(x, context)
        mixed = ops.attention_with_past(query, key, value, context.mask, pasts)
        return self.dense(mixed.reshape(x.shape)), (key, value)

    def _projected(self, x: Float[Array, "B S D"], context: Context) -> tuple[Array, Array, Array]:
        """Query, key and value, each [B, S, heads, H], rotated by their positions."""
        heads = self.query_key_value(x).reshape(*x.shape[:2], -1, 3 * self.config.head_dim)
        query, key, value = jnp.split(heads, 3, axis=-1)

        def rotated(x: Float[Array, "B S heads H"]) -> Float[Array, "B S heads H"]:
            turning, still = jnp.split(x, [self.config.rotary_dim], axis=-1)
            return jnp.concatenate([ops.apply_rope(turning, context.cos, context.sin), still], axis=-1)

        return rotated(query), rotated(key), value


class MLP(nnx.Module):
    """Feed-forward (transformers `GPTNeoXMLP`)."""

    def __init__(self, config: NeoxConfig, *, dtype, rngs: nnx.Rngs):
        self.activation = config.hidden_act
        self.dense_h_to_4h = nnx.Linear(config.hidden_size, config.intermediate_size, param_dtype=dtype, rngs=rngs)
        self.dense_4h_to_h = nnx.Linear(config.intermediate_size, config.hidden_size, param_dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.dense_4h_to_h(ops.activation(self.activation)(self.dense_h_to_4h(x)))


class Block(nnx.Module):
    """One layer, residuals included (transformers `GPTNeoXLayer`)."""

    def __init__(self, config: NeoxConfig, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = _layer_norm(config, dtype, rngs)
        self.attention = Attention(config, dtype=dtype, implementation=implementation, rngs=rngs)
        self.post_attention_layernorm = _layer_norm(config, dtype, rngs)
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], context: Context) -> Float[Array, "B S D"]:
        return self._joined(x, self.attention(self.input_layernorm(x), context))

    def with_past(
        self, x: Float[Array, "B S D"], context: Context, pasts: Sequence[ops.Past]
    ) -> tuple[Float[Array, "B S D"], KeysValues]:
        """As a call whose attention also reads `pasts`; with the keys and values of x, for a cache."""
        attended, keys_values = self.attention.with_past(self.input_layernorm(x), context, pasts)
        return self._joined(x, attended), keys_values

    def _joined(self, x: Float[Array, "B S D"], attended: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        after = x + attended
        return after + self.mlp(self.post_attention_layernorm(x if self.use_parallel_residual else after))


class Neox(nnx.Module):
    """Embedding, stacked blocks, final norm and head. Parameters are in `dtype`; norms and softmax in float32."""

    def __init__(
        self,
        config: NeoxConfig,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        attention_implementation: ops.AttentionImplementation = "matmul",
    ):
        self.config = config
        make = partial(Block, config, dtype=dtype, implementation=attention_implementation)
        self.embed = nnx.Embed(config.vocab_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.blocks = blocks.stacked(make, config.num_hidden_layers, rngs.params())
        self.norm = _layer_norm(config, dtype, rngs)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nnx.Linear(config.hidden_size, config.vocab_size, use_bias=False, param_dtype=dtype, rngs=rngs)
        )

    def context(self, positions: Int[Array, "B S"], visible_until: Int[Array, "B S"], lookback: int = 0) -> Context:
        """What the layers need to know of a batch's layout; see `ops.visibility`."""
        config = self.config
        frequencies = ops.rope_frequencies(config.rotary_dim, config.rope_theta, config.rope_scaling)
        return decoder.context(positions, visible_until, frequencies, config.sliding_window, lookback)

    def row_context(self, lengths: Int[Array, " B"], size: int) -> Context:
        """The context of rows of `size` that each hold one right-padded text."""
        return self.context(*decoder.row_layout(lengths, size))

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Next-token logits in float32 of hidden states taken before the final norm."""
        return decoder.logits(self, hidden)

    def vocabulary_logits(self, normed: Float[Array, "M D"], first, size: int) -> Float[Array, "size M"]:
        """Logits in float32 of `size` tokens from id `first` on, of hidden states after the final norm."""
        return decoder.vocabulary_logits(self.embed, self.lm_head, normed, first, size)


def _layer_norm(config: NeoxConfig, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    # The variance as the mean square less the squared mean loses digits that deep plans need.
    return nnx.LayerNorm(
        config.hidden_size, epsilon=config.layer_norm_eps, use_fast_variance=False, param_dtype=dtype, rngs=rngs
    )
