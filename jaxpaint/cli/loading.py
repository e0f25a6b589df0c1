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
    from jaxpaint.engine.model import Model
    from jaxpaint.models.family import Config


def model_store(model: str, revision: str | None = None) -> Path:
    """The model's converted store, made on first use. Raises UserError."""
    require(computing=True)
    from convert import store_for
    from jaxpaint.base.progress import byte_bar

    with byte_bar() as progress:
        return store_for(model, revision, progress=progress)


def load_with_plan(options: argparse.Namespace, check: Callable[[Config], None] | None = None) -> tuple[Model, Plan]:
    """The model and the plan that the options name.

    A plan that does not fit, and what `check` raises of other options, is told before the weights are read.
    """
    from jaxpaint.models.checkpoint import read_config

    store = model_store(options.model, options.revision)
    config = read_config(store)
    plan = chosen_plan(options, config.num_hidden_layers)
    if check is not None:
        check(config)

    from jaxpaint.engine.model import load
    from jaxpaint.models.sharding import device_mesh

    return load(store, dtype=options.dtype, mesh=device_mesh(options.tensor_parallel), with_tokenizer=True), plan
