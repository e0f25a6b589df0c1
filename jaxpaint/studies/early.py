"""What a model's configuration says against a study, before the model is converted and anything is computed."""

from __future__ import annotations

from typing import Any

from jaxpaint.generation.cache import groups
from jaxpaint.models.family import Config, require_lm_head
from jaxpaint.plans.proposals import stand_ins
from jaxpaint.plans.strategies import Variant
from jaxpaint.studies.spec import ANALYSES_OF_PREDICTIONS, StudySpec
from jaxpaint.tasks.encoding import require_generation, require_length

OF_PREDICTIONS = {"perplexity", "sublayer_perplexity", "agreement"}  # measurements that take a model with a head


def require_fitting(spec: StudySpec, config: Config) -> None:
    """Raises UserError for plans or a length that the model does not have, or tasks for a model without logits."""
    _variants(spec, config)
    if OF_PREDICTIONS & {*spec.measurements}:
        require_lm_head(config, "what plans are proposed from")
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
        for plan in dict.fromkeys(variant.plan for variant in _variants(spec, config)):
            groups(plan, plan.attentions)


def _variants(spec: StudySpec, config: Config) -> tuple[Variant, ...]:
    """With plans of the same cost and depth in place of those that are proposed once the model is measured."""
    return spec.shard_variants(config.num_hidden_layers, stand_ins(config.num_hidden_layers))
