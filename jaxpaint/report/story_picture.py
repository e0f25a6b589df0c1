"""The picture of a story: where everything stands, for `story.html` to draw as SVG.

Across are the steps of the plan's clock, down the prompt's tokens; a dot is a state, as dark as it is sure of the
answer; a line to the last token is what its attention to a token writes of the answer's logit. Below is what blocking
a part of the prompt does. Everything has words that a pointer or the arrow keys bring up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxpaint.report.figures.style import COLOURS
from jaxpaint.report.flow import LabelledStory, StoryStudy
from jaxpaint.results.flow import SETS
from jaxpaint.results.story import sentences

# Those of the figures' curves for the same parts.
OF_SETS = {"subject": COLOURS["blue"], "rest": COLOURS["orange"], "last": COLOURS["green"], "other": COLOURS["grey"]}
# Dark enough for texts.
TEXTS = {"subject": "#00558c", "rest": "#8a5a00", "last": "#00553e", "other": "#595959"}
DASHES = {"subject": "none", "rest": "6 3", "last": "1.5 3"}  # never colour alone
LEFT, TOP, WIDTH, ROW = 104.0, 16.0, 420.0, 19.0
WORDS = 92.0  # below the tokens, for what the lens says at the last one
CURVES = 96.0
WIDEST = 7.0  # of a line
LEAST_SHARE = 0.02  # of the strongest: what writes less has no line
MOST_WORDS = 32  # along the steps
MOST_CHARACTERS = 14
MOST_PLANS = 24


@dataclass(frozen=True)
class StoryBox:
    """A prompt's pictures, under as many plans as have room, for the page."""

    anchor: str
    prompt: str
    answer: str
    size: int
    pictures: tuple[StoryPicture, ...]

    @classmethod
    def of(cls, study: StoryStudy, anchor: str) -> StoryBox:
        setting = study.setting
        pictures = tuple(StoryPicture(each, number) for number, each in enumerate(study.found[:MOST_PLANS]))
        return cls(anchor, setting.before + setting.prompt, setting.answer, setting.size, pictures)

    @property
    def sides(self) -> tuple[StoryPicture, ...]:
        """What is shown first: the full model, and another plan beside it."""
        return self.pictures[:2]

    @property
    def colours(self) -> list[tuple[str, str]]:
        return [(name, TEXTS[name]) for name in SETS]


@dataclass(frozen=True)
class Dot:
    """A state, as opaque as the answer is likely."""

    x: float
    y: float
    shade: float
    told: str


@dataclass(frozen=True)
class Line:
    """What the last token's attention to another one writes."""

    x1: float
    y1: float
    x2: float
    y2: float
    width: float
    colour: str
    dashed: bool
    told: str


@dataclass(frozen=True)
class Word:
    """A text beside the tokens, or below the states."""

    x: float
    y: float
    text: str
    colour: str
    strong: bool = False


@dataclass(frozen=True)
class Curve:
    """The change in windows without one part of the prompt."""

    name: str
    colour: str
    dashes: str
    points: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, eq=False)
class StoryPicture:
    """A plan's story with its words, and where they stand."""

    each: LabelledStory
    number: int

    @property
    def label(self) -> str:
        return self.each.label

    @property
    def plan(self) -> str:
        return str(self.each.story.plan)

    @property
    def sentences(self) -> list[str]:
        return list(sentences(self.each.story))

    @property
    def width(self) -> float:
        return LEFT + WIDTH + 24

    @property
    def height(self) -> float:
        return self.foot + 24

    @property
    def bottom(self) -> float:
        """Of the tokens."""
        return TOP + ROW * len(self.each.story.tokens)

    @property
    def head(self) -> float:
        """Of the curves."""
        return self.bottom + WORDS

    @property
    def foot(self) -> float:
        return self.head + CURVES

    @property
    def left(self) -> float:
        return LEFT

    @property
    def right(self) -> float:
        return LEFT + WIDTH

    @cached_property
    def tokens(self) -> list[Word]:
        return [
            Word(LEFT - 10, self._y(at) + 4, _short(text), TEXTS[self._part(at)])
            for at, text in enumerate(self.each.story.tokens)
        ]

    @cached_property
    def dots(self) -> list[Dot]:
        story = self.each.story
        found = []
        for state, depth in enumerate(story.depths):
            for at, token in enumerate(story.tokens):
                chance, likely = math.exp(story.answer_logprob[state, at]), math.exp(story.said_logprob[state, at])
                told = (
                    f"{self._after(state)}, token {_quoted(token)}: says "
                    f"{_quoted(story.said[state][at])} ({likely:.2f}); "
                    f"the answer {_quoted(story.answer)} {chance:.3f}"
                )
                found.append(Dot(self._x(depth), self._y(at), round(max(0.06, chance), 3), told))
        return found

    @cached_property
    def lines(self) -> list[Line]:
        story, last = self.each.story, len(self.each.story.tokens) - 1
        strongest = float(np.abs(story.reads).max(initial=0.0))
        found = []
        for depth, reads in enumerate(story.reads):
            for at, value in enumerate(reads):
                share = abs(value) / strongest if strongest else 0.0
                if share < LEAST_SHARE:
                    continue
                told = (
                    f"Step {depth}: attention to {_quoted(story.tokens[at])} writes {value:+.2f} of the answer's logit"
                )
                ends = self._x(depth), self._y(at), self._x(depth + 1), self._y(last)
                found.append(Line(*ends, round(WIDEST * share, 2), OF_SETS[self._part(at)], value < 0, told))
        return found

    @cached_property
    def words(self) -> list[Word]:
        """What the lens has on top at the last token, of as many states as have room."""
        story = self.each.story
        every = -(-len(story.depths) // MOST_WORDS)
        return [
            Word(self._x(depth), self.bottom + 12, _short(said[-1]), "currentColor", said[-1] == story.answer)
            for number, (depth, said) in enumerate(zip(story.depths, story.said, strict=True))
            if (len(story.depths) - 1 - number) % every == 0
        ]

    @cached_property
    def curves(self) -> list[Curve]:
        change = self.each.story.change
        found = []
        for key, name in enumerate(SETS):
            dots = tuple(
                Dot(
                    self._x(depth + 0.5),
                    self._height(value),
                    1.0,
                    f"Without {name} in the window around step {depth}: {value:+.1f} per cent of the probability",
                )
                for depth, value in enumerate(change[:, key])
            )
            found.append(Curve(name, OF_SETS[name], DASHES[name], " ".join(f"{dot.x},{dot.y}" for dot in dots), dots))
        return found

    @property
    def zero(self) -> float:
        """Where nothing changes."""
        return self._height(0.0)

    @cached_property
    def _ends(self) -> tuple[float, float]:
        change = self.each.story.change
        return min(-1.0, float(change.min(initial=0.0))), max(1.0, float(change.max(initial=0.0)))

    def _height(self, value: float) -> float:
        low, high = self._ends
        return round(self.head + 8 + (CURVES - 16) * (high - value) / (high - low), 1)

    @property
    def scale(self) -> list[Word]:
        """The ends of the curves' axis."""
        low, high = self._ends
        ends = ((self.head + 12, high), (self.foot - 4, low))
        return [Word(LEFT - 10, y, f"{value:+.0f} %", "currentColor") for y, value in ends]

    def ticks(self) -> Iterator[Word]:
        """Numbers of steps below the curves."""
        depth = self.each.story.depths[-1]
        every = -(-depth // 12) or 1
        for step in range(0, depth, every):
            yield Word(self._x(step + 0.5), self.foot + 14, str(step), "currentColor")

    def _after(self, state: int) -> str:
        story = self.each.story
        if state == 0:
            return "Embeddings"
        return f"After {story.labels[state - 1]} ({story.depths[state]} of {story.depths[-1]} steps)"

    def _part(self, at: int) -> str:
        return next((n for n, places in zip(SETS, self.each.story.sets, strict=True) if at in places), "other")

    def _x(self, depth: float) -> float:
        return round(LEFT + WIDTH * depth / max(1, self.each.story.depths[-1]), 1)

    def _y(self, at: int) -> float:
        return TOP + ROW * (at + 0.5)


def _short(text: str) -> str:
    shown = text.strip() or repr(text)[1:-1]
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[: MOST_CHARACTERS - 1]}…"


def _quoted(text: str) -> str:
    return f"“{text.strip() or repr(text)[1:-1]}”"
