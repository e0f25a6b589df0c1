"""lm-evaluation-harness's `LM` interface over a model under a layer plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.model import Model
from jaxpaint.engine.score import score
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


class PlanLM(LM):
    """Scores lm-eval requests with `model` under `plan`, encoded by `encoding`.

    `bos`, `max_length` and `asking` are as in `Encoding.of`. `batch_tokens` bounds the positions scored at once,
    `batch_size` the texts written at once; `kv` is the cache of generation (`jaxpaint.generation.cache`). `progress`
    gets the total number of tokens to score, or that may be written, and returns a function that is told of the tokens
    done.

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
    ) -> None:
        super().__init__()
        self.encoding = Encoding.of(model, bos, max_length=max_length, asking=asking)
        self.model = model
        self.plan = plan.validate(model.num_layers)
        self.batch_tokens = batch_tokens
        self.kv = kv
        self.batch_size = batch_size
        self.progress = progress
        self.work: list[Work] = []

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.manifest.get("source", "")).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.encoding.chat(chat_history, add_generation_prompt)

    def _scores(self, instances: list[Instance]) -> list[Scored]:
        """Of each instance's requests."""
        encoded = [self.encoding.encode(instance) for instance in instances]
        packed = list(chain.from_iterable(encoded))
        progress = self.progress(sum(len(request.tokens) for request in packed)) if self.progress else None
        scores = score(self.model, packed, self.plan, batch_tokens=self.batch_tokens, progress=progress)
        self.work.append(Work(scores.request_tokens, scores.computed_tokens))
        each = zip(scores.loglikelihoods.tolist(), scores.is_greedy.tolist(), strict=True)
        return [[next(each) for _ in requests] for requests in encoded]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Scored:
        return [scored for (scored,) in self._scores(requests)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Whole-text log-likelihoods over disjoint windows of the model's length, each token predicted once."""
        return [sum((value for value, _ in windows), 0.0) for windows in self._scores(requests)]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the plan writes after each context, up to the task's stop strings.

        Raises UserError for generation settings that are not known or a cache that does not fit, and ModelOutputError
        for NaN or infinite logits.
        """
        asked = [self.encoding.encode_prompt(request) for request in requests]
        texts = [""] * len(asked)
        progress = self.progress(sum(each.prompt.max_new_tokens for each in asked)) if self.progress else None
        for number, _, text in answers(self.model, asked, [self.plan], kv=self.kv, batch_size=self.batch_size):
            if text is None:
                raise ModelOutputError(
                    f"NaN or infinite logits under plan {self.plan}: nothing was written. Check the checkpoint, or "
                    "try --dtype float32"
                )
            texts[number] = text
            if progress:
                progress(asked[number].prompt.max_new_tokens)
        tokens = sum(len(each.prompt.tokens) for each in asked)
        self.work.append(Work(tokens, tokens))
        return texts
