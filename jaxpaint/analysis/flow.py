"""How facts reach the last token under plans: knockouts of many facts, summed up, and what was claimed of them.

The method and the claims are those of Geva et al. (arXiv 2304.14767) for large models run in order. Here they are
questions: each can be answered by no, under the full model and under every other plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from jaxpaint.analysis.extraction import Extraction, extraction
from jaxpaint.analysis.facts import SETS, Fact, encoded_fact
from jaxpaint.analysis.knockouts import EVERYWHERE, Knockouts, Prompt, centred, knock_out
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.plans.events import events
from jaxpaint.plans.plan import Plan

Answer: TypeAlias = Literal["holds", "does not hold", "cannot be told"]
# Per cent of a probability: less is no change.
NOTHING = 5.0
# Of the layers, in a window: 9 of the 48 of Geva et al.
SHARE = 9 / 48


class Mean(NamedTuple):
    """Over prompts, with its standard error; of shape [windows, sets]."""

    value: Float[np.ndarray, "windows sets"]
    stderr: Float[np.ndarray, "windows sets"]


@dataclass(frozen=True)
class Verdict:
    """What became of a claim, that a number is `below` a bound: its mean over prompts, and standard error."""

    claim: str
    answer: Answer
    mean: float
    stderr: float
    below: float
    prompts: int


@dataclass(frozen=True, eq=False)
class Flow:
    """Of one plan the facts that it knows by itself, and what knocking out edges does to them.

    `by_depth` and `by_layer` have a window around each depth of the plan and each layer of the model; `everywhere` is
    all events. Changes are in per cent of the answer's probability.
    """

    plan: Plan
    known: Bool[np.ndarray, " facts"]
    everywhere: Mean
    left: Float[np.ndarray, " sets"]
    by_depth: Mean
    by_layer: Mean
    verdicts: tuple[Verdict, ...]
    extraction: Extraction | None
    """None where no fact is known."""

    @property
    def in_order(self) -> bool:
        """Whether windows of depths and of layers are the same."""
        return all(event.depth == event.layer for event in events(self.plan))


def window_size(num_layers: int) -> int:
    """Of the windows of a model of so many layers: the same share as in Geva et al."""
    return max(1, int(SHARE * num_layers))


def flows(
    model: Model,
    facts: Sequence[Fact],
    plans: Sequence[Plan | str],
    *,
    before: str = "",
    bos: bool = True,
    size: int | None = None,
    batch_tokens: int | None = None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
) -> tuple[Flow, ...]:
    """Every plan's `Flow` of the facts, those that it knows: whose answer's first token is its most likely one.

    `before` are examples in front of each prompt; `size` is that of the windows.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: an encoder, facts whose tokens cannot be told apart, no fact.
    """
    if not facts:
        raise UserError("there is no fact to ask for; give at least one")
    if not plans or isinstance(plans, str | Plan):
        raise UserError(f"plans is {plans!r}; give a list of them, one at least")
    if size is not None and size < 1:
        raise UserError(f"size is {size}; give windows of 1 or more")
    encoded = [encoded_fact(model.tokenizer, fact, before, bos) for fact in facts]
    answers = np.array([answer for _, answer in encoded])
    size, layers = size or window_size(model.num_layers), model.num_layers
    checked = [model.checked_plan(plan) for plan in plans]
    depths = max(plan.depth for plan in checked)
    windows = [EVERYWHERE, *centred("layer", size, layers), *centred("depth", size, depths)]
    how: dict[str, Any] = {"batch_tokens": batch_tokens, "progress": progress}
    found = knock_out(model, [prompt for prompt, _ in encoded], checked, windows, **how)
    return tuple(
        _flow(model, [prompt for prompt, _ in encoded], plan, each, answers)
        for plan, each in zip(checked, found, strict=True)
    )


def _flow(model: Model, prompts: Sequence[Prompt], plan: Plan, found: Knockouts, answers: np.ndarray) -> Flow:
    known, layers = found.token == answers, model.num_layers
    change = found.change[known]
    by_layer, by_depth = change[:, 1 : 1 + layers], change[:, 1 + layers : 1 + layers + plan.depth]
    left = found.left[known, 0].mean(axis=0) if known.any() else np.full(found.sets, np.nan)
    verdicts = tuple(_verdicts(change[:, 0], by_depth))
    own = [prompt for prompt, is_known in zip(prompts, known, strict=True) if is_known]
    extracted = extraction(model, own, plan) if own else None
    return Flow(plan, known, _mean(change[:, :1]), left, _mean(by_depth), _mean(by_layer), verdicts, extracted)


def _mean(values: Float[np.ndarray, "prompts windows sets"]) -> Mean:
    count = len(values)
    nothing = np.full(values.shape[1:], np.nan)
    value = values.mean(axis=0) if count else nothing
    return Mean(value, values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else nothing)


def _verdicts(everywhere: Float[np.ndarray, "prompts sets"], by_depth: Float[np.ndarray, "prompts depths sets"]):
    """The three claims, of differences within each prompt."""
    subject, rest, last = (SETS.index(name) for name in SETS)
    itself = np.abs(everywhere[:, last])
    yield _verdict("blocking the last token from itself changes little (per cent)", itself, below=NOTHING)
    if not len(by_depth):
        return
    strongest = by_depth.mean(axis=0).argmin(axis=0)
    hurts = {key: by_depth[:, strongest[key], key] for key in (subject, rest)}
    difference = hurts[subject] - hurts[rest]
    yield _verdict("a window on the subject hurts more than on the rest (per cent)", difference)
    effect = np.maximum(0, -by_depth[:, :, [subject, rest]])
    total = effect.sum(axis=1)
    moved = (total > NOTHING).all(axis=1)
    centre = np.einsum("pdk,d->pk", effect[moved], np.arange(by_depth.shape[1])) / total[moved]
    yield _verdict("the rest is read before the subject (steps)", centre[:, 1] - centre[:, 0])


def _verdict(claim: str, numbers: Float[np.ndarray, " prompts"], below: float = 0.0) -> Verdict:
    """Holds where the numbers are below a bound, by their mean and two standard errors."""
    if len(numbers) < 2:
        return Verdict(claim, "cannot be told", float("nan"), float("nan"), below, len(numbers))
    mean, stderr = float(numbers.mean()), float(numbers.std(ddof=1) / np.sqrt(len(numbers)))
    low, high = mean - 2 * stderr, mean + 2 * stderr
    answer: Answer = "holds" if high < below else "does not hold" if low > below else "cannot be told"
    return Verdict(claim, answer, mean, stderr, below, len(numbers))
