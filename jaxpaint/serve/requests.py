"""What may be asked: OpenAI's requests for completions and chat, as far as they are done here.

What is not done is refused by its name unless it asks for nothing; a name that nobody knows is refused, too, because a
setting that is let go unsaid would make scores wrong. Reference: OpenAI's API reference, `POST /v1/completions` and
`POST /v1/chat/completions`; `top_k` is vLLM's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from jaxpaint.base.documents import checked, shown
from jaxpaint.base.errors import UserError
from jaxpaint.base.words import require_characters

Whole: TypeAlias = Annotated[int, Field(ge=0)]
Tokens: TypeAlias = list[Whole]

# Values that ask for nothing, beside None; for other values the words say what to do.
NOT_DONE: Mapping[str, tuple[tuple[Any, ...], str]] = MappingProxyType(
    {
        "n": ((1,), "ask again for each text, with another seed"),
        "best_of": ((1,), "ask for several texts and choose"),
        "suffix": (("",), "a plan writes from left to right alone"),
        "logit_bias": (({},), "logits are the model's own"),
        "presence_penalty": ((0,), "logits are the model's own"),
        "frequency_penalty": ((0,), "logits are the model's own"),
        "top_logprobs": ((0,), "take /v1/completions with logprobs"),
        "tools": (([],), "this server writes text alone"),
        "functions": (([],), "this server writes text alone"),
        "tool_choice": (("none", "auto"), "this server writes text alone"),
        "function_call": (("none", "auto"), "this server writes text alone"),
        "response_format": (({"type": "text"},), "this server writes text alone"),
        "modalities": ((["text"],), "this server writes text alone"),
    }
)
# Of whoever asks, not of the text.
HARMLESS = frozenset({"user", "metadata", "store", "service_tier", "parallel_tool_calls", "safety_identifier"})


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", frozen=True)


class StreamOptions(_Shape):
    include_usage: bool = False
    include_obfuscation: bool = False  # padding against eavesdroppers; there is none


class _Writing(_Shape):
    """What both requests have; a temperature of 0 is greedy, and 1 is OpenAI's default."""

    model: str
    max_tokens: Whole | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(each for each in stop if each)

    @property
    def with_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class CompletionRequest(_Writing):
    """`POST /v1/completions`. A prompt is a text or its token ids, and there may be a list of either."""

    prompt: str | Tokens | list[str] | list[Tokens]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str] | list[Tokens]:
        single = isinstance(self.prompt, str) or (bool(self.prompt) and isinstance(self.prompt[0], int))
        return [self.prompt] if single else self.prompt  # type: ignore[return-value,list-item]


class Part(_Shape):
    type: Literal["text"]
    text: str


class Message(_Shape):
    role: str
    content: str | list[Part]
    name: str | None = None

    @property
    def turn(self) -> dict[str, str]:
        """As chat templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class ChatRequest(_Writing):
    """`POST /v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Whole | None = None
    logprobs: Literal[False] | None = None


def completion_request(body: Any) -> CompletionRequest:
    """Raises UserError for what is not done, or has another shape."""
    return checked(_asked(body), CompletionRequest, "the request")


def chat_request(body: Any) -> ChatRequest:
    """Raises UserError for what is not done, or has another shape."""
    given = _asked(body)
    if given.get("logprobs"):
        raise UserError("logprobs is not done in chats; take /v1/completions with logprobs")
    return checked(given, ChatRequest, "the request")


def _asked(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise UserError(f"the request is {shown(body)}; expected a JSON object")
    require_characters(json.dumps(body, ensure_ascii=False), "the request")
    for name, (nothing, words) in NOT_DONE.items():
        value = body.get(name)
        if value is not None and value not in nothing:
            raise UserError(f"{name} is {shown(value)}, which is not done here; {words}")
    return {name: value for name, value in body.items() if name not in NOT_DONE and name not in HARMLESS}
