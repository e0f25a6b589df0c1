"""lm-evaluation-harness's `LM` interface over a model under a layer plan.

What is asked, how it is encoded and truncated follows lm-eval's own `HFLM` (models/huggingface.py, 0.4.13), so
that scores compare; only the computing differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxpaint.errors import UserError
from jaxpaint.model import Model
from jaxpaint.packing import Request
from jaxpaint.plan import Plan
from jaxpaint.score import score

Bos: TypeAlias = Literal["auto", "on", "off"]
Scored: TypeAlias = list[tuple[float, bool]]
TokenPair: TypeAlias = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Work:
    """What a call cost: tokens in the requests, and positions run (shared prefixes once, padding included)."""

    request_tokens: int
    computed_tokens: int


class PlanLM(TemplateLM):
    """Scores lm-eval requests with `model` under `plan`.

    `bos` "on" and "off" say whether a beginning-of-sequence token precedes every text (lm-eval's `add_bos_token`);
    "auto" leaves it to the tokenizer, as lm-eval 0.4.13 does. The paper's runs used off. `progress` gets the total
    number of tokens to score, and returns a function that is told of the tokens done.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: the tokenizer is missing, or lacks the BOS token asked for.
    """

    def __init__(
        self,
        model: Model,
        plan: Plan,
        *,
        bos: Bos = "auto",
        batch_tokens: int | None = None,
        progress: Callable[[int], Callable[[int], None]] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.plan = plan.validate(model.num_layers)
        self.tokenizer = model.tokenizer
        self.bos = bos
        self.batch_tokens = batch_tokens
        self.progress = progress
        self.work: list[Work] = []
        if bos == "on" and self.tokenizer.bos_token_id is None:
            raise UserError("--bos on: this checkpoint's tokenizer has no BOS token; use --bos off")
        if self.prefix_token_id is None:
            raise UserError(
                "this checkpoint's tokenizer has neither a BOS nor an EOS token to stand before an empty context; name "
                "one in its tokenizer_config.json and convert again"
            )

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before an empty context: BOS, or EOS where the tokenizer has no BOS (as `HFLM`)."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        return self.model.config.max_position_embeddings

    @property
    def tokenizer_name(self) -> str:
        return str(self.model.manifest.get("source", "")).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None:
            add_special_tokens = {"on": True, "off": False}.get(self.bos)
            if has_bos_prefix(string, self.tokenizer.decode(self.prefix_token_id)):
                add_special_tokens = False
        chosen = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        # Not verbose, because a text longer than the model is cut or windowed here: nothing to warn of.
        tokens = list(self.tokenizer.encode(string, verbose=False, **chosen))
        if self.bos == "on" and add_special_tokens and tokens[:1] != [self.tokenizer.bos_token_id]:
            # Some tokenizers' templates lack the BOS token that the user asked for.
            tokens = [self.tokenizer.bos_token_id, *tokens]
        return tokens

    @property
    def adds_bos(self) -> bool:
        """Whether texts are in fact encoded with a leading BOS token."""
        return self.tok_encode("a")[:1] == [self.tokenizer.bos_token_id]

    def encode(self, instance: Instance) -> tuple[Request, ...]:
        """What runs to score an instance: one request, or for a rolling text one for each window, in order.

        Raises:
            UserError: a continuation longer than the model's context, or a token id outside its vocabulary.
        """
        return tuple(self._request(*pair) for pair in self._token_pairs(instance))

    def _token_pairs(self, instance: Instance) -> list[TokenPair]:
        """Contexts and continuations: one pair, or for a rolling text disjoint windows that predict each token once."""
        if instance.request_type == "loglikelihood_rolling":
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(instance.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            return [make_disjoint_window(window) for window in windows]
        context, continuation = instance.args
        if context:
            return [self._encode_pair(context, continuation)]
        # As `TemplateLM.loglikelihood`: a text that begins with BOS is its own context.
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        own = tokens[:1] == [self.prefix_token_id]
        return [(tokens[:1], tokens[1:]) if own else ([self.prefix_token_id], tokens)]

    def _request(self, context: list[int], continuation: list[int]) -> Request:
        request = Request.of(context, continuation, self.max_length)
        largest = max(chain(request.tokens, request.targets), default=0)
        if largest >= self.model.config.vocab_size:
            # JAX would take the last entry in its place, without a word.
            raise UserError(
                f"the tokenizer gives token id {largest}, but the model's vocabulary has "
                f"{self.model.config.vocab_size} entries; is it this model's tokenizer?"
            )
        return request

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str] | None, list[int], list[int]]], **kwargs: Any
    ) -> Scored:
        packed = [self._request(context, continuation) for _, context, continuation in requests]
        progress = self.progress(sum(len(request.tokens) for request in packed)) if self.progress else None
        scores = score(self.model, packed, self.plan, batch_tokens=self.batch_tokens, progress=progress)
        self.work.append(Work(scores.request_tokens, scores.computed_tokens))
        return [
            (float(value), bool(greedy)) for value, greedy in zip(scores.loglikelihoods, scores.is_greedy, strict=True)
        ]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> Scored:
        return self._loglikelihood_tokens(
            [(None, *pair) for request in requests for pair in self._token_pairs(request)]
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Whole-text log-likelihoods over disjoint windows of `max_length`, each token predicted once."""
        windows = [(number, pair) for number, request in enumerate(requests) for pair in self._token_pairs(request)]
        scored = self._loglikelihood_tokens([(None, *pair) for _, pair in windows])
        totals = [0.0] * len(requests)
        for (owner, _), (value, _) in zip(windows, scored, strict=True):
            totals[owner] += value
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        raise UserError(
            "this version scores log-likelihoods and does not generate yet; leave out generative tasks such as "
            + ", ".join(sorted({request.task_name for request in requests if request.task_name}))
        )
