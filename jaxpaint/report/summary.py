"""What a study found, in a few lines for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from jaxpaint.base.shown import visible_name
from jaxpaint.report.evidence import DOES_NOT_HOLD, HOLDS, IN_PART, OPEN, Verdict
from jaxpaint.report.findings import Answer
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.questions.variants import ranking

WIDTH = 80


def summary(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    """One study: how many of the paper's findings hold and what harms most, the full model's scores, each finding."""
    lines = [*_wrapped(_sentence(title, measured, answers)), "", *_scores(measured), *_answers(answers), ""]
    return "\n".join(map(visible_name, lines))


def _sentence(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    count = Counter(answer.verdict for answer in answers)
    parts = [f"{count[HOLDS]} hold{'s' * (count[HOLDS] == 1)}"]
    for verdict, one, several in (
        (IN_PART, "holds in part", "hold in part"),
        (DOES_NOT_HOLD, "does not", "do not"),
        (OPEN, "is open", "are open"),
    ):
        if count[verdict]:
            parts.append(f"{count[verdict]} {one if count[verdict] == 1 else several}")
    listed = ", ".join(parts[:-1]) + f" and {parts[-1]}" if len(parts) > 1 else parts[0]
    first = f"Of the paper's {len(answers)} findings {listed} on {title} ({measured.num_layers} layers)."
    ranked = ranking(measured)
    unit = "The number is the share of the score that is left: 1 is the full model, 0 guessing." if ranked else ""
    return f"{first} {ranked} {unit}".strip()


def _scores(measured: Measurements) -> Iterator[str]:
    scores = measured.scores.full
    if not scores:
        return
    width = max(len("task"), *(len(score.task) for score in scores))
    yield f"{'task':{width}}  {'metric':11}  {'full model':>15}  {'chance':>6}"
    for score in scores:
        chance = "?" if score.chance is None else f"{score.chance:.2f}"
        aside = "  left out*" if score.left_out else ""
        value = f"{score.value:.3f}" + ("" if math.isnan(score.stderr) else f" ± {score.stderr:.3f}")
        yield f"{score.task:{width}}  {score.metric:11}  {value:>15}  {chance:>6}{aside}"
    for score in measured.scores.left_out:
        yield from _wrapped(f"* {score.task}: {score.left_out}", "", "  ")
    yield ""


def _answers(answers: Sequence[Answer]) -> Iterator[str]:
    width = max(map(len, get_args(Verdict)))
    for answer in answers:
        head = f"{answer.question.number}  {answer.verdict:{width}}  "
        text = answer.question.claim if answer.verdict != OPEN else f"{answer.question.claim} {answer.lead}"
        yield from _wrapped(text, head, " " * len(head))


def _wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
