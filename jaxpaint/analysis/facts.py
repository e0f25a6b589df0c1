"""Facts that a model is asked for: prompts whose subject is known, and which of them the model knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.engine.spans import all_places_of, spans


@dataclass(frozen=True)
class Fact:
    """A prompt that ends where its answer begins, and the part of it that names the subject.

    `attributes` are words that tell of the subject, equally many of each: in a closed world all that is to know.
    `about` is a text about it, where there is more to know than can be listed.
    """

    prompt: str
    subject: str
    answer: str
    attributes: tuple[str, ...] = ()
    about: str = ""


def read_facts(file: Path) -> tuple[Fact, ...]:
    """Facts of a JSON list whose entries have `prompt`, `subject` and `attribute` (or `answer`), as `known_1000.json`.

    They may have `attributes`, a list of words, or `about`, a text.

    Raises:
        UserError: no such file, other content, or a subject that its prompt lacks.
    """
    try:
        entries = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(f"{file} is not JSON: {error}; give a list of facts") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{file} is no list of facts; give [{{'prompt': …, 'subject': …, 'answer': …}}, …]")
    return tuple(_fact(file, number, entry) for number, entry in enumerate(entries, 1))


def _fact(file: Path, number: int, entry: Any) -> Fact:
    values = entry if isinstance(entry, dict) else {}
    answer = values.get("answer", values.get("attribute"))
    found = values.get("prompt"), values.get("subject"), answer
    if not all(isinstance(each, str) and each.strip() for each in found):
        raise UserError(f"fact {number} of {file} lacks one of prompt, subject and answer (or attribute), as texts")
    attributes = values.get("attributes", [])
    if not isinstance(attributes, list) or not all(isinstance(each, str) and each.strip() for each in attributes):
        raise UserError(f"fact {number} of {file}: its attributes are {attributes!r}; give a list of words")
    about = values.get("about", "")
    if not isinstance(about, str):
        raise UserError(f"fact {number} of {file}: its about is {about!r}; give a text about the subject")
    prompt, subject, answer = (str(each).strip() for each in found)
    for text in (prompt, subject, answer, about, *attributes):
        if text != text.encode("utf-8", "ignore").decode("utf-8"):
            raise UserError(f"fact {number} of {file} has half a character, which is no text: {text!r}")
    fact = Fact(prompt, subject, answer, tuple(attributes), about)
    if fact.subject not in fact.prompt:
        raise UserError(f"fact {number} of {file}: its subject {fact.subject!r} is not in its prompt {fact.prompt!r}")
    return fact


def encoded_fact(tokenizer: Any, fact: Fact, before: str = "", bos: bool = True) -> tuple[Prompt, int]:
    """The prompt, examples `before` it, with the key sets of `jaxpaint.results.flow`, and its answer's first token.

    Subject and prompt are tokens together, since a space or an ending changes them. With `bos` a beginning-of-sequence
    token precedes it, where the tokenizer has one: the first token of a text is an attention sink, and not to be the
    subject's.

    Raises:
        UserError: answer and prompt share a token, or the subject is not in the prompt, ends it, or is all of it.
    """
    tokens = _encode(tokenizer, before + fact.prompt, bos)
    answer = token_of(tokenizer, fact, fact.answer, before, bos)
    behind = _begin_of_prompt(tokenizer, tokens, before, bos)  # not where examples name it
    subject, last = all_places_of(tokenizer, tokens, fact.subject, behind), len(tokens) - 1
    if last in subject:
        raise UserError(
            f"the subject {fact.subject!r} ends the prompt {fact.prompt!r}; nothing asks about it after that"
        )
    sink = 1 if tokens[0] == tokenizer.bos_token_id else 0
    rest = tuple(at for at in range(sink, last) if at not in subject)
    if not rest:
        raise UserError(f"the prompt {fact.prompt!r} has nothing beside its subject and its last token")
    return Prompt(tuple(tokens), (subject, rest, (last,))), answer


def token_of(tokenizer: Any, fact: Fact, word: str, before: str = "", bos: bool = True) -> int:
    """The first token of a word that follows the fact's prompt. Raises UserError where the two share a token."""
    text = before + fact.prompt
    tokens, whole = _encode(tokenizer, text, bos), _encode(tokenizer, f"{text} {word}", bos)
    if whole[: len(tokens)] != tokens or len(whole) == len(tokens):
        raise UserError(f"the tokens of {fact.prompt!r} change when {word!r} follows; end it at a word")
    return whole[len(tokens)]


def _begin_of_prompt(tokenizer: Any, tokens: list[int], before: str, bos: bool) -> int:
    """Characters of the decoded text before the prompt's own tokens."""
    if not before:
        return 0
    own = spans(tokenizer, tokens)[1]
    pairs = zip(_encode(tokenizer, before, bos), tokens, strict=False)
    return own[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))].begin


def _encode(tokenizer: Any, text: str, bos: bool) -> list[int]:
    tokens = list(tokenizer.encode(text, verbose=False))
    first = tokenizer.bos_token_id
    if first is None or not bos:
        return tokens
    return tokens if tokens[:1] == [first] else [first, *tokens]
