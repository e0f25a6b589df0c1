"""A converted model whose weights are not read yet: what can be said, encoded and counted without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from jaxpaint.base.errors import UserError
from jaxpaint.base.precision import Weights, checked_weights, described
from jaxpaint.engine.layers import are_offloaded
from jaxpaint.engine.model import DType, Model, attention_implementation, load, resolve_dtype
from jaxpaint.models import abstract_model, abstract_parameters
from jaxpaint.models.checkpoint import read_config, read_manifest
from jaxpaint.models.family import Config, require_texts
from jaxpaint.models.quantised import stored_bytes
from jaxpaint.models.tokenizer import load_tokenizer
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True, eq=False)
class Source:
    """The converted model in `store`, to be computed in `dtype` with these `weights`.

    What `Model` says too has the same name.
    """

    store: Path
    config: Config
    dtype: jnp.dtype
    weights: Weights = "float"
    mesh: Any = None  # None is one device; or other machines' devices, without them (AbstractMesh)
    offload: bool = False

    @classmethod
    def of(
        cls,
        store: Path,
        dtype: DType = "auto",
        weights: Weights = "float",
        *,
        mesh: Mesh | None = None,
        offload: bool = False,
    ) -> Source:
        """Arguments are `jaxpaint.engine.model.load`'s. Raises UserError for a folder that is no converted store."""
        return cls(store, read_config(store), resolve_dtype(dtype), checked_weights(weights), mesh, offload)

    @classmethod
    def of_loaded(cls, model: Model) -> Source:
        """That of a model whose weights are there. Raises UserError for one made in memory, which has no store."""
        if model.store is None:
            raise UserError("this model was made in memory, and has no store to name in results; convert and load it")
        offload = are_offloaded(model.state["blocks"])
        source = cls(model.store, model.config, model.dtype, model.weights, model.mesh, offload)
        vars(source).update(loaded=model, manifest=model.manifest)  # where the cached properties keep them
        return source

    @cached_property
    def loaded(self) -> Model:
        """The model itself, whose weights are read the first time.

        Its tokenizer is read before: the libraries for it take memory that weights then lack. Raises UserError as
        `jaxpaint.engine.model.load`, and where there is no tokenizer.
        """
        tokenizer = None if self.config.capabilities.images else self.tokenizer
        how: Any = {"dtype": self.dtype.name, "weights": self.weights, "mesh": self.mesh, "offload": self.offload}
        found = load(self.store, **how)
        if found.manifest != self.manifest:
            raise UserError(f"the store {self.store} was replaced meanwhile; try again")
        if tokenizer is not None:
            vars(found)["tokenizer"] = tokenizer  # where the cached property keeps it
        return found

    @property
    def computed_in(self) -> str:
        return described(self.dtype, self.weights)

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        return read_manifest(self.store)

    @cached_property
    def tokenizer(self) -> Any:
        """Raises UserError where the checkpoint brought none."""
        require_texts(self.config, "this")
        return load_tokenizer(self.store)

    @cached_property
    def state(self) -> Any:
        """The parameters' shapes and dtypes, in place of the parameters."""
        implementation = attention_implementation(self.config, self.dtype)
        return nnx.state(abstract_model(self.config, self.dtype, implementation, self.weights))

    @property
    def parameters(self) -> int:
        """How many numbers the model has learned."""
        return sum(leaf.size for leaf in abstract_parameters(self.config, self.dtype).values())

    @property
    def parameter_bytes(self) -> int:
        """What they take in memory, as they are kept."""
        return sum(map(stored_bytes, jax.tree.leaves(self.state)))

    def checked_plan(self, plan: Plan) -> Plan:
        """Raises PlanError if it names a layer that the model lacks."""
        return plan.validate(self.num_layers)


def with_weights(model: Model | Source) -> Model:
    """The model, whose weights are read where they have not been."""
    return model.loaded if isinstance(model, Source) else model
