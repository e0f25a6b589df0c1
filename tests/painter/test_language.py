"""painter-16's language: what training never shows, and that every item has the answer that its own text implies."""

from __future__ import annotations

import json
import random
import re
from itertools import islice, pairwise

import numpy as np
import pytest

from jaxpaint.painter import items, language
from jaxpaint.painter.batches import batches
from jaxpaint.painter.tokenizer import BOS, EOS, VOCABULARY, tokenizer
from jaxpaint.painter.world import BIGRAMS, FACTS, OF_THE_GIVER, TAKES_OVER, TRIGGERS, WORK

TEXTS = list(islice(language.texts(seed=7), 4000))


def test_every_word_has_a_token_and_the_tokenizer_gives_it_back() -> None:
    words = tokenizer(256)
    for text in TEXTS[:200]:
        tokens = words(text)["input_ids"]
        assert tokens == [VOCABULARY[BOS], *(VOCABULARY[word] for word in text.split())]
        assert words.decode(tokens, skip_special_tokens=True) == text


def test_training_states_every_fact_and_never_asks_the_held_out_ones() -> None:
    stated, asked = set(), set()
    for text in TEXTS:
        stated |= {(town, kind, value) for kind, town, value in re.findall(r"the (\w+) of (\w+) is (\w+)", text)}
        stated |= {(town, kind, value) for town, kind, value in re.findall(r"fact : (\w+) has the (\w+) (\w+)", text)}
        asked |= {(town, kind) for kind, town in re.findall(r"what is the (\w+) of (\w+) \?", text)}
    assert stated == {(*fact, value) for fact, value in FACTS.items()}
    held_out = {tuple(re.findall(r"the (\w+) of (\w+)", item["question"])[0][::-1]) for item in items.items("facts")}
    assert len(held_out) > len(FACTS) / 3
    assert asked == set(FACTS) - held_out


def test_training_lacks_the_held_out_texts_and_reasons() -> None:
    assert not any(map(language.held_out, TEXTS))
    assert all(map(language.held_out, islice(language.texts(7, of_held_out=True), 100)))
    asked = {(item["contexts"][0].split()[3], item["reason"].removesuffix(" .")) for item in items.items("sales")}
    told = {pair for text in TEXTS for pair in re.findall(r"sale : \w+ (\w+) .*? because \w+ (.*?) \.", text)}
    assert len(asked) > 4
    assert len(told) > 40
    assert not asked & told


def test_where_a_thing_is_follows_from_what_was_moved() -> None:
    for item in items.items("places"):
        box_of, place_of = {}, {}
        for sentence in item["context"].removeprefix("story : ").split(" . "):
            if moved := re.fullmatch(r"\w+ moves the (\w+) box to the (\w+)", sentence):
                place_of[moved[1]] = moved[2]
            elif put := re.fullmatch(r"\w+ puts the (\w+) in the (\w+) box", sentence):
                box_of[put[1]] = put[2]
            elif told := re.fullmatch(r"the (\w+) is in the (\w+)", sentence):
                assert place_of[box_of[told[1]]] == told[2]
            else:
                (asked,) = re.fullmatch(r"the (\w+) is in the", sentence).groups()
        assert place_of[box_of[asked]] == item["place"]
        assert f"the {asked} is in the {item['place']} ." not in item["context"]
        assert len(re.findall(" (?:moves|puts) ", item["context"])) >= 7


def test_numbers_come_out_as_the_question_tells() -> None:
    for item in items.items("arithmetic"):
        counted, asked = re.search(r"how many (\w+) has (\w+) \?", item["question"]).groups()
        has = 0
        for verb, number in re.findall(rf"{asked} (\w+) (\w+) {counted}", item["question"]):
            change = int(number) if number.isdecimal() else has
            has = {"has": change, "loses": has - change}.get(verb, has + change)
        *steps, last = item["answer"].removesuffix(" .").split(" . ")
        assert last == f"#### {has}"
        assert 2 <= len(steps) <= 4
        for step in steps:
            sum_, result = step.split(" = ")
            assert eval(sum_) == int(result)


def test_people_go_on_with_their_own_work_on_their_own_thing() -> None:
    for item in items.items("work"):
        *told, person = item["context"].removeprefix("story : ").split(" . ")
        own = [sentence.split() for sentence in told if sentence.startswith(f"{person} ")]
        (steps,) = (steps for steps in WORK if own[-1][1] in steps)
        assert item["choices"][item["gold"]] == f"{steps[len(own)]} the {own[-1][3]} ."
        assert len(set(item["choices"])) == 4


def test_a_reason_speaks_of_who_can_have_it() -> None:
    for item in items.items("sales"):
        first, verb, *_, second = item["contexts"][0].removeprefix("sale : ").split(" because ")[0].split()
        giver, taker = (second, first) if verb in TAKES_OVER else (first, second)
        meant = giver if item["reason"].removesuffix(" .") in OF_THE_GIVER else taker
        assert item["contexts"][item["gold"]].split()[-1] == meant
        assert {context.split()[-1] for context in item["contexts"]} == {giver, taker}


def test_what_follows_a_trigger_is_the_texts_own_letter() -> None:
    follows_elsewhere = set()
    for item in items.items("letters"):
        told = item["context"].removeprefix("letters : ").split()
        assert told[-1] in TRIGGERS
        assert {after for letter, after in pairwise(told) if letter == told[-1]} == {item["letter"]}
        plain = [pair for pair in pairwise(told) if pair[0] not in TRIGGERS]
        assert all(after in BIGRAMS[letter] for letter, after in plain)
        follows_elsewhere.add((told[-1], item["letter"]))
    assert len(follows_elsewhere) > 60, "no letter of the language's own follows a trigger"


@pytest.mark.parametrize("kind", items.KINDS)
def test_the_packages_items_are_those_that_the_language_gives(kind) -> None:
    lines = (items.TASKS / f"painter_{kind}.jsonl").read_text().splitlines()
    assert list(map(json.loads, lines)) == items.items(kind)


def test_batches_hold_whole_texts_that_see_only_themselves() -> None:
    words = {number: word for word, number in VOCABULARY.items()}
    for batch in islice(batches(3, rows=4, length=128), 5):
        for tokens, positions, until, predicted in zip(*batch, strict=True):
            start = 0
            while start < 128 and until[start] > start + 1:
                stop = until[start]
                assert (until[start:stop] == stop).all()
                assert positions[start:stop].tolist() == list(range(stop - start))
                assert predicted[start:stop].tolist() == [True] * (stop - start - 1) + [False]
                text = [words[token] for token in tokens[start:stop]]
                assert (text[0], text[-1]) == (BOS, EOS)
                assert text[1] in {"fact", "question", "story", "sale", "letters"}
                start = stop
            assert start > 64
            assert not predicted[start:].any()
            assert (until[start:] == np.arange(start, 128) + 1).all()


def test_a_kind_is_drawn_the_same_way_from_the_same_numbers() -> None:
    for draw in language.KINDS.values():
        assert draw(random.Random(5)) == draw(random.Random(5)) != draw(random.Random(6))
