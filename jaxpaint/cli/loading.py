"""From --model to a converted store, and to a model in memory."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaint.base.limits import require
from jaxpaint.cli.options import chosen_plan
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.source import Source
    from jaxpaint.models.family import Config


def model_store(model: str, revision: str | None = None) -> Path:
    """The model's converted store, made on first use. Raises UserError."""
    require(computing=True)
    from convert import store_for
    from jaxpaint.base.progress import byte_bar

    with byte_bar() as progress:
        return store_for(model, revision, progress=progress)


def model_config(model: str, revision: str | None = None) -> Config:
    """The model's architecture, though it was never converted: nothing is written. Raises UserError."""
    require(computing=True)
    from convert import config_for

    return config_for(model, revision)


def source_with_plan(options: argparse.Namespace, check: Callable[[Config, Plan], None]) -> tuple[Source, Plan]:
    """The converted model whose weights are not read, and the plan that the options name.

    A plan that does not fit, and what `check` raises of other options, is told before the model is converted. Raises
    UserError.
    """
    config = model_config(options.model, options.revision)
    plan = chosen_plan(options, config.num_hidden_layers)
    check(config, plan)
    return model_source(options), plan


def model_source(options: argparse.Namespace) -> Source:
    """The converted model, to be read as the options say to these devices. Raises UserError."""
    from jaxpaint.engine.source import Source
    from jaxpaint.models.sharding import device_mesh

    mesh = device_mesh(options.tensor_parallel, options.layer_parallel)
    store = model_store(options.model, options.revision)
    return Source.of(store, options.dtype, options.weights, mesh=mesh, offload=options.offload)
