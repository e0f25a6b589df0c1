"""An encoder of images: a vector of each patch, the pre-norm layers of `prenorm_encoder`, and a classifier.

An image is a row as a text is one: first [CLS], which no pixels stand for, then its patches from the upper left on,
row by row.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxpaint.models import attention as ops
from jaxpaint.models import decoder
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.narrow import Linear
from jaxpaint.models.parts import norm, stacked
from jaxpaint.models.prenorm_encoder import Block, Context


class Projection(nnx.Module):
    """The product that makes a vector of a patch (transformers' convolution of a stride as wide as its kernel)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        high, wide = config.patch_size
        shape = (wide, high, config.num_channels, config.hidden_size)
        deviation = 1 / math.sqrt(math.prod(shape[:-1]))
        self.kernel = nnx.Param((deviation * jax.random.normal(rngs.params(), shape)).astype(dtype))
        self.bias = nnx.Param(jnp.zeros(config.hidden_size, dtype))

    def __call__(self, patches: Float[Array, "B S pixels"]) -> Float[Array, "B S D"]:
        kernel = self.kernel[...]
        return patches.astype(kernel.dtype) @ kernel.reshape(-1, kernel.shape[-1]) + self.bias[...]


class Embeddings(nnx.Module):
    """A vector of each patch, [CLS] before them, and one for each position (transformers `ViTEmbeddings`)."""

    def __init__(self, config: Any, *, dtype, rngs: nnx.Rngs):
        self.projection = Projection(config, dtype=dtype, rngs=rngs)
        self.cls_token = nnx.Param(jnp.zeros((1, 1, config.hidden_size), dtype))
        self.positions = nnx.Param(jnp.zeros((1, config.max_position_embeddings, config.hidden_size), dtype))

    def __call__(self, patches: Float[Array, "B S pixels"], positions: Int[Array, "#B S"]) -> Float[Array, "B S D"]:
        """What stands for [CLS] among the patches is not read."""
        is_first = (positions == 0)[..., None]
        return jnp.where(is_first, self.cls_token[...], self.projection(patches)) + self.positions[...]


class VisionEncoder(nnx.Module):
    """Embeddings, stacked blocks, final norm, and a classifier where the checkpoint has one."""

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
        self.blocks = stacked(make, config.num_hidden_layers, rngs.params())
        self.norm = norm("layer", config.hidden_size, self.traits.epsilon, dtype, rngs)
        count = len(config.labels)
        self.classifier = Linear(config.hidden_size, count, param_dtype=dtype, rngs=rngs) if count else None

    def row_context(self, lengths: Int[Array, " B"], size: int) -> Context:
        """The context of rows of `size` that each hold one image: every patch sees all of it."""
        return Context(decoder.Context(None, None, jnp.ones((len(lengths), 1, size, size), bool)))

    def pooled(
        self, hidden: Float[Array, "B S D"], lengths: Int[Array, " B"], dropped: Dropout | None = None
    ) -> Float[Array, "B D"]:
        """What classifiers read: the last state of [CLS], normed; `dropped` is for training."""
        return dropout(self.norm(hidden[:, 0]), dropped)

    def class_logits(self, pooled: Float[Array, "B D"]) -> Float[Array, "B labels"]:
        """In float32, of its own classes. For models with a classifier."""
        assert self.classifier is not None
        return self.classifier(pooled).astype(jnp.float32)
