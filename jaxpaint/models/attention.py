"""The array operations that attention blocks share: activations, visibility, attention.

Axis letters, here and everywhere: B rows of a batch, S positions in a row, D hidden_size, N query heads,
K key/value heads, H head_dim, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxpaint import tiles
from jaxpaint.base.target import platform
from jaxpaint.models.dropout import Dropout, dropout
from jaxpaint.models.narrow import in_float32, multiplies_as_is, product, widened

AttentionImplementation = Literal["matmul", "einsum", "cudnn", "vectors"]
# Float32 attention scores in memory at once.
SCORES_BYTES = 1 << 30


def activation(name: str) -> Callable[[Array], Array]:
    """The function that a config.json calls by this name."""
    known: dict[str, Callable[[Array], Array]] = {
        "silu": jax.nn.silu,
        "relu": jax.nn.relu,
        "gelu": gelu,
        "gelu_new": jax.nn.gelu,
        "gelu_fast": jax.nn.gelu,
        "gelu_pytorch_tanh": jax.nn.gelu,
    }
    return in_float32(known[name])


@jax.custom_vjp
def gelu(x: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
    """Exact GELU (transformers `gelu`). Its way back keeps nothing but `x`, the widest array of a layer."""
    x = jnp.asarray(x)
    return x * _normal_cdf(x)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_gradient(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return (gradient * (_normal_cdf(x) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)


def visibility(
    positions: Int[Array, "B S"],
    visible_until: Int[Array, "B S"],
    windows: Sequence[int | None] = (None,),
    lookback: int = 0,
) -> Bool[Array, "B 1 S keys"] | Bool[Array, "kinds B 1 S keys"]:
    """Which keys each query sees: those of its own row and of the `lookback` rows before it, the furthest first.

    Key j is seen by query i when `j <= i < visible_until[j]`, all counted from the start of the key's row. With a
    sequence's end in `visible_until`, sequences lie side by side; with the end of a token's subtree, tokens laid out
    depth first form trees, in which each block sees its ancestors. What is longer than a row goes on in the next.
    Padding carries `visible_until = its own index + 1` and sees only itself. A sliding window bounds the distance in
    `positions` (tokens), as in Mistral: `position[i] - position[j] < window`. Several windows make a mask each.
    """
    length = positions.shape[-1]
    index = jnp.arange(length)
    # Before the first row come the last ones, whose sequences have ended by then: no query sees them.
    distance = jnp.arange(lookback, -1, -1)[:, None] * length
    query = (index[:, None, None] + distance).reshape(length, -1, 1)
    ends = with_lookback(visible_until, lookback).reshape(-1, 1, lookback + 1, length)
    mask = (index <= query) & (query < ends)
    mask = mask.reshape(-1, length, (lookback + 1) * length)
    distances = positions[:, :, None] - with_lookback(positions, lookback)[:, None, :]
    return within(windows, mask[:, None], distances[:, None])


def within(
    windows: Sequence[int | None], visible: Bool[Array, "*same"], distance: Int[Array, "*same"]
) -> Bool[Array, "*same"] | Bool[Array, "kinds ..."]:
    """`visible` keys at a distance (in tokens) below the window: one mask, or one for each of several windows."""
    each = [visible if window is None else visible & (distance < window) for window in windows]
    return each[0] if len(each) == 1 else jnp.stack(each)


def capped(x: Float[Array, "*shape"], cap: float | None) -> Float[Array, "*shape"]:
    """`x` softly bounded to within `cap` of 0."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def with_lookback(x: Shaped[Array, "B S *rest"], lookback: int) -> Shaped[Array, "B keys *rest"]:
    """Each row after the `lookback` rows before it: [B, (lookback + 1) * S, ...]."""
    if lookback == 0:
        return x
    return jnp.concatenate([jnp.roll(x, distance, axis=0) for distance in range(lookback, -1, -1)], axis=1)


def attention(
    query: Float[Array, "B S N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 S keys"],
    implementation: AttentionImplementation = "matmul",
    dropped: Dropout | None = None,
    cap: float | None = None,
    bias: Float[Array, "#B N S keys"] | None = None,
) -> Float[Array, "B S N H"]:
    """Scaled dot-product attention with grouped key/value heads, softmax in float32, as far back as `mask` reaches.

    `cudnn` is cuDNN's flash attention (NVIDIA GPUs, bfloat16), `vectors` this project's on CPUs (`jaxpaint.tiles`)
    where it serves, else `matmul`. The others are plain matrix products, by blocks of queries where the scores of all
    would take more than `SCORES_BYTES`: `matmul` multiplies [B*K, N/K*S, H] with [B*K, keys, H], the form that runs
    fastest on a CPU; `einsum` never joins batch and heads, so that heads which are split over devices stay split.
    `dropped` says which of the softmax's probabilities to drop, `cap` bounds scores softly, and `bias` is added to
    them: not in `cudnn` and `vectors`.
    """
    batch, length, heads, _ = query.shape
    lookback = mask.shape[-1] // length - 1
    key, value = with_lookback(key, lookback), with_lookback(value, lookback)
    if implementation == "cudnn":
        assert dropped is None
        assert cap is None
        assert bias is None
        return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")
    if implementation == "vectors" and dropped is None and cap is None and bias is None:
        return vector_attention(query, [_own(key, value, mask)])
    blocks = 1
    while batch * heads * (length // blocks) * mask.shape[-1] * 4 > SCORES_BYTES and length % (blocks * 2) == 0:
        blocks *= 2
    attend = _einsum_attention if implementation == "einsum" else _matmul_attention
    if blocks == 1:
        return attend(query, key, value, mask, dropped, cap, bias)
    queries = jnp.moveaxis(query.reshape(batch, blocks, length // blocks, heads, -1), 1, 0)
    masks = jnp.moveaxis(mask.reshape(batch, 1, blocks, length // blocks, -1), 2, 0)
    keys = None if dropped is None else jax.random.split(dropped.key, blocks)
    biases = None if bias is None else jnp.moveaxis(bias.reshape(*bias.shape[:2], blocks, *masks.shape[3:]), 2, 0)

    def block(parts: tuple[Any, ...]) -> Array:
        own = None if dropped is None else dropped._replace(key=parts[2])
        return attend(parts[0], key, value, parts[1], own, cap, parts[3])

    mixed = jax.lax.map(block, (queries, masks, keys, biases))
    return jnp.moveaxis(mixed, 0, 1).reshape(query.shape)


def _matmul_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 T S"],
    dropped: Dropout | None = None,
    cap: float | None = None,
    bias: Float[Array, "#B N T S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Attention of T queries to S keys by plain matrix products."""
    batch, queries, heads, head_dim = query.shape
    length, groups = key.shape[1:3]
    query = query.transpose(0, 2, 1, 3).reshape(batch * groups, heads // groups * queries, head_dim)
    key = key.transpose(0, 2, 1, 3).reshape(batch * groups, length, head_dim)
    value = value.transpose(0, 2, 1, 3).reshape(batch * groups, length, head_dim)
    scores = _scores(query, key) * head_dim**-0.5
    scores = capped(scores, cap).reshape(batch, heads, queries, length)
    scores = scores if bias is None else scores + bias
    scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    # The softmax's division comes after the product, where there is less to divide.
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    mixed, total = _mixed(weights.reshape(batch * groups, -1, length), value, dropped)
    mixed = mixed / total
    return mixed.astype(value.dtype).reshape(batch, heads, queries, head_dim).transpose(0, 2, 1, 3)


def _scores(query: Float[Array, "*batch T H"], key: Float[Array, "*batch S H"]) -> Float[Array, "*batch T S"]:
    """Products of each query with each key, in float32."""
    if platform() == "tpu" and query.shape[-2] < FULL_QUERIES:
        return _scores(_topped_up(query), key)[..., : query.shape[-2], :]
    if multiplies_as_is(query, key) and query.shape[-2] <= FEW_QUERIES:  # the larger side is not turned
        return jnp.swapaxes(product(key, jnp.swapaxes(query, -1, -2)), -1, -2)
    if multiplies_as_is(query, key):
        return product(query, jnp.swapaxes(key, -1, -2))
    return jnp.einsum("...qh,...kh->...qk", query, key, preferred_element_type=jnp.float32)


def _mixed(
    weights: Float[Array, "*batch T S"], value: Float[Array, "*batch S H"], dropped: Dropout | None = None
) -> tuple[Float[Array, "*batch T H"], Float[Array, "*batch T 1"]]:
    """`(sums of values by their weights, sums of weights)` in float32."""
    narrow = weights.astype(value.dtype)
    if dropped is None and platform() == "tpu" and weights.shape[-2] < FULL_QUERIES:
        return product(_topped_up(narrow), value)[..., : weights.shape[-2], :], weights.sum(axis=-1, keepdims=True)
    summed = multiplies_as_is(value) or (platform() == "cpu" and value.dtype == jnp.float32)
    if dropped is None and weights.shape[-2] > FEW_QUERIES and summed:
        # The product sums the weights too: no pass of its own, and of bfloat16 they are never written in float32.
        found = product(narrow, jnp.concatenate([value, jnp.ones_like(value[..., :1])], axis=-1))
        return found[..., :-1], found[..., -1:]
    return product(dropout(narrow, dropped), value), weights.sum(axis=-1, keepdims=True)


def _topped_up(x: Float[Array, "*batch T width"]) -> Float[Array, "*batch queries width"]:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, FULL_QUERIES - x.shape[-2]), (0, 0)])


def _einsum_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    mask: Bool[Array, "B 1 T S"],
    dropped: Dropout | None = None,
    cap: float | None = None,
    bias: Float[Array, "#B N T S"] | None = None,
) -> Float[Array, "B T N H"]:
    """As `_matmul_attention`, with batch and heads as axes of their own."""
    batch, queries, heads, head_dim = query.shape
    groups = key.shape[2]
    query = query.reshape(batch, queries, groups, heads // groups, head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32) * head_dim**-0.5
    scores = capped(scores, cap)
    scores = scores if bias is None else scores + bias.reshape(len(bias), groups, -1, *bias.shape[2:])
    scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1)
    weights = dropout(weights.astype(value.dtype), dropped)
    mixed = jnp.einsum("bkgts,bskh->btkgh", *widened(weights, value), preferred_element_type=jnp.float32)
    mixed = mixed / jnp.moveaxis(total, 3, 1)[..., None]
    return mixed.astype(value.dtype).reshape(batch, queries, heads, head_dim)


# Queries whose keys are cut off together, where tokens see none that come after them; a CPU's caches hold the scores
# of fewer.
CAUSAL_BLOCK = 256
CPU_CAUSAL_BLOCK = 128
# Queries of a row that share keys, up to which a CPU is measured to read these sooner for one after the other.
FEW_QUERIES = 16
# Queries below which a TPU's compiler makes sums of a product, number by number; its matrix units take as many at once.
FULL_QUERIES = 8


class Past(NamedTuple):
    """Keys and values of earlier tokens, laid out for attention to read: one layer's part of a cache.

    Where there are fewer rows than a batch has, all of the batch shares the one row.
    """

    key: Float[Array, "rows K P H"]
    value: Float[Array, "rows K P H"]
    mask: Bool[Array, "B 1 T P"]


def attention_with_past(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T K H"],
    value: Float[Array, "B T K H"],
    mask: Bool[Array, "B 1 T T"],
    pasts: Sequence[Past],
    implementation: AttentionImplementation = "matmul",
    cap: float | None = None,
) -> Float[Array, "B T N H"]:
    """As `attention` to the tokens' own keys and to those of every past, under one softmax.

    No token may see own keys that come after it. A past that all rows share is multiplied once for all of them
    (Hydragen, arXiv 2402.05099). A single row of many tokens, a chunk of prompts, may be cuDNN's.
    """
    length = query.shape[1]
    if implementation == "cudnn" and len(query) == 1 and length > 1:
        return _joined_attention(query, [*pasts, _own(key, value, mask)])
    if implementation == "vectors" and length > 1 and cap is None:
        return vector_attention(query, [*pasts, _own(key, value, mask)])
    mixed = []
    block = CPU_CAUSAL_BLOCK if platform() == "cpu" else CAUSAL_BLOCK
    for start in range(0, length, block):
        stop = min(start + block, length)
        seen = [past._replace(mask=past.mask[:, :, start:stop]) for past in pasts]
        own = _own(key[:, :stop], value[:, :stop], mask[:, :, start:stop, :stop])
        mixed.append(_attention_to_parts(query[:, start:stop], [*seen, own], implementation, cap))
    return jnp.concatenate(mixed, axis=1)


def _own(key: Float[Array, "B S K H"], value: Float[Array, "B S K H"], mask: Bool[Array, "B 1 T S"]) -> Past:
    return Past(key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), mask)


@jax.custom_jvp
def vector_attention(query: Float[Array, "B T N H"], parts: Sequence[Past]) -> Float[Array, "B T N H"]:
    """Attention to all parts by a processor's vectors, scores never in memory; derivatives are of plain products."""
    return tiles.attention(query, parts, query.shape[-1] ** -0.5)


@vector_attention.defjvp
def _(arguments: Any, changes: Any) -> tuple[Array, Array]:
    def plain(query: Array, parts: Sequence[Past]) -> Array:
        return _attention_to_parts(query, parts, "matmul", None)

    return jax.jvp(plain, arguments, changes)


def _joined_attention(query: Float[Array, "1 T N H"], parts: Sequence[Past]) -> Float[Array, "1 T N H"]:
    """Attention of one row to all keys of all parts as one, which cuDNN wants side by side."""
    key = jnp.concatenate([part.key for part in parts], axis=2).transpose(0, 2, 1, 3)
    value = jnp.concatenate([part.value for part in parts], axis=2).transpose(0, 2, 1, 3)
    mask = jnp.concatenate([part.mask for part in parts], axis=-1)
    return jax.nn.dot_product_attention(query, key, value, mask=mask, implementation="cudnn")


def _attention_to_parts(
    query: Float[Array, "B T N H"], parts: Sequence[Past], implementation: AttentionImplementation, cap: float | None
) -> Float[Array, "B T N H"]:
    batch, length, heads, head_dim = query.shape
    groups = parts[0].key.shape[1]
    query = query.transpose(0, 2, 1, 3).reshape(batch, groups, heads // groups * length, head_dim)
    shared = query.transpose(1, 0, 2, 3).reshape(1, groups, -1, head_dim)
    # A CPU reads keys sooner, and with all its cores, for a few queries one by one (docs/log.md).
    by_query = length == 1 and query.shape[2] <= FEW_QUERIES and implementation in ("matmul", "vectors")
    as_is = multiplies_as_is(query, parts[0].key)

    def scores(part: Past) -> Float[Array, "B N T keys"]:
        if part.key.shape[2] == 1 and part.key.shape[0] == batch:  # not worth a product
            found = (query.astype(jnp.float32) * part.key).sum(axis=-1, keepdims=True)
        elif part.key.shape[0] == batch and by_query and not as_is:
            one_by_one = [
                jnp.einsum("bkh,bksh->bks", query[:, :, one], part.key, preferred_element_type=jnp.float32)
                for one in range(query.shape[2])
            ]
            found = jnp.stack(one_by_one, axis=2)
        elif part.key.shape[0] == batch:
            found = _scores(query, part.key)
        else:
            found = _scores(shared, part.key)
            found = found.reshape(groups, batch, -1, part.key.shape[2]).transpose(1, 0, 2, 3)
        found = capped(found.reshape(batch, heads, length, -1) * head_dim**-0.5, cap)
        return jnp.where(part.mask, found, jnp.finfo(jnp.float32).min)

    def mixed(part: Past, weights: Float[Array, "B N T keys"]) -> tuple[Array, Array]:
        weights = weights.reshape(batch, groups, -1, part.value.shape[2])
        if part.value.shape[2] == 1 and part.value.shape[0] == batch:
            return weights.astype(part.value.dtype).astype(jnp.float32) * part.value, weights
        if part.value.shape[0] == batch:
            return _mixed(weights, part.value)
        weights = weights.transpose(1, 0, 2, 3).reshape(1, groups, -1, part.value.shape[2])
        found, total = (each.reshape(groups, batch, -1, each.shape[-1]) for each in _mixed(weights, part.value))
        return found.transpose(1, 0, 2, 3), total.transpose(1, 0, 2, 3)

    each = [scores(part) for part in parts]
    largest = jnp.stack([found.max(axis=-1) for found in each]).max(axis=0)[..., None]
    weights = [jnp.exp(found - largest) for found in each]
    sums, totals = zip(*(mixed(part, found) for part, found in zip(parts, weights, strict=True)), strict=True)
    whole = jnp.stack(sums).sum(axis=0) / jnp.stack(totals).sum(axis=0)
    whole = whole.astype(query.dtype).reshape(batch, heads, length, head_dim)
    return whole.transpose(0, 2, 1, 3)
