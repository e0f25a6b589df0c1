"""Prompts run in batches whose kept arrays fit the memory, one executable for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.base.budgets import budgets
from jaxpaint.engine.interventions import Intervention
from jaxpaint.engine.model import Model
from jaxpaint.engine.run import Run
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan

STATES_KEPT = 5  # of each event: its read, both sublayers' outputs, its values, and the state after its step


def rows_at_once(model: Model | Source, prompts: Sequence[Prompt], plan: Plan) -> int:
    """How many of the prompts a batch holds."""
    return max(1, min(len(prompts), budgets().analysis_bytes // row_bytes(model, prompts, plan)))


def row_bytes(model: Model | Source, prompts: Sequence[Prompt], plan: Plan) -> int:
    """What is kept of a run of one of the prompts."""
    longest = max(len(prompt.tokens) for prompt in prompts)
    state = model.config.hidden_size * model.dtype.itemsize
    weights = 4 * model.config.num_attention_heads * longest
    return plan.applications * longest * (STATES_KEPT * state + weights)


def batches(
    model: Model, prompts: Sequence[Prompt], plan: Plan, *changes: Intervention
) -> Iterator[tuple[Sequence[Prompt], Run]]:
    """Prompts with their run, whose last row is repeated up to the size of a batch: only the first rows count."""
    height = rows_at_once(model, prompts, plan)
    for start in range(0, len(prompts), height):
        part = prompts[start : start + height]
        padded = [*part, *[part[-1]] * (height - len(part))]
        yield part, model.run([prompt.tokens for prompt in padded], plan, *changes)
