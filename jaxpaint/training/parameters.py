"""The parameters of the layers that a plan uses: only these are trained, and only these take memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.models import checkpoint
from jaxpaint.plans.nodes import map_layers
from jaxpaint.plans.plan import Plan


def own_layers(plan: Plan) -> tuple[Plan, tuple[int, ...]]:
    """`(plan, layers)`: the plan over the layers that it uses, counted as it first names them, and which those are."""
    place: dict[int, int] = {}
    own = map_layers(plan.root, lambda index: place.setdefault(index, len(place)))
    return Plan.of(own), tuple(place)


def host_parameters(model: Model | Source) -> dict[str, Any]:
    """All of a model's parameters in float32 on the host: read from its store, where it has one.

    Raises:
        UserError: a damaged store.
    """
    if isinstance(model, Model) and model.store is None:
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), nnx.to_pure_dict(model.state))
    assert model.store is not None
    try:
        on_host = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    except RuntimeError:  # JAX was told to know accelerators alone
        on_host = None
    return jax.tree.map(np.asarray, checkpoint.restore(model.store, dtype=jnp.float32, sharding=on_host))


def of_layers(parameters: Mapping[str, Any], layers: tuple[int, ...]) -> dict[str, Any]:
    """`parameters` with a stack of these layers alone."""
    return {**parameters, "blocks": jax.tree.map(lambda leaf: leaf[list(layers)], parameters["blocks"])}
