"""Where a text ends: at the first of its stop strings, whatever tokens these fall into."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def stopped(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> bool:
    """Whether one of the strings occurs in the text of `tokens`, special tokens spelt out."""
    if not any(stop):
        return False
    text = tokenizer.decode(tokens, skip_special_tokens=False)
    return any(string in text for string in stop if string)


def finished_text(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """The text without special tokens, up to the first stop string (lm-eval's `postprocess_generated_text`)."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    for string in stop:
        if string:
            text = text.split(string)[0]
    return text


class Stream:
    """A text as it is written: what is certain of it so far.

    Held back are characters whose bytes are not all there, and an end that a stop string may begin with.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str]) -> None:
        self._tokenizer, self._stop = tokenizer, [string for string in stop if string]
        self._tokens: list[int] = []
        self._shown = ""

    def more(self, tokens: Sequence[int]) -> str:
        """What can be shown after these tokens."""
        self._tokens += tokens
        text = finished_text(self._tokenizer, self._tokens, self._stop)
        certain = text.rstrip("\N{REPLACEMENT CHARACTER}")
        held = max((_overlap(certain, string) for string in self._stop), default=0)
        return self.rest(certain[: len(certain) - held])

    def rest(self, text: str) -> str:
        """What of the text so far has not been shown."""
        if not text.startswith(self._shown):  # some tokenizers spell an end otherwise once more follows
            return ""
        new, self._shown = text[len(self._shown) :], text
        return new


def _overlap(text: str, string: str) -> int:
    """How many of the text's last characters begin `string`."""
    return next((size for size in range(min(len(string) - 1, len(text)), 0, -1) if text.endswith(string[:size])), 0)
