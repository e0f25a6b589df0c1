"""Text in, text out: prompts continued under plans, in the order in which they were asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from numbers import Number
from typing import Any, TypeAlias

from jaxpaint.base.errors import UserError
from jaxpaint.engine.given import token_ids
from jaxpaint.engine.model import Model
from jaxpaint.generation import serve
from jaxpaint.generation.cache import CacheKind
from jaxpaint.generation.sampling import GREEDY, Sampling
from jaxpaint.generation.serve import Ending, Prompt
from jaxpaint.generation.settings import GenerationSettings
from jaxpaint.generation.text import finished_text
from jaxpaint.plans.plan import Plan

Asked: TypeAlias = str | Prompt | Sequence[int]
"""What to go on from: a text, token ids, or these with a length and stop strings of their own."""
MAX_NEW_TOKENS = 64


@dataclass(frozen=True, eq=False)
class Written:
    """What a plan wrote after a prompt: `text`, and the `tokens` it came as; `ending` as `serve.Continuation` has it.

    `print` shows the text.
    """

    prompt: Prompt
    plan: Plan
    tokens: tuple[int, ...]
    ending: Ending
    _model: Model = field(repr=False)

    @cached_property
    def text(self) -> str:
        """Without special tokens, up to the first stop string. Raises UserError for a model without a tokenizer."""
        return finished_text(self._model.tokenizer, self.tokens, self.prompt.stop)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        shown = f"text={self.text!r}" if self._model.store is not None else f"tokens={self.tokens}"
        return f"Written(plan={str(self.plan)!r}, {shown}, ending={self.ending!r})"


def generate(
    model: Model,
    prompts: Asked | Sequence[Asked],
    plans: Plan | str | Iterable[Plan | str] | None = None,
    *,
    max_new_tokens: int = MAX_NEW_TOKENS,
    stop: str | Sequence[str] = (),
    sampling: Sampling = GREEDY,
    settings: GenerationSettings | None = None,
    kv: CacheKind = "exact",
    batch_size: int | None = None,
    cache_bytes: int | None = None,
) -> list[Written]:
    """Continues a prompt, or several, under a plan, or several (default: all layers in order).

    The texts come in the order asked: the first prompt's under each plan, then the next one's. `max_new_tokens` and
    `stop` are of prompts that are no `Prompt`. What prompts and plans share is computed once (`serve.generate`, whose
    are the other arguments; it gives texts as they end).

    Raises:
        PlanError: a plan that cannot be read, or names a layer that the model lacks.
        UserError: as `serve.generate`; texts for a model without a tokenizer; a text that broke off because logits
            were no numbers.
    """
    if not isinstance(sampling, Sampling):
        raise UserError(f"sampling is {sampling!r}; give a jaxpaint.Sampling, such as Sampling(temperature=0.8)")
    stops = (stop,) if isinstance(stop, str) or not isinstance(stop, Iterable) else tuple(stop)
    if not all(isinstance(each, str) for each in stops):
        raise UserError(f"stop is {stop!r}; give a text, or several")
    asked = [_prompt(model, each, max_new_tokens, stops) for each in _each(prompts)]
    checked = model.checked_plans(plans)
    distinct = list(dict.fromkeys(checked))
    how: dict[str, Any] = {"kv": kv, "batch_size": batch_size, "cache_bytes": cache_bytes}
    found = {
        (each.prompt, distinct[each.plan]): each
        for each in serve.generate(model, asked, distinct, sampling=sampling, settings=settings, **how)
    }
    for number, plan in found:
        if found[number, plan].ending == "not finite":
            raise UserError(f"NaN or infinite logits under plan {plan}; check the checkpoint, or load it as float32")
    return [
        Written(asked[number], plan, found[number, plan].tokens, found[number, plan].ending, model)
        for number, plan in product(range(len(asked)), checked)
    ]


def _each(prompts: Asked | Sequence[Asked]) -> list[Asked]:
    if isinstance(prompts, str | Prompt):
        return [prompts]
    if isinstance(prompts, bytes) or not isinstance(prompts, Iterable):
        raise UserError(f"prompts is {str(prompts)[:60]}; give a text, token ids, or several of these")
    given: list[Any] = prompts.tolist() if hasattr(prompts, "tolist") else list(prompts)
    return [given] if given and all(isinstance(each, Number) for each in given) else given


def _prompt(model: Model, asked: Asked, max_new_tokens: int, stop: tuple[str, ...]) -> Prompt:
    if isinstance(asked, Prompt):
        return asked
    if isinstance(asked, bytes) or not isinstance(asked, Iterable):
        raise UserError(f"a prompt is {str(asked)[:60]}; give a text, or token ids")
    tokens: Any = token_ids(model, [asked])[0]  # type: ignore[arg-type]
    tokens = tokens.tolist() if hasattr(tokens, "tolist") else tokens
    return Prompt(tuple(tokens), max_new_tokens, stop)
