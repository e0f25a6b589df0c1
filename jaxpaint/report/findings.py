"""The paper's eight questions, answered from a study in plain words, with the numbers behind each answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxpaint.report.evidence import (
    DOES_NOT_HOLD,
    HOLDS,
    IN_PART,
    OPEN,
    Evidence,
    Verdict,
    any_holds,
    combine,
    times_to_tell,
)
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.questions import layers as questions_layers
from jaxpaint.report.questions import order as questions_order
from jaxpaint.report.questions import variants as questions_variants


@dataclass(frozen=True)
class Question:
    """One of the paper's questions: its claim, how evidence is found and judged, and what to say of it.

    `says` are the answers by verdict. `figures` are those that show it, by number. `needs` says what a study must
    hold to answer. `aside` adds a sentence that no verdict hangs on, or nothing.
    """

    number: int
    text: str
    claim: str
    says: Mapping[Verdict, str]
    evidence: Callable[[Measurements], Sequence[Evidence]]
    figures: tuple[str, ...]
    needs: str
    judge: Callable[[Sequence[Evidence]], Verdict] = combine
    aside: Callable[[Measurements], str] = lambda _: ""


@dataclass(frozen=True)
class Answer:
    """What a study says of a question, in one sentence, and the numbers that decide it in a sentence each.

    `aside` is a sentence that no verdict hangs on, or empty.
    """

    question: Question
    verdict: Verdict
    lead: str
    sentences: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    aside: str = ""

    @property
    def asked(self) -> bool:
        """Whether the study has anything to say of it."""
        return bool(self.evidence)

    @property
    def text(self) -> str:
        """All of it in words."""
        return " ".join([self.lead, *self.sentences])


QUESTIONS = (
    Question(
        1,
        "Do layers use the same representation space?",
        "The middle layers share one representation space; the first and last few do not.",
        {
            HOLDS: "Yes: the middle layers share a representation space.",
            DOES_NOT_HOLD: "No: the middle layers of this model do not show a shared representation space.",
            IN_PART: "In part: one measurement speaks for a shared space among the middle layers, another against it.",
        },
        questions_layers.shared_space,
        ("3", "14", "2"),
        "the similarity analysis of the full model, or the strategies switch and skip-one",
    ),
    Question(
        2,
        "Are all the layers necessary?",
        "A few middle layers can be left out with little loss.",
        {
            HOLDS: "No: middle layers can be left out with little loss.",
            DOES_NOT_HOLD: "Yes: leaving out even a few middle layers costs this model much of its score.",
        },
        questions_layers.necessary,
        ("4", "12"),
        "the strategies skip-one, or skip with few affected layers",
        any_holds,
    ),
    Question(
        3,
        "Are the middle layers all doing the same function?",
        "The middle layers do different things: repeating one of them is far worse than skipping them all.",
        {
            HOLDS: "No: putting the middle layer in the others' place is worse than leaving them all out.",
            DOES_NOT_HOLD: "Not refuted here: repeating the middle layer is no worse than skipping the middle.",
        },
        questions_layers.same_function,
        ("5", "15"),
        "the strategies skip and middle-repeat",
    ),
    Question(
        4,
        "Does the order of the layers matter?",
        "Order matters somewhat: other orders lose score gracefully, and random order beats the reverse order.",
        {
            HOLDS: "Yes: changing the order of the middle layers costs score, and random order beats reverse.",
            DOES_NOT_HOLD: "Not as the paper found: these orders cost nothing, or reverse is as good as random.",
            IN_PART: "Order matters, or random beats reverse, but not both as the paper found.",
        },
        questions_order.order,
        ("6", "7"),
        "the strategies random and reverse",
    ),
    Question(
        5,
        "Can the layers run in parallel?",
        "Layers can run in parallel: middle layers side by side degrade gracefully and beat skipping them.",
        {
            HOLDS: "Yes: middle layers run side by side lose score gracefully and beat skipping them.",
            DOES_NOT_HOLD: "No: running middle layers side by side neither beats skipping them nor keeps the score.",
            IN_PART: "In part: of beating skip and keeping half the score at a quarter of the layers, one holds.",
        },
        questions_order.in_parallel,
        ("8",),
        "the strategies parallel and skip",
        aside=questions_order.without_arithmetic,
    ),
    Question(
        6,
        "Does order matter more for some tasks than for others?",
        "Arithmetic and reasoning lose more than semantic tasks when order changes.",
        {
            HOLDS: "Yes: reasoning tasks lose more than semantic ones when layers run out of order.",
            DOES_NOT_HOLD: "No: reasoning tasks do not lose more than semantic ones here.",
        },
        questions_order.by_task,
        ("tasks",),
        "random, reverse or parallel on a reasoning task (GSM8K, ARC) and on a semantic one (LAMBADA, HellaSwag, "
        "WinoGrande), with the full model clearly above chance on both",
        aside=questions_order.without_arithmetic,
    ),
    Question(
        7,
        "Does looping help layers in parallel?",
        "Looping helps, and the best number of iterations is roughly proportional to the number of parallel layers.",
        {
            HOLDS: "Yes: feeding the parallel block's output back into it helps.",
            DOES_NOT_HOLD: "No: looping the parallel block does not help here.",
            IN_PART: "In part: of looping's gain and the growth of the best number of iterations, one holds.",
        },
        questions_variants.looping,
        ("9", "10", "17"),
        "the strategies parallel and looped-parallel",
    ),
    Question(
        8,
        "Which variants harm the least?",
        "Random order and looped parallel do the least harm; repeating a single layer is the worst by far.",
        {
            HOLDS: "As in the paper: random order and looped parallel harm least, repeating one layer most.",
            DOES_NOT_HOLD: "Another order than the paper's.",
            IN_PART: "Half as in the paper: of its best two and its worst, one holds.",
        },
        questions_variants.least_harm,
        ("11", "latency", "tradeoff"),
        "the strategies random, looped-parallel, middle-repeat and at least one of skip, reverse, parallel",
        aside=questions_variants.ranking,
    ),
)


def answers(measured: Measurements) -> tuple[Answer, ...]:
    """All eight, in the paper's order."""
    return tuple(_answer(question, measured) for question in QUESTIONS)


def not_asked(answers: Sequence[Answer]) -> str:
    """What the others of the eight take, in a sentence; empty where all were asked."""
    missing = [answer.question for answer in answers if not answer.asked]
    if not missing:
        return ""
    takes = "; ".join(f"{question.number} takes {question.needs}" for question in missing)
    return f"Not asked here: question{'s' * (len(missing) > 1)} {takes}."


def _answer(question: Question, measured: Measurements) -> Answer:
    evidence = tuple(question.evidence(measured))
    decisive = [item for item in evidence if item.verdict]
    if not decisive:
        verdict, lead = OPEN, f"Not enough data: this takes {question.needs}."
        if measured.study.results and not measured.scores.tasks:
            lead = "Not enough data: the full model is not clearly above chance on any task."
    else:
        verdict = question.judge(decisive)
        lead = question.says.get(verdict, "") or _unsettled(decisive, question, measured)
    aside = question.aside(measured)
    sentences = [*map(_sentence, decisive), aside]
    return Answer(question, verdict, lead, tuple(filter(None, sentences)), evidence, aside)


UNSETTLED = "Not settled: some interval reaches over its threshold"
MOST_TIMES = 100  # the sample: beyond it nobody has documents


def _unsettled(decisive: Sequence[Evidence], question: Question, measured: Measurements) -> str:
    """How many more documents would tell, in the words of the terminal and the page."""
    times = times_to_tell(decisive, question.judge)
    narrowed = [item for item in decisive if item.verdict == OPEN and (item.times <= times or math.isinf(times))]
    samples = {"documents": measured.documents} if any(item.texts is None for item in narrowed) else {}
    if texts := next((item.texts for item in narrowed if item.texts), None):
        samples["texts"] = texts
    seeds = "; of random order more seeds, too" if "random" in question.needs else ""
    return f"{UNSETTLED}, and {more_of(times, samples)}{seeds}."


def more_of(times: float, samples: Mapping[str, int]) -> str:
    """How much more of samples, by what they are of, would tell, if that is so many times as much; in words."""
    here = " and ".join(f"{count:,} {what}" for what, count in samples.items())
    if not times <= MOST_TIMES:
        return f"it would take more than {MOST_TIMES} times the {here} here to tell"
    more = " and ".join(f"{_rounded(count * (times - 1)):,} more {what}" for what, count in samples.items())
    return f"about {more} ({times:.1f} times those here) would tell, were the numbers to stay as they are"


def _rounded(number: float) -> int:
    """Up, to two digits."""
    unit = 10 ** max(0, math.floor(math.log10(max(number, 1))) - 1)
    return max(1, math.ceil(number / unit) * unit)


def _sentence(item: Evidence) -> str:
    return f"{item.what[0].upper()}{item.what[1:]}: {number(item)}, {item.verdict}."


def number(item: Evidence) -> str:
    """The value with its interval, where it has one."""
    value, low, high = (f"{part:z.2f}" for part in (item.value, item.low, item.high))
    return f"{value}, without an interval" if math.isnan(item.low) else f"{value} (95 % interval {low} to {high})"
