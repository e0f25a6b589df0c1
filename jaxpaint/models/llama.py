"""The Llama family (Llama 1/2/3, Mistral, SmolLM, TinyLlama) as Flax modules whose blocks are stacked.

`Llama.blocks` is one `Block` whose parameters carry a leading layer axis; a layer plan decides which of them run
(`jaxpaint.engine.compiled`). Parity with transformers' `LlamaForCausalLM` and `MistralForCausalLM` is tested.
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
from jaxpaint.models.llama_config import LlamaConfig


class Attention(nnx.Module):
    """Grouped-query self-attention with rotary positions (transformers `LlamaAttention`)."""

    def __init__(self, config: LlamaConfig, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        self.config, self.implementation = config, implementation
        linear = partial(nnx.Linear, use_bias=config.attention_bias, param_dtype=dtype, rngs=rngs)
        width, key_value_width = (
            heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q_proj = linear(config.hidden_size, width)
        self.k_proj = linear(config.hidden_size, key_value_width)
        self.v_proj = linear(config.hidden_size, key_value_width)
        self.o_proj = linear(width, config.hidden_size)

    def __call__(self, x: Float[Array, "B S D"], context: Context) -> Float[Array, "B S D"]:
        mixed = ops.attention(*self._projected(x, context), context.mask, self.implementation)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))

    def with_past(
        self, x: Float[Array, "B S D"], context: Context, pasts: Sequence[ops.Past]
    ) -> tuple[Float[Array, "B S D"], KeysValues]:
        """As a call that also attends to `pasts`; with the keys and values of x."""
        query, key, value = self._projected(x, context)
        mixed = ops.attention_with_past(query, key, value, context.mask, pasts)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1)), (key, value)

    def _projected(self, x: Float[Array, "B S D"], context: Context) -> tuple[Array, Array, Array]:
        """Query, key and value, each [B, S, heads, H], rotated by their positions."""
        split = (*x.shape[:2], -1, self.config.head_dim)
        query = ops.apply_rope(self.q_proj(x).reshape(split), context.cos, context.sin)
        key = ops.apply_rope(self.k_proj(x).reshape(split), context.cos, context.sin)
        return query, key, self.v_proj(x).reshape(split)


class MLP(nnx.Module):
    """Gated feed-forward: `down(act(gate(x)) * up(x))` (transformers `LlamaMLP`)."""

    def __init__(self, config: LlamaConfig, *, dtype, rngs: nnx.Rngs):
        self.activation = config.hidden_act
        linear = partial(nnx.Linear, use_bias=config.mlp_bias, param_dtype=dtype, rngs=rngs)
        self.gate_proj = linear(config.hidden_size, config.intermediate_size)
        self.up_proj = linear(config.hidden_size, config.intermediate_size)
        self.down_proj = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.down_proj(ops.activation(self.activation)(self.gate_proj(x)) * self.up_proj(x))


class Block(nnx.Module):
    """One decoder layer, residuals included (transformers `LlamaDecoderLayer`)."""

    def __init__(self, config: LlamaConfig, *, dtype, implementation: ops.AttentionImplementation, rngs: nnx.Rngs):
        norm = partial(nnx.RMSNorm, config.hidden_size, epsilon=config.rms_norm_eps, param_dtype=dtype, rngs=rngs)
        self.input_layernorm = norm()
        self.self_attn = Attention(config, dtype=dtype, implementation=implementation, rngs=rngs)
        self.post_attention_layernorm = norm()
        self.mlp = MLP(config, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B S D"], context: Context) -> Float[Array, "B S D"]:
        x = x + self.self_attn(self.input_layernorm(x), context)
        return x + self.mlp(self.post_attention_layernorm(x))

    def with_past(
        self, x: Float[Array, "B S D"], context: Context, pasts: Sequence[ops.Past]
    ) -> tuple[Float[Array, "B S D"], KeysValues]:
        """As a call whose attention also reads `pasts`; with the keys and values of x, for a cache."""
        attended, keys_values = self.self_attn.with_past(self.input_layernorm(x), context, pasts)
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x)), keys_values


class Llama(nnx.Module):
    """Embedding, stacked blocks, final norm and head. Parameters are in `dtype`; norms and softmax in float32."""

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        attention_implementation: ops.AttentionImplementation = "matmul",
    ):
        self.config = config
        make = partial(Block, config, dtype=dtype, implementation=attention_implementation)
        self.embed = nnx.Embed(config.vocab_size, config.hidden_size, param_dtype=dtype, rngs=rngs)
        self.blocks = blocks.stacked(make, config.num_hidden_layers, rngs.params())
        self.norm = nnx.RMSNorm(config.hidden_size, epsilon=config.rms_norm_eps, param_dtype=dtype, rngs=rngs)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nnx.Linear(config.hidden_size, config.vocab_size, use_bias=False, param_dtype=dtype, rngs=rngs)
        )

    def context(self, positions: Int[Array, "B S"], visible_until: Int[Array, "B S"], lookback: int = 0) -> Context:
        """What the layers need to know of a batch's layout; see `ops.visibility`."""
        config = self.config
        frequencies = ops.rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
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
