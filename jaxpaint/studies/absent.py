"""Whether a study fits a device that is not here: its largest batch, compiled for that device."""

from __future__ import annotations

from typing import Any

from jaxpaint.base.budgets import ACCELERATOR
from jaxpaint.bench.kinds import Target
from jaxpaint.models.family import Config
from jaxpaint.plans.proposals import stand_ins
from jaxpaint.studies.estimate import plan_work
from jaxpaint.studies.spec import StudySpec

# Tokens of a row: what is asked of a row's attention is little beside its layers where rows are no longer.
ROW = 512
GIB = 1 << 30


def fits(spec: StudySpec, config: Config, target: Target) -> str:
    """A line that says whether scoring the study's plans fits, in batches of its size, and what it takes a chip.

    Raises UserError for devices that cannot be, or do not divide as the spec asks.
    """
    import jax.numpy as jnp

    from jaxpaint.bench.ahead import compiled_figures
    from jaxpaint.bench.programs import Work
    from jaxpaint.engine.program import room_for
    from jaxpaint.models.sharding import DATA, mesh_shape

    layers = config.num_hidden_layers
    plans = [variant.plan for variant in spec.shard_variants(layers, stand_ins(layers))]
    dtype = jnp.dtype("bfloat16" if spec.dtype == "auto" else spec.dtype)
    sharing = mesh_shape(target.chips, spec.tensor_parallel, spec.layer_parallel)[DATA]
    length = min(ROW, config.max_position_embeddings)
    rows = max(1, (spec.batch_tokens or ACCELERATOR.score_tokens * sharing) // length // sharing) * sharing
    weights: Any = spec.weights
    largest = max(plans, key=lambda plan: (room_for(plan), plan.cost))
    work = Work("score", largest, rows, length, weights, spec.offload)
    found = compiled_figures(config, work, target, spec.tensor_parallel, dtype, spec.layer_parallel)
    what = f"batches of {rows} rows of {length} tokens"
    if found.problem is not None:
        return f"no, {what}: {found.problem}"
    state = rows // sharing * length * config.hidden_size * dtype.itemsize
    held = min(plan_work(plans).held * state, ACCELERATOR.state_bytes)
    needed, memory = found.peak + held + ACCELERATOR.logits_bytes, target.kind.memory
    return (
        f"{'yes' if needed <= memory else 'no'}, {what} take {needed / GIB:.2f} GiB of {memory / GIB:.2f} GiB a chip "
        f"({found.arguments / GIB:.2f} of arguments, {found.temporaries / GIB:.2f} of temporaries, {held / GIB:.2f} of "
        f"states held where plans part, {ACCELERATOR.logits_bytes / GIB:.2f} of logits)"
    )
