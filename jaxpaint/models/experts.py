"""A mixture of experts as a layer's feed-forward: each token goes through the few that a router chooses for it.

Exact, whatever tokens choose: none is dropped, and none is computed by an expert that it did not choose. Pairs of a
token and an expert are sorted by expert and dealt into blocks of one expert each, as many as the worst choice needs
(dropless, as MegaBlocks, arXiv 2211.15841); a scan takes each block through its expert.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.models.family import Config, Experts
from jaxpaint.models.narrow import Linear, taken
from jaxpaint.models.parts import MLP, stacked

# A block is as long as what experts get on average, up to this: beyond it a CPU's products become no faster, and what
# blocks are filled up with is computed for nothing.
LONGEST_BLOCK = 64


class Mixture(nnx.Module):
    """Experts' feed-forwards weighted by a router, and the shared one that all tokens go through, where there is one.

    Kernels of `experts` have an expert axis.
    """

    def __init__(
        self, config: Config, names: tuple[str, ...], traits: Experts, *, dtype: Any, rngs: nnx.Rngs, **how: Any
    ):
        self.traits = traits
        mlp = partial(MLP, config, names, dtype=dtype, **how)
        linear = partial(Linear, config.hidden_size, use_bias=False, param_dtype=dtype, rngs=rngs)
        self.gate = linear(traits.count)
        self.experts = stacked(partial(mlp, width=traits.width), traits.count, rngs.params())
        if traits.shared_width is not None:
            self.shared_expert = mlp(width=traits.shared_width, rngs=rngs)
            self.shared_expert_gate = linear(1)

    def __call__(self, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        tokens = x.reshape(-1, x.shape[-1])
        weights, chosen = routed(self.gate(tokens), self.traits)
        graphdef, parameters = nnx.split(self.experts)

        def expert(index: Int[Array, ""], rows: Array) -> Array:
            own = jax.tree.map(partial(taken, index=index), parameters)
            return nnx.merge(graphdef, own)(rows)

        found = by_expert(expert, tokens, chosen, self.traits.count)
        mixed = (found * weights[..., None]).sum(axis=1).astype(x.dtype)
        if self.traits.shared_width is not None:
            mixed = mixed + jax.nn.sigmoid(self.shared_expert_gate(tokens)) * self.shared_expert(tokens)
        return mixed.reshape(x.shape)


def routed(
    logits: Float[Array, "tokens experts"], traits: Experts
) -> tuple[Float[Array, "tokens chosen"], Int[Array, "tokens chosen"]]:
    """The weights of a token's experts in float32, and which they are (transformers' `MixtralTopKRouter`)."""
    weights, chosen = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32)), traits.chosen)
    return weights / weights.sum(axis=-1, keepdims=True) if traits.normalised else weights, chosen


def by_expert(
    expert: Any, tokens: Float[Array, "tokens D"], chosen: Int[Array, "tokens chosen"], count: int
) -> Float[Array, "tokens chosen D"]:
    """`expert(index, rows)` of every token by each of the experts that are chosen for it."""
    pairs = chosen.reshape(-1)
    size = max(1, min(LONGEST_BLOCK, pairs.size // count))
    blocks = (pairs.size + min(count, pairs.size) * (size - 1)) // size  # the most that are begun
    of_expert = jnp.bincount(pairs, length=count)
    begun = -(-of_expert // size)
    last_block = jnp.cumsum(begun)  # of each expert, and one more
    order = jnp.argsort(pairs)
    ordered = pairs[order]
    rank = jnp.arange(pairs.size) - (jnp.cumsum(of_expert) - of_expert)[ordered]
    places = jnp.zeros(pairs.size, jnp.int32).at[order].set((last_block - begun)[ordered] * size + rank)
    # What nobody chose is of the first token, and no one reads it.
    rows = jnp.zeros(blocks * size, jnp.int32).at[places].set(jnp.arange(pairs.size) // chosen.shape[1])
    experts = jnp.searchsorted(last_block, jnp.arange(blocks), side="right").clip(max=count - 1)
    found = jax.lax.map(lambda block: expert(*block), (experts, tokens[rows].reshape(blocks, size, -1)))
    return found.reshape(blocks * size, -1)[places].reshape(*chosen.shape, -1)
