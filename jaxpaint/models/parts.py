"""What every model is built of: norms, feed-forwards, blocks stacked along a leading layer axis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxpaint.models.attention import activation
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.family import Config
from jaxpaint.models.narrow import Linear


def norm(
    kind: Literal["rms", "layer"],
    size: int,
    epsilon: float,
    dtype: Any,
    rngs: nnx.Rngs,
    *,
    offset: bool = False,
    use_bias: bool = True,
) -> Any:
    """A norm over `size` numbers whose statistics are in float32; with `offset` its scale is stored less 1.

    `use_bias` is of layer norms.
    """
    if offset:
        return OffsetNorm(size, epsilon, dtype)
    if kind == "rms":
        return nnx.RMSNorm(size, epsilon=epsilon, param_dtype=dtype, rngs=rngs)
    # The variance as the mean square less the squared mean loses digits that deep plans need.
    return nnx.LayerNorm(
        size, epsilon=epsilon, use_bias=use_bias, use_fast_variance=False, param_dtype=dtype, rngs=rngs
    )


class OffsetNorm(nnx.Module):
    """An RMS norm whose scale is 1 and the parameter, all in float32 (transformers `Gemma2RMSNorm`)."""

    def __init__(self, size: int, epsilon: float, dtype: Any):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.zeros(size, dtype))

    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        wide = jnp.asarray(x, jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + self.epsilon)
        return (normed * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


class MLP(nnx.Module):
    """Feed-forward: `last(act(first(x)))`, or gated `last(act(first(x)) * second(x))`.

    Of two names where it is gated, the first is both of them in one product. `width` is the config's
    `intermediate_size` where it is not given.
    """

    def __init__(
        self,
        config: Config,
        names: tuple[str, ...],
        *,
        dtype: Any,
        rngs: nnx.Rngs,
        gated: bool = False,
        use_bias: bool = True,
        width: int | None = None,
    ):
        self.names, self.activation, self.gated = names, config.hidden_act, gated
        linear = partial(Linear, use_bias=use_bias, param_dtype=dtype, rngs=rngs)
        width = config.intermediate_size if width is None else width
        joined = 2 if gated and len(names) == 2 else 1
        for name in names[:-1]:
            setattr(self, name, linear(config.hidden_size, joined * width))
        setattr(self, names[-1], linear(width, config.hidden_size))

    def __call__(self, x: Float[Array, "*batch D"], dropped: Dropout | None = None) -> Float[Array, "*batch D"]:
        """`dropped` is what training drops of the numbers inside, where a family does so there."""
        first, *others = (getattr(self, name)(x) for name in self.names[:-1])
        if self.gated and not others:
            first, *others = jnp.split(first, 2, axis=-1)
        inside = activation(self.activation)(first)
        return getattr(self, self.names[-1])(dropout(inside * others[0] if others else inside, dropped))


def with_mean_norm(block: Any, other: Any, name: str) -> Any:
    """The block, its norm of that name with the mean of both blocks' parameters."""
    own, theirs = (nnx.state(getattr(each, name)) for each in (block, other))
    nnx.update(getattr(block, name), jax.tree.map(lambda one, two: (one + two) / 2, own, theirs))
    return block


def stacked(make: Callable[..., nnx.Module], count: int, key: jax.Array) -> Any:
    """One block, of `make(rngs=...)`, whose parameters are those of `count` random ones along a leading layer axis."""

    def one(key: jax.Array) -> Any:
        return nnx.split(make(rngs=nnx.Rngs(key)))[1]

    graphdef = nnx.split(nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0))))[0]
    return nnx.merge(graphdef, jax.vmap(one)(jax.random.split(key, count)))
