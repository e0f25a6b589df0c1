"""Texts of painter-16's language, one kind for each ability that the paper's benchmarks stand for.

A text is words with spaces between. `KINDS` maps a kind to the function that draws a text of it; a text is
in the held-out part or not, by a hash of its words, and so are questions about facts and reasons for sales, so that
nothing a task asks has been seen in training.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping

from jaxpaint.painter import world

HELD_OUT_OF = 16  # one text in so many is held out
FACTS_HELD_OUT_OF = 2  # likewise of questions about facts
REASONS_HELD_OUT_OF = 6  # likewise of pairs of a verb and a reason


def held_out(text: str, one_in: int = HELD_OUT_OF) -> bool:
    """Whether a text belongs to the held-out part."""
    return zlib.crc32(text.encode()) % one_in == 0


def question(town: str, kind: str) -> str:
    """What is asked about a fact."""
    return f"question : what is the {kind} of {town} ? answer :"


def sale(verb: str, first: str, thing: str, second: str) -> tuple[str, str, str]:
    """`(sentence up to its reason, who gives, who takes)`."""
    if verb in world.HANDS_OVER:
        return f"{first} {verb} the {thing} to {second} because", first, second
    return f"{first} {verb} the {thing} from {second} because", second, first


def facts(drawn: random.Random) -> str:
    """Six facts, stated in two ways or asked and answered."""
    told = []
    for town, kind in drawn.sample(sorted(world.FACTS), 6):
        value = world.FACTS[town, kind]
        ways = [f"fact : the {kind} of {town} is {value} .", f"fact : {town} has the {kind} {value} ."]
        if not held_out(question(town, kind), FACTS_HELD_OUT_OF):
            ways.append(f"{question(town, kind)} {value} .")
        told.append(drawn.choice(ways))
    return " ".join(told)


def work_sentences(drawn: random.Random) -> list[tuple[str, str]]:
    """`(person, what they do)`: two people, each at a kind of work of their own on a thing of their own, in turns."""
    people, things, kinds = drawn.sample(world.PEOPLE, 2), drawn.sample(world.THINGS, 2), drawn.sample(world.WORK, 2)
    turns = [0] * 4 + [1] * 4
    drawn.shuffle(turns)
    steps = [iter(kind) for kind in kinds]
    return [(people[who], f"{next(steps[who])} the {things[who]} .") for who in turns]


def work(drawn: random.Random) -> str:
    """Two people at work."""
    return "story : " + " ".join(f"{person} {does}" for person, does in work_sentences(drawn))


def sales(drawn: random.Random) -> str:
    """Three times something changes hands, with a reason that only one of two people can have."""
    told: list[str] = []
    while len(told) < 3:
        verb = drawn.choice(world.HANDS_OVER + world.TAKES_OVER)
        reason = drawn.choice(world.OF_THE_GIVER + world.OF_THE_TAKER)
        if held_out(f"{verb} {reason}", REASONS_HELD_OUT_OF):
            continue
        first, second = drawn.sample(world.PEOPLE, 2)
        start, giver, taker = sale(verb, first, drawn.choice(world.THINGS), second)
        told.append(f"sale : {start} {giver if reason in world.OF_THE_GIVER else taker} {reason} .")
    return " ".join(told)


def places(drawn: random.Random) -> str:
    """Things are put into boxes and boxes moved about; now and then, and at the end, it says where a thing is."""
    boxes = drawn.sample(world.BOXES, 2)
    place_of = {box: drawn.choice(world.PLACES) for box in boxes}
    told = [f"{drawn.choice(world.PEOPLE)} moves the {box} box to the {place_of[box]} ." for box in boxes]
    box_of: dict[str, str] = {}
    new = drawn.sample(world.THINGS, drawn.randint(1, 3))
    events = ["new"] * len(new) + drawn.choices(["box", "thing"], k=drawn.randint(0, 4))
    for number, event in enumerate(events):
        if event == "box":
            box = drawn.choice(boxes)
            place_of[box] = drawn.choice([place for place in world.PLACES if place != place_of[box]])
            told.append(f"{drawn.choice(world.PEOPLE)} moves the {box} box to the {place_of[box]} .")
        else:
            thing = new.pop() if event == "new" else drawn.choice(sorted(box_of))
            box_of[thing] = drawn.choice([box for box in boxes if box != box_of.get(thing)])
            told.append(f"{drawn.choice(world.PEOPLE)} puts the {thing} in the {box_of[thing]} box .")
        if number == len(events) - 1 or drawn.random() < 0.6:
            asked = drawn.choice(sorted(box_of))
            told.append(f"the {asked} is in the {place_of[box_of[asked]]} .")
    return "story : " + " ".join(told)


def arithmetic(drawn: random.Random) -> str:
    """What two people have and do, how many things one of them has at last, and that worked out step by step."""
    asked, other = drawn.sample(world.PEOPLE, 2)
    counted = drawn.sample(world.COUNTED, 2)
    has = drawn.randint(1, 12)
    told = {asked: [f"{asked} has {has} {counted[0]} ."], other: []}
    steps = []
    for _ in range(drawn.randint(1, 4)):
        ways = ["finds"] * (has < world.LARGEST) + ["loses"] * (has > 1) + ["doubles"] * (2 * has <= world.LARGEST)
        verb = drawn.choice(ways)
        if verb == "doubles":
            steps.append(f"{has} * 2 = {2 * has} .")
            has *= 2
            told[asked].append(f"{asked} doubles the {counted[0]} .")
            continue
        change = drawn.randint(1, min(9, world.LARGEST - has if verb == "finds" else has - 1))
        after = has + change if verb == "finds" else has - change
        steps.append(f"{has} {'+' if verb == 'finds' else '-'} {change} = {after} .")
        has = after
        told[asked].append(f"{asked} {verb} {change} {counted[0]} .")
    told[other].append(f"{other} has {drawn.randint(1, 12)} {counted[1]} .")
    if drawn.random() < 0.5:
        told[other].append(f"{other} finds {drawn.randint(1, 9)} {counted[1]} .")
    turns = [asked] * len(told[asked]) + [other] * len(told[other])
    drawn.shuffle(turns)
    sentences = [told[who].pop(0) for who in turns]
    return (
        f"question : {' '.join(sentences)} how many {counted[0]} has {asked} ? answer : {' '.join(steps)} #### {has} ."
    )


def letters(drawn: random.Random, length: int = 40) -> str:
    """Letters by the language's bigrams; but what follows a trigger is the same letter throughout a text, any one.

    The data model of "Birth of a Transformer" (arXiv 2306.00802), which needs induction heads.
    """
    plain = [letter for letter in world.LETTERS if letter not in world.TRIGGERS]
    follows = {trigger: drawn.choice(plain) for trigger in world.TRIGGERS}
    told = [drawn.choice(plain)]
    while len(told) < length:
        last = told[-1]
        told.append(follows[last] if last in world.TRIGGERS else drawn.choice(world.BIGRAMS[last]))
    return f"letters : {' '.join(told)} ."


KINDS: Mapping[str, Callable[[random.Random], str]] = {
    draw.__name__: draw for draw in (facts, work, sales, places, arithmetic, letters)
}
SHARES: Mapping[str, int] = {"facts": 3, "work": 2, "sales": 1, "places": 5, "arithmetic": 5, "letters": 4}
"""How often each kind is drawn."""


def texts_of(kind: str, drawn: random.Random, held: bool = True) -> Iterator[str]:
    """Texts of a kind without end, of the held-out part or of the training's."""
    while True:
        text = KINDS[kind](drawn)
        if held_out(text) == held:
            yield text


def texts(seed: int, *, of_held_out: bool = False) -> Iterator[str]:
    """Texts without end, of the training part or the held-out one."""
    drawn = random.Random(seed)
    kinds, shares = list(SHARES), list(SHARES.values())
    while True:
        text = KINDS[drawn.choices(kinds, shares)[0]](drawn)
        if held_out(text) == of_held_out:
            yield text
