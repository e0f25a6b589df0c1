"""Every decoder: embeddings, stacked blocks, final norm and head. A family's `Traits` say what it does its own way.

`Decoder.blocks` is one `Block` whose parameters carry a leading layer axis; a layer plan decides which of them run
(`jaxpaint.engine.compiled`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint import tiles
from jaxpaint.base.errors import UserError
from jaxpaint.base.part import Part
from jaxpaint.models import attention as ops
from jaxpaint.models import rotary
from jaxpaint.models.blockwise import Blocks, blocks, blockwise_attention, stream_attention
from jaxpaint.models.dropout import Dropout
from jaxpaint.models.experts import Mixture
from jaxpaint.models.family import Rotary, Traits
from jaxpaint.models.kernel import Kernel, Seen, kernel_attention, seen
from jaxpaint.models.narrow import Linear, moved, multiplies_as_is, product, rows_of
from jaxpaint.models.observed import Asked, Edges, Edits, edited, observed_attention, only
from jaxpaint.models.parts import MLP, norm, stacked, with_mean_norm
from jaxpaint.models.scalings import LongropeScaling, border
from jaxpaint.models.tiled import columns_product

# Of one layer's tokens, each [B, S, K, H].
KeysValues: TypeAlias = tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]
Implementation: TypeAlias = ops.AttentionImplementation | Kernel


class Context(NamedTuple):
    """What the layers of one batch share: rotary tables (None without) and what each token sees.

    That is a mask, or what `blockwise` or a `kernel` reads in place of one. Where layers differ in their windows or in
    how their positions turn there is one for each kind of layer, until `of_kind` takes a layer's own; tables have an
    axis of kinds only where these turn differently.
    """

    cos: Float[Array, "B S 1 rotary"] | Float[Array, "kinds B S 1 rotary"] | None
    sin: Float[Array, "B S 1 rotary"] | Float[Array, "kinds B S 1 rotary"] | None
    mask: Bool[Array, "B 1 S keys"] | Bool[Array, "kinds B 1 S keys"] | Blocks | Seen

    def of_kind(self, kind: int | Int[Array, ""]) -> Context:
        """What a layer of this kind reads."""
        mask = self.mask.of_kind(kind) if isinstance(self.mask, Blocks | Seen) else self.mask[kind]
        if self.cos is None or self.sin is None or self.cos.ndim == 4:
            return self._replace(mask=mask)
        return Context(self.cos[kind], self.sin[kind], mask)


def row_layout(lengths: Int[Array, " B"], size: int) -> tuple[Int[Array, "B S"], Int[Array, "B S"]]:
    """Positions and `visible_until` of rows of `size` that each hold one right-padded text."""
    index = jnp.broadcast_to(jnp.arange(size), (lengths.shape[0], size))
    return index, jnp.where(index < lengths[:, None], size, index + 1)


class Embeddings(nnx.Embed):
    """A vector for each token, scaled where the family does so, plus one for its position where these are learned."""

    def __init__(self, config: Any, traits: Traits, *, dtype, rngs: nnx.Rngs):
        embed = {"features": config.hidden_size, "param_dtype": dtype, "rngs": rngs}
        super().__init__(config.vocab_size, **embed)
        self.scale = traits.embedding_scale
        self.position = nnx.Embed(config.max_position_embeddings, **embed) if traits.rotary_dim is None else None

    def __call__(self, tokens: Int[Array, "B S"], positions: Int[Array, "#B S"]) -> Float[Array, "B S D"]:  # type: ignore[override]
        x = rows_of(self.embedding[...], tokens)
        if self.scale is not None:
            x = x * jnp.asarray(self.scale, x.dtype)
        if self.position is not None:
            # Rows may be padded beyond the last position.
            x = x + self.position(jnp.minimum(positions, self.position.num_embeddings - 1))
        return x


class Attention(nnx.Module):
    """Self-attention with grouped key/value heads, to what the context lets each token see."""

    def __init__(self, config: Any, traits: Traits, *, dtype, implementation: Implementation, rngs):
        self.config, self.traits, self.implementation = config, traits, implementation
        self.products_apart = False
        linear = partial(Linear, param_dtype=dtype, rngs=rngs)
        width, narrow = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
        *inputs, output = traits.projections
        sizes = [width, narrow, narrow] if traits.query_key_value == "apart" else [width + 2 * narrow]
        for name, size in zip(inputs, sizes, strict=True):
            setattr(self, name, linear(config.hidden_size, size, use_bias=traits.input_bias))
        setattr(self, output, linear(width, config.hidden_size, use_bias=traits.output_bias))
        if traits.query_key_norm:
            sizes = [width, narrow] if traits.query_key_norm == "projection" else [config.head_dim] * 2
            self.q_norm, self.k_norm = (_norm(traits, size, dtype, rngs) for size in sizes)

    def __call__(
        self,
        x: Float[Array, "B S D"],
        context: Context,
        pasts: Sequence[ops.Past] | None = None,
        dropped: Dropout | None = None,
    ) -> tuple[Float[Array, "B S D"], KeysValues]:
        """`(output, (key, value))`; with `pasts` it also attends to them.

        `dropped` is what training drops of attention's probabilities, where a mask says what is seen.
        """
        few = pasts is not None and x.shape[1] == 1 and self.implementation not in ("matmul", "vectors")
        query, key, value = self._turned(x, context, apart=few or self.products_apart)
        cap = self.traits.attention_cap
        if isinstance(context.mask, Blocks) and self.implementation == "vectors" and cap is None:
            mixed = stream_attention(query, key, value, context.mask)
        elif isinstance(context.mask, Blocks):
            mixed = blockwise_attention(query, key, value, context.mask, cap)
        elif isinstance(context.mask, Seen):
            assert isinstance(self.implementation, Kernel)
            mixed = kernel_attention(query, key, value, context.mask, self.implementation, cap)
        else:
            plain = "einsum" if isinstance(self.implementation, Kernel) else self.implementation
            if pasts is None:
                mixed = ops.attention(query, key, value, context.mask, plain, dropped, cap=cap)
            else:
                mixed = ops.attention_with_past(query, key, value, context.mask, pasts, plain, cap)
        return self.mixed_output(mixed), (key, value)

    def observed(
        self,
        x: Float[Array, "B S D"],
        context: Context,
        blocked: Edges | None,
        asked: Asked,
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """`(output, found)` with what is asked for of the attention, and without the edges that are blocked."""
        query, key, value = self._turned(x, context, apart=self.products_apart)
        assert isinstance(context.mask, jax.Array)
        mixed, found = observed_attention(query, key, value, context.mask, blocked, asked, self.traits.attention_cap)
        return self.mixed_output(mixed), found

    def by_head(self, direction: Float[Array, "B D"]) -> Float[Array, "B N H"]:
        """What heads' mixed values are multiplied with for their share along a direction of the output."""
        mixed = jnp.zeros((len(direction), 1, self.config.num_attention_heads, self.config.head_dim), direction.dtype)
        return jax.vjp(self.mixed_output, mixed)[1](direction[:, None].astype(mixed.dtype))[0][:, 0]

    def mixed_output(self, mixed: Float[Array, "B S N H"]) -> Float[Array, "B S D"]:
        return getattr(self, self.traits.projections[-1])(mixed.reshape(*mixed.shape[:2], -1))

    def _turned(self, x: Float[Array, "B S D"], context: Context, *, apart: bool) -> list[Float[Array, "B S heads H"]]:
        """Query, key and value as they are attended with."""
        query, key, value = self._heads(x, apart=apart)
        if context.cos is not None and context.sin is not None:
            query, key = (rotary.turned(each, context.cos, context.sin) for each in (query, key))
        scale = self.traits.attention_scale
        if scale is not None:
            query = query * jnp.asarray(scale * self.config.head_dim**0.5, query.dtype)
        return [query, key, value]

    def _heads(self, x: Float[Array, "B S D"], *, apart: bool) -> list[Float[Array, "B S heads H"]]:
        """Query, key and value, normed where the family does so, before they turn.

        `apart` from what follows, products read their kernels as they lie. Else XLA turns whole stacks of them on a TPU
        for the layout that heads want, where rows are few or a plan is compiled in: gigabytes (docs/accelerators.md).
        """
        head_dim, traits = self.config.head_dim, self.traits
        found = [getattr(self, name)(x) for name in traits.projections[:-1]]
        if apart:
            found = list(jax.lax.optimization_barrier(tuple(found)))
        if traits.query_key_value == "joined by head":
            queries = self.config.num_attention_heads // self.config.num_key_value_heads * head_dim
            joined = found[0].reshape(*x.shape[:2], -1, queries + 2 * head_dim)
            found = jnp.split(joined, [queries, queries + head_dim], axis=-1)
        elif traits.query_key_value == "joined in blocks":
            width, narrow = self.config.num_attention_heads * head_dim, self.config.num_key_value_heads * head_dim
            found = jnp.split(found[0], [width, width + narrow], axis=-1)
        if traits.query_key_norm == "projection":
            found = [self.q_norm(found[0]), self.k_norm(found[1]), found[2]]
        found = [each.reshape(*x.shape[:2], -1, head_dim) for each in found]
        if traits.query_key_norm == "head":
            found = [self.q_norm(found[0]), self.k_norm(found[1]), found[2]]
        return found


class Block(nnx.Module):
    """One layer, residuals included."""

    mlp: MLP | Mixture

    def __init__(self, config: Any, traits: Traits, *, dtype, implementation: Implementation, rngs):
        self.traits = traits
        before, after, before_mlp, after_mlp = traits.norms
        norm = partial(_norm, traits, config.hidden_size)
        attention = partial(Attention, config, traits, implementation=implementation)
        kind = MLP if traits.experts is None else partial(Mixture, traits=traits.experts)
        mlp = partial(kind, config, traits.mlp, gated=traits.gated, use_bias=traits.mlp_bias)
        parts = ((before, norm), (traits.attention, attention), (after, norm))
        for name, make in (*parts, (before_mlp, norm), ("mlp", mlp), (after_mlp, norm)):
            if name:
                setattr(self, name, make(dtype=dtype, rngs=rngs))

    def __call__(self, x: Float[Array, "B S D"], context: Context, *, part: Part = "whole") -> Float[Array, "B S D"]:
        return self.with_past(x, context, None, part)[0]

    def with_past(
        self, x: Float[Array, "B S D"], context: Context, pasts: Sequence[ops.Past] | None, part: Part = "whole"
    ) -> tuple[Float[Array, "B S D"], KeysValues | None]:
        """As a call whose attention also reads `pasts`; with the keys and values of x, for a cache, if it attends."""
        before, after, before_mlp, after_mlp = self.traits.norms
        then, keys_values = x, None
        if part != "mlp":
            attended, keys_values = getattr(self, self.traits.attention)(self._normed(before, x), context, pasts)
            then = x + self._normed(after, attended)
        if part == "attention":
            return then, keys_values
        read = x if self.traits.residuals == "side by side" else then
        return then + self._normed(after_mlp, self.mlp(self._normed(before_mlp, read))), keys_values

    def sharing_norm(self, other: Block) -> Block:
        """The layer whose feed-forward reads through a norm with the mean of both layers' gains and biases.

        Raises UserError for a family without a norm there.
        """
        name = self.traits.norms[2]
        if name is None:
            raise UserError("layers of this model have no norm before their feed-forward that lp{ } and ~ could share")
        return with_mean_norm(self, other, name)

    def observed(
        self, x: Float[Array, "B S D"], context: Context, edits: Edits, asked: Asked
    ) -> tuple[Float[Array, "B S D"], dict[str, Array]]:
        """As a call, with edits, and with what is asked for of what lies on the way (`jaxpaint.models.observed`)."""
        before, after, before_mlp, after_mlp = self.traits.norms
        attention = getattr(self, self.traits.attention)
        attended, found = attention.observed(self._normed(before, x), context, edits.blocked, asked)
        attention_out = edited(self._normed(after, attended), edits.attention)
        then = x + attention_out
        read = x if self.traits.residuals == "side by side" else then
        mlp_out = edited(self._normed(after_mlp, self.mlp(self._normed(before_mlp, read))), edits.mlp)
        return then + mlp_out, only(asked, reads=x, attention_out=attention_out, mlp_out=mlp_out, **found)

    def _normed(self, name: str | None, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return getattr(self, name)(x) if name else x


class Decoder(nnx.Module):
    """Embeddings, stacked blocks, final norm and head. Parameters are in `dtype`; norms and softmax in float32.

    Layers are of one kind where they have the same sliding window and the same rotary positions. `windows` are those of
    the kinds, in tokens, `rotaries` how they turn; `layer_kinds` tells each layer's kind, and is None where all layers
    are alike.
    """

    def __init__(
        self,
        config: Any,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        attention_implementation: Implementation = "matmul",
    ):
        self.config, self.traits = config, config.traits
        self.kernel = attention_implementation if isinstance(attention_implementation, Kernel) else None
        each = list(zip(self.traits.windows, _rotaries(config), strict=True))
        kinds = list(dict.fromkeys(each))
        self.windows, self.rotaries = tuple(window for window, _ in kinds), tuple(rotary for _, rotary in kinds)
        self.layer_kinds = tuple(map(kinds.index, each)) if len(kinds) > 1 else None
        make = partial(Block, config, self.traits, dtype=dtype, implementation=attention_implementation)
        self.embed = Embeddings(config, self.traits, dtype=dtype, rngs=rngs)
        self.blocks = stacked(make, config.num_hidden_layers, rngs.params())
        self.norm = _norm(self.traits, config.hidden_size, dtype, rngs)
        self.lm_head = (
            None
            if config.tie_word_embeddings or not config.capabilities.lm_head
            else Linear(config.hidden_size, config.vocab_size, use_bias=False, param_dtype=dtype, rngs=rngs)
        )
        self.tiled_head = None  # or what multiplies as the head does (`jaxpaint.models.tiled`)

    def context(
        self, positions: Int[Array, "B S"], visible_until: Int[Array, "B S"], lookback: int | None = 0
    ) -> Context:
        """What the layers need to know of a batch's layout; see `ops.visibility`.

        With a `lookback` of None rows are one stream that is attended to block by block (`blockwise`).
        """
        if lookback is None:
            return self._context(positions, blocks(positions, visible_until, self.windows))
        return self._context(positions, ops.visibility(positions, visible_until, self.windows, lookback))

    def context_of_texts(
        self, positions: Int[Array, "B S"], visible_until: Int[Array, "B S"], lookback: int | None = 0
    ) -> Context:
        """As `context`, for layers that read no past: without a mask, where the model has a kernel that fits."""
        if self.kernel is None or lookback is None or not self.kernel.fits(visible_until.shape[1]):
            return self.context(positions, visible_until, lookback)
        return self._context(positions, seen(positions, visible_until, self.windows, lookback))

    def _context(self, positions: Int[Array, "B S"], mask: Array | Blocks | Seen) -> Context:
        tables = [self._rotary_tables(positions, each) for each in self.rotaries if each is not None]
        if not tables:
            return Context(None, None, mask)
        if len(set(self.rotaries)) == 1:
            return Context(*tables[0], mask)
        cos, sin = map(jnp.stack, zip(*tables, strict=True))
        return Context(cos, sin, mask)

    def _rotary_tables(self, positions: Int[Array, "B S"], turn: Rotary) -> tuple[Array, Array]:
        scaling = turn.scaling
        if isinstance(scaling, LongropeScaling) and (first := scaling.original_max_position_embeddings) is not None:
            short, long = (replace(turn, scaling=scaling.of(long=long)) for long in (False, True))
            each = zip(self._rotary_tables(positions - first, long), self._rotary_tables(positions, short), strict=True)
            cos, sin = (jnp.where((positions >= first)[:, :, None, None], *tables) for tables in each)
            return cos, sin
        frequencies = rotary.rope_frequencies(self.traits.rotary_dim, turn.theta, turn.scaling)
        return rotary.rope_tables(positions, frequencies, rotary.attention_factor(turn.scaling))

    def row_context(self, lengths: Int[Array, " B"], size: int) -> Context:
        """The context of rows of `size` that each hold one right-padded text."""
        positions, visible_until = row_layout(lengths, size)
        if (most := border(self.config)) < math.inf:
            positions = jnp.where(lengths[:, None] > most, positions + int(most), positions)
        return self.context_of_texts(positions, visible_until)

    def turned_alike(self, *, long: bool) -> Decoder:
        """This one for texts that are all beyond LongRoPE's original context, or all within it; they begin at 0."""
        scaling = self.config.rope_scaling.of(long=long)
        self.config = replace(self.config, rope_scaling=scaling)
        self.rotaries = tuple(turn and replace(turn, scaling=scaling) for turn in self.rotaries)
        return self

    def logits(self, hidden: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """Next-token logits in float32 of hidden states taken before the final norm."""
        normed = self.norm(hidden.reshape(-1, hidden.shape[-1]))
        return self.vocabulary_logits(normed, 0, self.config.vocab_size).T.reshape(*hidden.shape[:-1], -1)

    def unembedding(self, tokens: Int[Array, " B"]) -> Float[Array, "B D"]:
        """What states after the final norm are multiplied with for the logits of tokens, in float32."""
        if self.lm_head is None:
            return self.embed.embedding[...][tokens].astype(jnp.float32)
        return self.lm_head.kernel[...][:, tokens].T.astype(jnp.float32)

    def vocabulary_logits(self, normed: Float[Array, "M D"], first: Any, size: int) -> Float[Array, "size M"]:
        """Logits in float32 of `size` tokens from id `first` on, of hidden states after the final norm.

        Without a head, the embedding is it. The vocabulary is the leading axis: the layout in which CPUs multiply it
        fastest. Where `size` is a multiple of 32, `first` is.
        """
        if self.tiled_head is not None and size % tiles.MULTIPLE == 0:
            logits = columns_product(normed, self.tiled_head[...], first, size).T
        elif self.lm_head is None:
            embedding = self.embed.embedding[...]
            logits = product(moved(partial(jax.lax.dynamic_slice_in_dim, slice_size=size), embedding, first), normed.T)
        else:
            kernel = self.lm_head.kernel[...]
            kernel = moved(partial(jax.lax.dynamic_slice_in_dim, slice_size=size, axis=1), kernel, first)
            as_is = multiplies_as_is(normed, kernel)  # then it is not turned
            logits = product(normed, kernel).T if as_is else product(kernel.T, normed.T)
        return ops.capped(logits, self.traits.logit_cap)


def _rotaries(config: Any) -> tuple[Rotary | None, ...]:
    """How each layer's positions turn; None where they do not."""
    traits, alike = config.traits, None
    if traits.rotary is not None:
        return traits.rotary
    if traits.rotary_dim is not None:
        alike = Rotary(config.rope_theta, config.rope_scaling)
    return (alike,) * len(traits.windows)


def _norm(traits: Traits, size: int, dtype, rngs: nnx.Rngs) -> Any:
    how = {"offset": traits.norm_offset, "use_bias": traits.norm_bias}
    return norm(traits.norm, size, traits.epsilon, dtype, rngs, **how)
