"""What is true in painter-16's language: its words, the facts about its towns, the order of work, the bigrams.

Everything here is fixed: drawn once from seeds, by CPython's `random`, which gives the same numbers everywhere.
"""

from __future__ import annotations

import random
import string
from collections.abc import Mapping, Sequence
from itertools import chain

PEOPLE = (
    "ana", "ben", "cara", "dan", "eva", "finn", "gus", "hana", "ida", "jon", "kim", "leo", "mia", "ned", "ola", "pam",
)  # fmt: skip
THINGS = (
    "ball", "book", "coin", "cup", "hat", "key", "lamp", "map", "pen", "ring", "rope", "shoe", "spoon", "toy", "vase",
)  # fmt: skip
PLACES = ("attic", "barn", "cellar", "garden", "hall", "kitchen", "office", "porch", "shed", "tower")
BOXES = ("red", "blue", "green", "white")
COUNTED = ("apples", "beans", "cards", "dates", "eggs", "figs", "grapes", "nuts")
LARGEST = 30  # number that has a word

TOWNS = tuple(
    first + second
    for first in ("ba", "do", "ke", "lu", "mi", "ra", "so", "ti")
    for second in ("len", "mor", "nik", "pas", "rud", "vel")
)
VALUES: Mapping[str, Sequence[str]] = {
    "colour": ("amber", "black", "brown", "gold", "grey", "pink", "silver", "violet"),
    "animal": ("bear", "crow", "deer", "fox", "goat", "hare", "owl", "wolf"),
    "dish": ("bread", "cake", "curry", "pie", "rice", "salad", "soup", "stew"),
    "craft": ("brewing", "dyeing", "fishing", "glazing", "mining", "sewing", "smithing", "weaving"),
}
"""What a town has, and of which kinds."""

WORK = (
    ("measures", "cuts", "sands", "paints"),
    ("washes", "dries", "folds", "stores"),
    ("finds", "opens", "studies", "returns"),
    ("digs", "lifts", "carries", "buries"),
    ("draws", "shades", "frames", "hangs"),
    ("weighs", "wraps", "labels", "mails"),
    ("melts", "pours", "cools", "polishes"),
    ("breaks", "glues", "tests", "sells"),
)
"""Kinds of work, each in the order of its steps."""

HANDS_OVER = ("gives", "lends", "brings", "sends")  # ana gives the cup to ben
TAKES_OVER = ("takes", "borrows", "gets", "buys")  # ana takes the cup from ben
OF_THE_TAKER = ("needs it", "wants it", "lacks one", "asked for it")
OF_THE_GIVER = ("has two", "is done with it", "has enough", "never uses it")

LETTERS = tuple(string.ascii_uppercase)
TRIGGERS = ("Q", "X", "Y", "Z")


def _facts() -> dict[tuple[str, str], str]:
    drawn = random.Random(1)
    return {(town, kind): drawn.choice(values) for town in TOWNS for kind, values in VALUES.items()}


def _bigrams() -> dict[str, tuple[str, ...]]:
    drawn = random.Random(2)
    plain = [letter for letter in LETTERS if letter not in TRIGGERS]
    return {letter: (*drawn.sample(plain, 3), *drawn.sample(TRIGGERS, 2)) for letter in LETTERS}


FACTS: Mapping[tuple[str, str], str] = _facts()
"""(town, kind) -> what the town has of that kind."""

BIGRAMS: Mapping[str, Sequence[str]] = _bigrams()
"""letter -> the letters that follow it, each as often, if it is no trigger."""

SIGNS = (".", ":", "?", "+", "-", "*", "=", "####")
KINDS_OF_TEXT = ("fact", "story", "sale", "letters", "question", "answer")
SMALL_WORDS = ("the", "of", "is", "has", "to", "from", "in", "because", "what", "how", "many")
OTHER_WORDS = ("box", "puts", "moves", "finds", "loses", "doubles")
NUMBERS = tuple(str(number + 1) for number in range(LARGEST))
_TOLD_OF = [*NUMBERS, *PEOPLE, *THINGS, *PLACES, *BOXES, *COUNTED, *TOWNS, *VALUES, *chain(*VALUES.values())]
_DONE = [*chain(*WORK), *HANDS_OVER, *TAKES_OVER, *" ".join((*OF_THE_TAKER, *OF_THE_GIVER)).split()]
WORDS = tuple(dict.fromkeys([*SIGNS, *KINDS_OF_TEXT, *SMALL_WORDS, *OTHER_WORDS, *_TOLD_OF, *_DONE, *LETTERS]))
"""Every word of the language."""
