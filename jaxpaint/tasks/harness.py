"""lm-evaluation-harness's `LM` interface over a model under a layer plan, or under several that are asked the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, TypeAlias

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import Scores, not_finite, pack_for, score, sweep
from jaxpaint.generation.cache import CacheKind
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.asking import USUAL, Asking
from jaxpaint.tasks.encoding import Bos, Encoding, answers

Scored: TypeAlias = list[tuple[float, bool]]


@dataclass(frozen=True)
class Work:
    """What a call cost: tokens in the requests, and positions run (shared prefixes once, padding included)."""

    request_tokens: int
    computed_tokens: int


@dataclass
class Together:
    """Plans that are asked the same, one after the other: what the first is asked, all answer at once.

    Of each kind of request the last answers are kept, for the plans that have yet to take theirs.
    """

    plans: tuple[Plan, ...]
    _known: dict[str, tuple[list[Any], Sequence[Any]]] = field(default_factory=dict, repr=False)

    def answer(self, plan: Plan, kind: str, instances: Sequence[Instance], ask: Callable[[], Sequence[Any]]) -> Any:
        """The plan's of what `ask` gives, an answer of each plan."""
        asked = [instance.args for instance in instances]
        if kind not in self._known or self._known[kind][0] != asked:
            self._known[kind] = asked, ask()
        return self._known[kind][1][self.plans.index(plan)]


class PlanLM(LM):
    """Scores lm-eval requests with `model` under `plan`, encoded by `encoding`.

    `bos`, `max_length` and `asking` are as in `Encoding.of`. `batch_tokens` bounds the positions scored at once,
    `batch_size` the texts written at once; `kv` is the cache of generation (`jaxpaint.generation.cache`). `progress`
    gets the total number of tokens to score, or that may be written, and returns a function that is told of the tokens
    done. With `together`, of which the plan is one, all of its plans are run at once when the first of them is asked.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: an encoder, or the tokenizer is missing, or lacks the BOS token asked for.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        bos: Bos = "auto",
        max_length: int | None = None,
        asking: Asking = USUAL,
        batch_tokens: int | None = None,
        kv: CacheKind = "exact",
        batch_size: int | None = None,
        progress: Callable[[int], Callable[[int], None]] | None = None,
        together: Together | None = None,
    ) -> None:
        super().__init__()
        self.encoding = Encoding.of(model, bos, max_length=max_length, asking=asking)
        self.model = model
        self.plan = plan.validate(model.num_layers)
        self.batch_tokens = batch_tokens
        self.kv = kv
        self.batch_size = batch_size
        self.progress = progress
        self.together = together
        self.work: list[Work] = []

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.manifest.get("source", "")).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.encoding.chat(chat_history, add_generation_prompt)

    def _scores(self, kind: str, instances: list[Instance]) -> list[Scored]:
        """Of each instance's requests."""

        def ask() -> list[tuple[Scores, list[int]]]:
            encoded = [self.encoding.encode(instance) for instance in instances]
            packed = list(chain.from_iterable(encoded))
            tokens = len(self._plans) * sum(len(request.tokens) for request in packed)
            progress = self.progress(tokens) if self.progress else None
            how: Any = {"batch_tokens": self.batch_tokens, "progress": progress}
            if self.together is None:
                found = [score(self.model, packed, self.plan, **how)]
            else:
                found = _score_each(self.model, packed, self._plans, **how)
            return [(scores, list(map(len, encoded))) for scores in found]

        scores, sizes = self._answer(kind, instances, ask)
        if not np.isfinite(scores.loglikelihoods).all():
            raise not_finite(self.plan)
        self.work.append(Work(scores.request_tokens, scores.computed_tokens))
        each = zip(scores.loglikelihoods.tolist(), scores.is_greedy.tolist(), strict=True)
        return [list(islice(each, size)) for size in sizes]

    @property
    def _plans(self) -> tuple[Plan, ...]:
        """Those that are run at once."""
        return (self.plan,) if self.together is None else self.together.plans

    def _answer(self, kind: str, instances: Sequence[Instance], ask: Callable[[], Sequence[Any]]) -> Any:
        return ask()[0] if self.together is None else self.together.answer(self.plan, kind, instances, ask)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Scored:
        return [scored for (scored,) in self._scores("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Whole-text log-likelihoods over disjoint windows of the model's length, each token predicted once."""
        found = self._scores("loglikelihood_rolling", requests)
        return [sum((value for value, _ in windows), 0.0) for windows in found]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the plan writes after each context, up to the task's stop strings.

        Raises UserError for generation settings that are not known or a cache that does not fit, and ModelOutputError
        for NaN or infinite logits.
        """

        def ask() -> list[tuple[list[str | None], int]]:
            asked = [self.encoding.encode_prompt(request) for request in requests]
            most = len(self._plans) * sum(each.prompt.max_new_tokens for each in asked)
            progress = self.progress(most) if self.progress else None
            texts: list[list[str | None]] = [[""] * len(asked) for _ in self._plans]
            how: Any = {"kv": self.kv, "batch_size": self.batch_size}
            for number, plan, text in answers(self.model, asked, self._plans, **how):
                if text is None and self.together is None:
                    raise _nothing_written(self.plan)
                texts[plan][number] = text
                if progress:
                    progress(asked[number].prompt.max_new_tokens)
            tokens = sum(len(each.prompt.tokens) for each in asked)
            return [(own, tokens) for own in texts]

        texts, tokens = self._answer("generate_until", requests, ask)
        if None in texts:
            raise _nothing_written(self.plan)
        self.work.append(Work(tokens, tokens))
        return texts


def _score_each(
    model: Model,
    requests: Sequence[Request],
    plans: Sequence[Plan],
    *,
    batch_tokens: int | None,
    progress: Callable[[int], None] | None,
) -> list[Scores]:
    """Each plan's, NaN where logits are not finite; `progress` as of `score`, plan by plan."""
    batches = pack_for(model, requests, batch_tokens)
    totals, greedy = np.zeros((len(plans), len(requests))), np.ones((len(plans), len(requests)), bool)
    for found in sweep(model, batches, plans):
        where = np.ix_(np.array(found.plans), found.batch.requests)
        totals[where], greedy[where] = found.loglikelihoods, found.is_greedy
        if progress:
            progress(len(found.plans) * sum(len(requests[i].tokens) for i in found.batch.requests))
    tokens, computed = sum(len(request.tokens) for request in requests), sum(batch.tokens.size for batch in batches)
    return [Scores(*each, tokens, computed) for each in zip(totals, greedy, strict=True)]


def _nothing_written(plan: Plan) -> ModelOutputError:
    return ModelOutputError(
        f"NaN or infinite logits under plan {plan}: nothing was written. Check the checkpoint, or try --dtype float32"
    )
