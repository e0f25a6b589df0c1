"""The story of one prompt: what each step of a plan says, reads and needs, for one picture beside another plan's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.knockouts import Prompt, centred, knock_out
from jaxpaint.analysis.written import reads_of_sources, sources_are_known
from jaxpaint.engine.model import Model
from jaxpaint.plans.plan import Plan
from jaxpaint.results.story import Story, StorySetting


def setting_of(asked: Asked, number: int) -> StorySetting:
    """Of one of the facts, by its place."""
    fact, shared = asked.facts[number], asked.setting
    return StorySetting(fact.prompt, fact.subject, fact.answer, shared.before, shared.bos, shared.size)


def stories(model: Model, asked: Asked, number: int, plans: Sequence[Plan]) -> tuple[Story, ...]:
    """Of one of the facts, by its place, under each plan. Raises PlanError and UserError as `flows`."""
    prompt = asked.prompts[number]
    checked = [model.checked_plan(plan).of_whole_layers("a story") for plan in plans]
    if not checked:
        return ()
    windows = centred("depth", asked.setting.size, max(plan.chain_length for plan in checked))
    blocked = knock_out(model, [prompt], checked, windows)
    return tuple(
        _story(model, prompt, plan, each.change[0, : plan.chain_length])
        for plan, each in zip(checked, blocked, strict=True)
    )


def _story(model: Model, prompt: Prompt, plan: Plan, change: np.ndarray) -> Story:
    run = model.run([prompt.tokens], plan).keep("states", "attention", "values", "attention_out", "mlp_out")
    answer = int(run.last_logits[0].argmax())
    lens = run.logit_lens(1)
    depths, ends = [0], 0
    for step in run.steps:
        ends = max(ends, *(event.depth + 1 for event in step.events))
        depths.append(ends)
    feed_forward = np.zeros(plan.chain_length)
    for event, share in zip(run.events, run.attribution(answer).mlp[:, 0], strict=True):
        feed_forward[event.depth] += share
    return Story(
        plan,
        run.texts(),
        prompt.sets,
        _text(model, answer),
        tuple(step.label for step in run.steps),
        tuple(depths),
        tuple(tuple(_text(model, int(token)) for token in state) for state in lens.tokens[:, 0, :, 0]),
        lens.logprobs[:, 0, :, 0].astype(np.float64),
        run.logprobs(answer)[:, 0].astype(np.float64),
        reads_of_sources(run, 0) if sources_are_known(model) else np.zeros((plan.chain_length, len(prompt.tokens))),
        feed_forward,
        change.astype(np.float64),
    )


def _text(model: Model, token: int) -> str:
    return str(model.tokenizer.decode([token], clean_up_tokenization_spaces=False))
