"""Facts as they are asked of a model: their tokens, what there is to know of their subjects, and the windows' size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from jaxpaint.analysis.facts import Fact, encoded_fact, token_of
from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.analysis.words import words_of
from jaxpaint.base.errors import UserError
from jaxpaint.base.words import text_digest
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.results.flow import FlowSetting

# Of the layers, in a window: 9 of the 48 of Geva et al.
SHARE = 9 / 48
# What is asked beside the knockouts of windows, by its name.
BRANCHES, PATCHES, SUBLAYERS, CLOCK = "branches", "patches", "sublayers", "clock"
EXTRAS = (BRANCHES, PATCHES, SUBLAYERS, CLOCK)


def window_size(num_layers: int) -> int:
    """Of the windows of a model of so many layers: the same share as in Geva et al."""
    return max(1, int(SHARE * num_layers))


@dataclass(frozen=True, eq=False)
class Asked:
    """Facts of a model as tokens, and how they are asked: what `flows` and `story` take."""

    facts: tuple[Fact, ...]
    prompts: tuple[Prompt, ...]
    answers: tuple[int, ...]
    attributes: tuple[tuple[int, ...], ...]
    """Of each fact the first tokens of its subject's, none at all where the facts do not tell of them."""
    words: tuple[frozenset[str], ...]
    """Of each fact those of the text about its subject, none at all where the facts have no such texts."""
    setting: FlowSetting


def asked(
    model: Model | Source,
    facts: Sequence[Fact],
    *,
    before: str = "",
    bos: bool = True,
    size: int | None = None,
    extras: Sequence[str] = (),
) -> Asked:
    """Facts to be asked for with examples `before` each prompt, in windows of `size`, with what of `EXTRAS`.

    Raises:
        UserError: facts whose tokens cannot be told apart, no fact, a window of none, unequal numbers of attributes.
    """
    if not facts:
        raise UserError("there is no fact to ask for; give at least one")
    if size is not None and size < 1:
        raise UserError(f"size is {size}; give windows of 1 or more")
    if unknown := [each for each in extras if each not in EXTRAS]:
        raise UserError(f"{unknown[0]!r} cannot be asked for; give of {', '.join(EXTRAS)}")
    encoded = [encoded_fact(model.tokenizer, fact, before, bos) for fact in facts]
    # Facts without texts have the digest that they had before there were any.
    told = [astuple(fact) if fact.about else astuple(fact)[:-1] for fact in facts]
    wanted = tuple(each for each in EXTRAS if each in extras)
    attributes, words = _attributes(model, facts, before, bos), _words(facts)
    if SUBLAYERS in wanted and not (attributes or words):
        raise UserError(
            "without sublayers it is asked what subjects tell; give facts with attributes, or texts about them"
        )
    if CLOCK in wanted and len({fact.subject for fact in facts}) < 2:
        raise UserError("the clock takes half of the subjects to fit and reads the others; give facts of 2 or more")
    digest = text_digest(json.dumps(told, ensure_ascii=False))
    width = size or window_size(model.num_layers)
    setting = FlowSetting(digest, len(facts), facts[0].prompt, before, bos, width, wanted)
    prompts, answers = zip(*encoded, strict=True)
    return Asked(tuple(facts), prompts, answers, attributes, words, setting)


def _attributes(model: Model | Source, facts: Sequence[Fact], before: str, bos: bool) -> tuple[tuple[int, ...], ...]:
    counts = {len(fact.attributes) for fact in facts}
    if counts == {0}:
        return ()
    if len(counts) > 1:
        odd = next(fact for fact in facts if len(fact.attributes) != len(facts[0].attributes))
        raise UserError(
            f"{odd.prompt!r} has {len(odd.attributes)} attributes and {facts[0].prompt!r} {len(facts[0].attributes)}; "
            "give every fact equally many, or none"
        )
    unknown, found = model.tokenizer.unk_token_id, []
    for fact in facts:
        own = tuple(token_of(model.tokenizer, fact, word, before, bos) for word in fact.attributes)
        if len(set(own)) < len(own) or (unknown is not None and unknown in own):
            raise UserError(
                f"the attributes {list(fact.attributes)} of {fact.subject!r} are not told apart by their first tokens; "
                "give other words"
            )
        found.append(own)
    return tuple(found)


def _words(facts: Sequence[Fact]) -> tuple[frozenset[str], ...]:
    found = tuple(words_of(fact.about) for fact in facts)
    if not any(found):
        return ()
    if any(fact.attributes for fact in facts):
        raise UserError("the facts have attributes and texts about their subjects; give one of the two")
    if not all(found):
        lacking = next(fact for fact, words in zip(facts, found, strict=True) if not words)
        raise UserError(f"{lacking.prompt!r} has no text about {lacking.subject!r}; give every fact one, or none")
    return found
