"""Models of random weights, for tests and for measurements at real shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.precision import Weights
from jaxpaint.engine import layers as stack
from jaxpaint.engine.layers import lie_apart
from jaxpaint.engine.model import (
    DType,
    Model,
    attention_implementation,
    from_parameters,
    plain_parameters,
    resolve_dtype,
)
from jaxpaint.models import abstract_model, new_model, with_layers
from jaxpaint.models.family import Config

if TYPE_CHECKING:
    from jaxpaint.engine.source import Source


def random_model(config: Config, *, seed: int = 0, dtype: DType = "auto", weights: Weights = "float") -> Model:
    """A model of random weights."""
    chosen = resolve_dtype(dtype)
    how = chosen, attention_implementation(config, chosen), weights
    graphdef = nnx.split(abstract_model(config, *how))[0]
    if lie_apart(config, chosen):
        return Model(config, graphdef, _random_apart(config, how, seed))
    return Model(config, graphdef, jax.jit(lambda: nnx.split(new_model(config, *how, seed=seed))[1])())


def random_pair(model: Source) -> Model:
    """Two layers of the model's sizes and random weights, of numbers as its store has them: they run as its own do."""
    config = with_layers(model.config, range(2))
    found = random_model(config, dtype=str(model.dtype), weights=model.weights)  # type: ignore[arg-type]
    if model.weights != "float" or not on_cpu():
        return found
    stored = jnp.dtype(model.manifest["dtype"])
    return from_parameters(
        config, jax.tree.map(lambda leaf: leaf.astype(stored).astype(leaf.dtype), plain_parameters(found))
    )


def _random_apart(config: Config, how: Any, seed: int) -> Any:
    """Random parameters, layer by layer: of them all at once a stack would be there besides."""
    single = with_layers(config, [0])

    def whole(seed):
        return nnx.split(new_model(single, *how, seed=seed))[1]

    layer = jax.jit(lambda seed: jax.tree.map(lambda leaf: leaf[0], whole(seed)["blocks"]))
    seeds = jax.random.split(jax.random.key(seed), config.num_hidden_layers + 1)
    layers = [layer(each) for each in seeds[1:]]
    state = jax.jit(whole)(seeds[0])
    state["blocks"] = jax.tree.map(lambda *leaves: stack.Apart(leaves), *layers)
    return state
