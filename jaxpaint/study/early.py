"""What a model's configuration says against a study, before the model is converted and anything is computed."""

from __future__ import annotations

from typing import Any

from jaxpaint.generation.cache import groups
from jaxpaint.models.family import Config, require_lm_head
from jaxpaint.study.spec import ANALYSES_OF_PREDICTIONS, StudySpec
from jaxpaint.tasks.encoding import require_generation, require_length


def require_fitting(spec: StudySpec, config: Config) -> None:
    """Raises UserError for plans or a length that the model does not have, or tasks for a model without logits."""
    spec.shard_variants(config.num_hidden_layers)
    require_length(spec.max_length, config)
    if spec.tasks:
        require_lm_head(config, "this evaluation")
    if predictions := [name for name in spec.analyses if name in ANALYSES_OF_PREDICTIONS]:
        require_lm_head(config, f"the analysis {predictions[0]}")


def require_writable(spec: StudySpec, config: Config, tasks: Any) -> None:
    """Raises UserError where generative ones of the loaded tasks cannot be written with the spec's settings."""
    if not tasks:
        return
    require_generation(tasks, spec.max_length, config)
    if spec.kv == "mean" and any(task.OUTPUT_TYPE == "generate_until" for task in tasks["tasks"].values()):
        for plan in dict.fromkeys(variant.plan for variant in spec.shard_variants(config.num_hidden_layers)):
            groups(plan, plan.cost)
