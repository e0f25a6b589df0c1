"""A converted model whose weights are not read: what can be said, encoded and counted without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxpaint.engine.model import DType, attention_implementation, resolve_dtype
from jaxpaint.models import abstract_model
from jaxpaint.models.checkpoint import read_config, read_manifest
from jaxpaint.models.family import Config
from jaxpaint.models.tokenizer import load_tokenizer
from jaxpaint.plans.plan import Plan


@dataclass(frozen=True, eq=False)
class Source:
    """The converted model in `store`, to be computed in `dtype`. What `Model` says too has the same name."""

    store: Path
    config: Config
    dtype: jnp.dtype
    mesh: None = None  # counted as for one device

    @classmethod
    def of(cls, store: Path, dtype: DType = "auto") -> Source:
        """Raises UserError for a folder that is no converted store."""
        return cls(store, read_config(store), resolve_dtype(dtype))

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        return read_manifest(self.store)

    @cached_property
    def tokenizer(self) -> Any:
        """Raises UserError where the checkpoint brought none."""
        return load_tokenizer(self.store)

    @cached_property
    def state(self) -> Any:
        """The parameters' shapes and dtypes, in place of the parameters."""
        return nnx.state(abstract_model(self.config, self.dtype, attention_implementation(self.config, self.dtype)))

    @property
    def parameters(self) -> int:
        """How many numbers the model has learned."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state))

    def checked_plan(self, plan: Plan) -> Plan:
        """Raises PlanError if it names a layer that the model lacks."""
        return plan.validate(self.num_layers)
