"""From a request to an answer: what HTTP carries is `jaxpaint.serve.app`'s.

A request is checked whole before it waits (`asked`), then waits for the model (`answered`, `streamed`).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.engine.rows import checked_inputs
from jaxpaint.generation import Prompt, Sampling
from jaxpaint.generation.serve import EMPTY, check_prompts, ending_tokens
from jaxpaint.generation.settings import generation_settings
from jaxpaint.generation.text import Stream
from jaxpaint.plans.plan import Plan
from jaxpaint.serve.answers import Written, logprobs, usage, written
from jaxpaint.serve.offered import Offered, by_name
from jaxpaint.serve.queue import Queue
from jaxpaint.serve.requests import ChatRequest, CompletionRequest
from jaxpaint.serve.work import Job, Score, Write
from jaxpaint.tasks.chat import rendered

USUAL_TOKENS = 16  # of a completion that names no number, as OpenAI's


class UnknownModel(UserError):
    """No plan is served under that name."""


@dataclass(frozen=True)
class Asked:
    """A request that can be answered: prompts as given and as token ids, and how they are gone on from."""

    name: str
    plan: Plan
    texts: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    sampling: Sampling
    echo: bool = False
    logprobs: int | None = None
    is_chat: bool = False
    at_once: bool = False  # nothing is written: what the model finds most likely at the end is scored in the same pass

    @property
    def tokens(self) -> tuple[tuple[int, ...], ...]:
        return tuple(prompt.tokens for prompt in self.prompts)

    @property
    def most_new_tokens(self) -> int:
        return self.prompts[0].max_new_tokens


@dataclass(frozen=True, eq=False)
class Service:
    """A model, its plans under their names, the queue before it, and the most new tokens of a text."""

    model: Model
    offered: Sequence[Offered]
    queue: Queue
    max_tokens: int

    @cached_property
    def _names(self) -> dict[str, Offered]:
        return by_name(self.offered)

    @cached_property
    def _writes_plainly(self) -> bool:
        return not generation_settings(self.model).changes_logits

    @cached_property
    def _ends(self) -> frozenset[int]:
        return frozenset(ending_tokens(self.model, generation_settings(self.model)).tolist())

    def named(self, name: str) -> Offered:
        if name not in self._names:
            raise UnknownModel(f"there is no model {name!r}; there is {', '.join(each.name for each in self.offered)}")
        return self._names[name]

    def asked(self, request: CompletionRequest) -> Asked:
        """Raises UserError for what cannot be answered, UnknownModel included."""
        name, plan = request.model, self.named(request.model).plan
        tokenizer = self.model.tokenizer
        if not request.prompts:
            raise UserError(EMPTY)
        tokens = [self._encoded(prompt) if isinstance(prompt, str) else tuple(prompt) for prompt in request.prompts]
        most = USUAL_TOKENS if request.max_tokens is None else request.max_tokens
        if most == 0 and (request.stream or not request.echo):
            raise UserError("max_tokens is 0; expected 1 or more, or echo without stream to have the prompt scored")
        if request.stream and request.logprobs is not None:
            raise UserError("logprobs is not done with stream; leave one of them out")
        sampling = _sampling(request)
        # lm-eval asks so for log-likelihoods.
        is_plain = self._writes_plainly and not request.stops
        is_score = most == 1 and request.logprobs is not None and not sampling.temperature and is_plain
        at_once = most == 0 or is_score
        prompts = self._checked(tokens, most, request.stops, at_once)
        texts = tuple(
            prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special_tokens=False)
            for prompt in request.prompts
        )
        return Asked(name, plan, texts, prompts, sampling, bool(request.echo), request.logprobs, at_once=at_once)

    def _encoded(self, text: str) -> tuple[int, ...]:
        """As the tokenizer begins texts, but with no second BOS before one that is spelt out."""
        tokenizer = self.model.tokenizer
        begins = bool(tokenizer.bos_token) and text.startswith(tokenizer.bos_token)
        return tuple(tokenizer.encode(text, verbose=False, **({"add_special_tokens": False} if begins else {})))

    def asked_in_chat(self, request: ChatRequest) -> Asked:
        """Raises UserError as `asked`, and where the model has no chat template."""
        name, plan = request.model, self.named(request.model).plan
        tokenizer = self.model.tokenizer
        text = rendered(tokenizer, self._template(), [message.turn for message in request.messages])
        tokens = tuple(tokenizer.encode(text, add_special_tokens=False, verbose=False))  # the template has its own
        given = request.max_completion_tokens if request.max_tokens is None else request.max_tokens
        room = self.model.config.max_position_embeddings - len(tokens)
        most = max(1, min(self.max_tokens, room)) if given is None else given
        prompts = self._checked([tokens], most, request.stops)
        return Asked(name, plan, (text,), prompts, _sampling(request), is_chat=True)

    def _template(self) -> str:
        template = getattr(self.model.tokenizer, "chat_template", None)
        template = template.get("default") if isinstance(template, dict) else template
        if not template:
            raise UserError("this model has no chat template: it is not one that chats; take /v1/completions")
        return template

    def _checked(
        self, tokens: Sequence[tuple[int, ...]], most: int, stops: tuple[str, ...], at_once: bool = False
    ) -> tuple[Prompt, ...]:
        if most > self.max_tokens:
            raise UserError(f"{most} new tokens; this server writes at most {self.max_tokens} (--max-tokens)")
        prompts = tuple(Prompt(each, most, stops) for each in tokens)
        if not all(tokens):
            raise UserError(EMPTY)
        if not at_once:
            check_prompts(self.model, prompts)
        for each in tokens if at_once else ():  # the last token's own logits are all that is needed
            checked_inputs(self.model.config, np.array([each]), None, None)
        return prompts

    async def answered(self, asked: Asked) -> dict[str, Any]:
        """The whole answer, when it is there. Raises UserError."""
        tokenizer, prompts = self.model.tokenizer, asked.prompts
        scored = asked.logprobs is not None
        texts: list[Written] = []
        if not asked.at_once:
            found = await self._done(Job(asked.plan, Write(prompts, asked.sampling)))
            texts = [written(tokenizer, each, prompts[0].stop) for each in found]
        wholes = [tokens + (texts[place].tokens if texts else ()) for place, tokens in enumerate(asked.tokens)]
        scores: list[Any] = []
        if scored:
            score = Score(tuple(wholes), 5 if (asked.logprobs or 0) > 1 else 1)
            scores = await self._done(Job(asked.plan, score), goes_on=not asked.at_once)
        if asked.at_once:
            ends = [(int(each.best[-1, 0]),) * asked.most_new_tokens for each in scores] or [()] * len(wholes)
            wholes = [whole + end for whole, end in zip(wholes, ends, strict=True)]
            texts = [self._predicted(end) for end in ends]
        choices = []
        for index, (whole, text) in enumerate(zip(wholes, texts, strict=True)):
            first = 0 if asked.echo else len(asked.tokens[index])
            choice: dict[str, Any] = {"index": index, "finish_reason": text.finish_reason}
            choice["logprobs"] = (
                logprobs(tokenizer, whole, scores[index], asked.logprobs or 0, first) if scored else None
            )
            if asked.is_chat:
                choice["message"] = {"role": "assistant", "content": text.text}
            else:
                choice["text"] = (asked.texts[index] if asked.echo else "") + text.text
            choices.append(choice)
        counted = usage(asked.tokens, [text.tokens for text in texts])
        return {**_heading(asked), "choices": choices, "usage": counted}

    def _predicted(self, tokens: tuple[int, ...]) -> Written:
        """What was not written, but is the most likely: one token or none."""
        if self._ends.intersection(tokens):
            return Written("", tokens, "stop")
        return Written(self.model.tokenizer.decode(tokens, skip_special_tokens=True), tokens, "length")

    async def _done(self, job: Job, *, goes_on: bool = False) -> list[Any]:
        self.queue.submit(job, goes_on=goes_on)
        return await asyncio.wrap_future(job.done)  # which cancels it where whoever waits is cancelled

    def streamed(self, asked: Asked, *, with_usage: bool) -> AsyncIterator[dict[str, Any]]:
        """The answer in pieces, as it is written; the job waits already. Raises UserError."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[int, tuple[int, ...]] | None] = asyncio.Queue()

        def tell(piece: tuple[int, tuple[int, ...]] | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        job = Job(asked.plan, Write(asked.prompts, asked.sampling), lambda place, tokens: tell((place, tokens)))
        job.done.add_done_callback(lambda _: tell(None))
        self.queue.submit(job)
        return self._pieces(asked, job, pieces.get, with_usage)

    async def _pieces(
        self, asked: Asked, job: Job, get: Callable[[], Any], with_usage: bool
    ) -> AsyncIterator[dict[str, Any]]:
        tokenizer, stop, heading = self.model.tokenizer, asked.prompts[0].stop, _heading(asked, streamed=True)

        def piece(index: int, text: str | None, finish_reason: str | None = None) -> dict[str, Any]:
            choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason, "logprobs": None}
            if asked.is_chat:
                choice["delta"] = {} if text is None else {"content": text}
            else:
                choice["text"] = text or ""
            return {**heading, "choices": [choice]}

        try:
            for index, before in enumerate(asked.texts):
                if asked.is_chat:
                    first = piece(index, "")
                    first["choices"][0]["delta"]["role"] = "assistant"
                    yield first
                elif asked.echo:
                    yield piece(index, before)
            streams = [Stream(tokenizer, stop) for _ in asked.prompts]
            while (told := await get()) is not None:
                index, tokens = told
                if new := streams[index].more(tokens):
                    yield piece(index, new)
            texts = [written(tokenizer, each, stop) for each in await asyncio.wrap_future(job.done)]
            for index, text in enumerate(texts):
                if new := streams[index].rest(text.text):
                    yield piece(index, new)
                yield piece(index, None, text.finish_reason)
            if with_usage:
                yield {**heading, "choices": [], "usage": usage(asked.tokens, [text.tokens for text in texts])}
        finally:  # whoever listened may have left
            job.done.cancel()


def _sampling(request: CompletionRequest | ChatRequest) -> Sampling:
    """OpenAI's temperature is 1 where none is given; without a seed every request draws anew."""
    temperature = 1.0 if request.temperature is None else request.temperature
    if not temperature:
        return Sampling()
    seed = secrets.randbits(32) if request.seed is None else request.seed % 2**32
    return Sampling(temperature, max(0, request.top_k or 0), 1.0 if request.top_p is None else request.top_p, seed)


def _heading(asked: Asked, *, streamed: bool = False) -> dict[str, Any]:
    kind = ("chat.completion.chunk" if streamed else "chat.completion") if asked.is_chat else "text_completion"
    start = "chatcmpl" if asked.is_chat else "cmpl"
    return {"id": f"{start}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()), "model": asked.name}
