"""What a study found, in a few lines for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from jaxpaint.base.shown import visible_name
from jaxpaint.report.analysed import Numbers, clock_words, of_the_full_model
from jaxpaint.report.evidence import DOES_NOT_HOLD, HOLDS, IN_PART, OPEN, Verdict
from jaxpaint.report.findings import Answer
from jaxpaint.report.flow import about
from jaxpaint.report.flow_page import flows_of
from jaxpaint.report.flow_text import flow_lines
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.questions.variants import ranking
from jaxpaint.results.search import verdict

WIDTH = 80


def summary(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    """One study: how many of the paper's findings hold and what harms most, the full model's scores, each finding."""
    lines = [*_wrapped(_sentence(title, measured, answers)), ""] if answers else []
    lines += _scores(measured)
    lines += [*_answers(answers), ""] if answers else []
    for result in measured.study.searches:
        lines += [*_wrapped(f"Search within {result.setting.budget}, {verdict(result)[0]}."), ""]
    lines += _states(measured)
    for flows in flows_of(measured.study):
        lines += [*_wrapped(f"How facts flow: {about(flows.setting)}."), "", *flow_lines(flows), ""]
    return "\n".join(map(visible_name, lines))


def _sentence(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    count = Counter(answer.verdict for answer in answers)
    parts = [f"{count[HOLDS]} hold{'s' * (count[HOLDS] == 1)}"]
    for kind, one, several in (
        (IN_PART, "holds in part", "hold in part"),
        (DOES_NOT_HOLD, "does not", "do not"),
        (OPEN, "is open", "are open"),
    ):
        if count[kind]:
            parts.append(f"{count[kind]} {one if count[kind] == 1 else several}")
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


def _states(measured: Measurements) -> Iterator[str]:
    """What the analyses say of the full model at its first, middle and last state or step."""
    found = list(of_the_full_model(measured))
    if not found:
        return
    texts = measured.analysed_texts(found[0][0].name, measured.study.full)
    yield from _wrapped(f"Hidden states of the full model (± 1.96 standard errors over texts){texts and ': '}{texts}")
    rows = []
    for analysis, quantities in found:
        if len(quantities) > 1:
            rows.append((analysis.title, [""] * 3))
        for quantity, each in quantities:
            places = (0, (len(each.value) - 1) // 2, len(each.value) - 1)
            words = f"  {quantity.words}" if len(quantities) > 1 else quantity.words
            rows.append((words, [_with_interval(each, place) for place in places]))
    width = max(len(words) for words, _ in rows)
    for words, values in [("", ["first", "middle", "last"]), *rows]:
        yield f"{words:{width}}{''.join(f'{value:>16}' for value in values)}".rstrip()
    if words := clock_words(measured):
        yield from _wrapped(words)
    yield ""


def _with_interval(numbers: Numbers, place: int) -> str:
    """To the first digit of the interval, and three decimals at most."""
    value, half = numbers.value[place], None if numbers.half is None else numbers.half[place]
    if half is None or not math.isfinite(half):
        return f"{value:.3g}"
    decimals = min(3, max(0, -math.floor(math.log10(half)))) if half else 3
    return f"{value:z.{decimals}f} ± {half:.{decimals}f}"


def _wrapped(text: str, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
