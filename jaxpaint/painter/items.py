"""Items of painter-16's tasks, one for each kind of text, as lm-eval reads them: held out, and some to train on.

python -m jaxpaint.painter.items     writes jaxpaint/painter/tasks/ again, and calibration.txt
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from jaxpaint.base.bundled import CALIBRATION, TASKS, TO_TRAIN_ON
from jaxpaint.painter import language, world
from jaxpaint.painter.language import held_out, question, sale, texts_of

ITEMS = 200
SEED = 20_000
TRAINING_SEED = 30_000
CALIBRATION_TEXTS = 100

Items = Iterator[dict[str, Any]]


def facts(drawn: random.Random, held: bool = True) -> Items:
    """Every fact that training states and never asks about, or does ask about, with four answers."""
    asked = [fact for fact in sorted(world.FACTS) if held_out(question(*fact), language.FACTS_HELD_OUT_OF) == held]
    drawn.shuffle(asked)
    for town, kind in asked:
        answer = world.FACTS[town, kind]
        choices = [answer, *drawn.sample([value for value in world.VALUES[kind] if value != answer], 3)]
        drawn.shuffle(choices)
        yield {"question": question(town, kind), "choices": choices, "gold": choices.index(answer)}


def work(drawn: random.Random, held: bool = True) -> Items:
    """What someone does next: the next step of their own work on their own thing, among three that are not."""
    while True:
        sentences = language.work_sentences(drawn)
        if held_out("story : " + " ".join(map(" ".join, sentences))) != held:
            continue
        cut = drawn.randrange(3, 8)
        person, right = sentences[cut]
        verb, thing = right.split()[0], right.split()[2]
        own = next(steps for steps in world.WORK if verb in steps)
        others = [does.split() for who, does in sentences[:cut] if who != person]
        if own.index(verb) == 0 or not others:
            continue
        following = next(steps for steps in world.WORK if others[-1][0] in steps)
        again = own[own.index(verb) - 1]
        foreign = following[min(following.index(others[-1][0]) + 1, len(following) - 1)]
        choices = [right, f"{again} the {thing} .", f"{verb} the {others[-1][2]} .", f"{foreign} the {thing} ."]
        drawn.shuffle(choices)
        told = " ".join(f"{who} {does}" for who, does in sentences[:cut])
        yield {"context": f"story : {told} {person}", "choices": choices, "gold": choices.index(right)}


def sales(drawn: random.Random, held: bool = True) -> Items:
    """Which of two people a reason speaks of, for pairs of verb and reason that training lacks, or has."""
    pairs = [
        (verb, reason)
        for verb in world.HANDS_OVER + world.TAKES_OVER
        for reason in world.OF_THE_GIVER + world.OF_THE_TAKER
        if held_out(f"{verb} {reason}", language.REASONS_HELD_OUT_OF) == held
    ]
    while True:
        verb, reason = drawn.choice(pairs)
        start, giver, taker = sale(
            verb, drawn.choice(world.PEOPLE), drawn.choice(world.THINGS), drawn.choice(world.PEOPLE)
        )
        if giver == taker:
            continue
        options = [giver, taker]
        drawn.shuffle(options)
        meant = giver if reason in world.OF_THE_GIVER else taker
        contexts = [f"sale : {start} {option}" for option in options]
        yield {"contexts": contexts, "reason": f"{reason} .", "gold": options.index(meant)}


def places(drawn: random.Random, held: bool = True) -> Items:
    """Where a thing is: its box's place, after all that was moved; the story has not said so before."""
    for text in texts_of("places", drawn, held):
        context, place = text.removesuffix(" .").rsplit(" ", 1)
        said = " ".join(text.split()[-7:])
        if text.count(" puts ") + text.count(" moves ") >= 7 and text.count(said) == 1:
            yield {"context": context, "place": place}


def arithmetic(drawn: random.Random, held: bool = True) -> Items:
    """A question of two to four steps, and its answer worked out."""
    for text in texts_of("arithmetic", drawn, held):
        asked, answer = text.split(" answer :")
        if answer.count("=") > 1:
            yield {"question": f"{asked} answer :", "answer": answer.strip()}


def letters(drawn: random.Random, held: bool = True) -> Items:
    """What follows a trigger that the text has shown before."""
    for text in texts_of("letters", drawn, held):
        told = text.split()
        again = [n for n in range(12, len(told) - 2) if told[n] in world.TRIGGERS and told[n] in told[2:n]]
        if again:
            cut = drawn.choice(again) + 1
            yield {"context": " ".join(told[:cut]), "letter": told[cut]}


KINDS: Mapping[str, Callable[[random.Random, bool], Items]] = {
    draw.__name__: draw for draw in (facts, work, sales, places, arithmetic, letters)
}


def items(kind: str, count: int = ITEMS, *, held: bool = True) -> list[dict[str, Any]]:
    """At most `count` items of a kind, always the same ones, each once: held out of the model's training, or of it."""
    found: dict[str, dict[str, Any]] = {}
    for item in islice(KINDS[kind](random.Random(SEED if held else TRAINING_SEED), held), 20 * count):
        found.setdefault(json.dumps(item), item)
        if len(found) == count:
            break
    return list(found.values())


def calibration() -> list[str]:
    """Texts to measure the model on, of every kind by its share: held out of training, and drawn apart from items."""
    return list(islice(language.texts(SEED + 1, of_held_out=True), CALIBRATION_TEXTS))


def main() -> None:
    """Writes the files that the package has."""
    for kind in KINDS:
        for folder, held in ((TASKS, True), (TO_TRAIN_ON, False)):
            lines = [json.dumps(item) + "\n" for item in items(kind, held=held)]
            (folder / f"painter_{kind}.jsonl").write_text("".join(lines))
            print(f"painter_{kind}: {len(lines)} items{' to train on' * (not held)}")
    CALIBRATION.write_text("".join(text + "\n" for text in calibration()))


if __name__ == "__main__":
    main()
