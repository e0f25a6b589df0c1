"""lm-evaluation-harness's `LM` interface over a model under a layer plan.

What is asked, how it is encoded and truncated follows lm-eval's own `HFLM` (models/huggingface.py, 0.4.13), so
that scores compare; only the computing differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxpaint.base.errors import UserError
from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.model import Model
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.generation import Continuation, Prompt, Sampling, generate
from jaxpaint.generation.cache import CacheKind
from jaxpaint.generation.text import finished_text
from jaxpaint.plans.plan import Plan

# New tokens where a task does not say how many, as in lm-eval's HFLM.
DEFAULT_MAX_GEN_TOKS = 256

Bos: TypeAlias = Literal["auto", "on", "off"]
Scored: TypeAlias = list[tuple[float, bool]]
TokenPair: TypeAlias = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Work:
    """What a call cost: tokens in the requests, and positions run (shared prefixes once, padding included)."""

    request_tokens: int
    computed_tokens: int


@dataclass(frozen=True)
class Asked:
    """A prompt with how its tokens are drawn."""

    prompt: Prompt
    sampling: Sampling

    def text(self, tokenizer: Any, found: Continuation) -> str:
        """A continuation of the prompt as lm-eval takes it."""
        return finished_text(tokenizer, found.tokens, self.prompt.stop)


class PlanLM(TemplateLM):
    """Scores lm-eval requests with `model` under `plan`.

    `bos` "on" and "off" say whether a beginning-of-sequence token precedes every text (lm-eval's `add_bos_token`);
    "auto" leaves it to the tokenizer, as lm-eval 0.4.13 does. The paper's runs used off. `batch_tokens` bounds the
    positions scored at once, `batch_size` the texts written at once; `kv` is the cache of generation
    (`jaxpaint.generation.cache`). `progress` gets the total number of tokens to score, or that may be written, and
    returns a function that is told of the tokens done.

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
        batch_tokens: int | None = None,
        kv: CacheKind = "exact",
        batch_size: int | None = None,
        progress: Callable[[int], Callable[[int], None]] | None = None,
    ) -> None:
        super().__init__()
        model.require_decoder("this evaluation")
        self.model = model
        self.plan = plan.validate(model.num_layers)
        self.tokenizer = model.tokenizer
        self.bos = bos
        self.batch_tokens = batch_tokens
        self.kv = kv
        self.batch_size = batch_size
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
    def generation(self) -> dict[str, Any]:
        """How it generates, for `jaxpaint.generation.generate`."""
        return {"kv": self.kv, "batch_size": self.batch_size}

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
            UserError: a continuation that is longer than the model's context or has no token of its own, or a token id
                outside the vocabulary.
        """
        try:
            return tuple(self._request(*pair) for pair in self._token_pairs(instance))
        except UserError as error:
            raise UserError(f"{instance.task_name}, document {instance.doc_id}: {error}") from None

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
        if not continuation:
            end = self.tokenizer.decode(context[-8:])
            raise UserError(
                f"a continuation of ...{end!r} has no token of its own, so there is nothing to score; it may be empty, "
                "or lack the space before its first word"
            )
        request = Request.of(context, continuation, self.max_length)
        self._check_vocabulary(chain(request.tokens, request.targets))
        return request

    def _check_vocabulary(self, tokens: Iterable[int]) -> None:
        largest = max(tokens, default=0)
        if largest >= self.model.config.vocab_size:
            # JAX would take the last entry in its place, without a word.
            raise UserError(
                f"the tokenizer gives token id {largest}, but the model's vocabulary has "
                f"{self.model.config.vocab_size} entries; is it this model's tokenizer?"
            )

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
        """What the plan writes after each context, up to the task's stop strings.

        Raises:
            UserError: generation settings that are not known, or a cache that does not fit.
            ModelOutputError: NaN or infinite logits.
        """
        asked = [self.encode_prompt(request) for request in requests]
        texts = [""] * len(asked)
        progress = self.progress(sum(each.prompt.max_new_tokens for each in asked)) if self.progress else None
        for sampling in dict.fromkeys(each.sampling for each in asked):
            members = [number for number, each in enumerate(asked) if each.sampling == sampling]
            prompts = [asked[number].prompt for number in members]
            for found in generate(self.model, prompts, [self.plan], sampling=sampling, **self.generation):
                number = members[found.prompt]
                if found.ending == "not finite":
                    raise ModelOutputError(
                        f"NaN or infinite logits under plan {self.plan}: nothing was written. Check the checkpoint, or "
                        "try --dtype float32"
                    )
                texts[number] = asked[number].text(self.tokenizer, found)
                if progress:
                    progress(asked[number].prompt.max_new_tokens)
        tokens = sum(len(each.prompt.tokens) for each in asked)
        self.work.append(Work(tokens, tokens))
        return texts

    def encode_prompt(self, instance: Instance) -> Asked:
        """What a generative instance asks for; a context too long for the model loses its beginning, as in `HFLM`.

        Raises:
            UserError: generation settings that are not known, a token id outside the model's vocabulary, or no room
                for a context beside the new tokens.
        """
        context, settings = instance.args
        values = {**normalize_gen_kwargs(settings, DEFAULT_MAX_GEN_TOKS)}
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        stop = tuple(handle_stop_sequences(values.pop("until", None), eos=end))
        new = values.pop("max_gen_toks")
        room = self.max_length - new
        if room < 1:
            raise UserError(
                f"{instance.task_name}: {new} new tokens leave no room for a prompt in the model's {self.max_length} "
                "positions"
            )
        tokens = (self.tok_encode(context) or [self.prefix_token_id])[-room:]
        self._check_vocabulary(tokens)
        do_sample = values.pop("do_sample", False)
        temperature = values.pop("temperature", None)
        known = {name: values.pop(name) for name in ("top_k", "top_p", "seed") if name in values}
        if values:
            raise UserError(
                f"{instance.task_name}: the generation setting {next(iter(values))!r} is not known; known are until, "
                "max_gen_toks, do_sample, temperature, top_k, top_p, seed"
            )
        sampling = Sampling(temperature or 1.0, **known) if do_sample else Sampling()
        return Asked(Prompt(tuple(tokens), new, stop), sampling)
