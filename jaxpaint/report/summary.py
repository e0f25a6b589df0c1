"""What a study found, in a few lines for a terminal of 80 columns."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.report.across import NOT_ASKED, Compared, verdicts
from jaxpaint.report.analysed import Numbers, clock_words, of_the_full_model
from jaxpaint.report.evidence import DOES_NOT_HOLD, HOLDS, IN_PART, OPEN, Verdict
from jaxpaint.report.findings import Answer, not_asked
from jaxpaint.report.flow import about
from jaxpaint.report.flow_page import flows_of
from jaxpaint.report.flow_text import flow_lines
from jaxpaint.report.glue import GlueStudy
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.paired import Number, PlanScore, PlanScores
from jaxpaint.report.plans_page import p_text
from jaxpaint.report.questions.variants import ranking
from jaxpaint.results.search import verdict

WIDTH = 80
MOST_PLANS, FEWER_PLANS = 20, 5  # in the terminal; the fewer beside answers to the paper's questions
MOST_TASKS, TASK_WIDTH = 3, 12  # that have a column each
PLAN_WIDTH = 16  # of a plan's name at least, however many columns there are beside it


def summary(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    """One study: how many of the paper's findings hold and what harms most, scores, each finding that was asked."""
    lines = _wrapped(_sentence(title, measured, answers)) if answers else list(_head(title, measured))
    lines += [""] * bool(lines)
    lines += _scores(measured)
    lines += plan_lines(measured.plans, FEWER_PLANS if answers else MOST_PLANS)
    lines += _finetuned(measured)
    lines += [*_answers(answers), ""] if answers else []
    for result in measured.study.searches:
        lines += [*_wrapped(f"Search within {result.setting.budget}, {verdict(result)[0]}."), ""]
    lines += _states(measured)
    for flows in flows_of(measured.study):
        lines += [*_wrapped(f"How facts flow: {about(flows.setting)}."), "", *flow_lines(flows), ""]
    return "\n".join(map(visible_name, lines))


def _head(title: str, measured: Measurements) -> Iterator[str]:
    """Where no question is asked."""
    if rows := measured.plans.rows:
        yield f"{title} ({measured.num_layers} layers): {count(len(rows), 'plan')}."


def across_summary(models: Sequence[Compared]) -> list[str]:
    """What several models say of the paper's questions, a column each; nothing of one, or where none was asked."""
    rows = list(verdicts(models)) if len(models) > 1 else []
    if not rows:
        return []
    wide = max(map(len, (*get_args(Verdict), NOT_ASKED)))
    most = max(1, (WIDTH // 2) // (wide + 2))  # columns beside the questions
    lines = ["Across models"]
    for first in range(0, len(models), most):
        some = models[first : first + most]
        room = WIDTH - len(some) * (wide + 2)
        heads = "".join(f"  {_clip(model.title, wide):{wide}}" for model in some)
        lines += [f"{'':{room}}{heads}".rstrip()]
        for number, text, said in rows:
            own = "".join(f"  {verdict:{wide}}" for verdict in said[first : first + most])
            lines.append(f"{_clip(f'{number}  {text}', room):{room}}{own}".rstrip())
        lines.append("")
    return ["\n".join(map(visible_name, lines))]


def glue_summary(title: str, glue: GlueStudy) -> str:
    """One GLUE study: its scores, best first."""
    return "\n".join(map(visible_name, [title, "", *plan_lines(glue.plans, MOST_PLANS)]))


def plan_lines(scores: PlanScores, most: int) -> Iterator[str]:
    """The plans with a score, best first, the full model among them: a table, as the page's first."""
    if len(scores.rows) < 2:
        return
    shown = list(scores.rows[:most])
    if scores.full is not None and scores.full not in shown:
        shown.append(scores.full)
    rest = len(scores.rows) - len(shown)
    tested = sum(not math.isnan(row.p) for row in scores.rows)
    columns = _columns(scores, shown)
    interval = ", with its 95 % interval" if "interval" in columns else ""
    told = f"; less full: on the same documents{interval}" if tested else ""
    holm = f"; p after Holm over {count(tested, 'plan')}" if tested else ""
    yield from _wrapped(f"Plans, best first (score: {scores.of_average}{told}{holm}):")
    widths = [max(map(len, column)) for column in columns.values()]
    for cells in zip(*columns.values(), strict=True):
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells[:-1], widths, strict=False))
        yield f"{line}  {_clip(cells[-1], WIDTH - len(line) - 2)}"
    if rest:
        yield f"… and {rest:,} more"
    yield ""


def _columns(scores: PlanScores, shown: Sequence[PlanScore]) -> dict[str, list[str]]:
    """The columns of `plan_lines`, each with its head; where room is lacking without the interval, or without tasks."""
    averages = [row.average if scores.averaged else row.tasks[0] for row in shown]
    of_average = {
        "score": ["score", *(_decimals(score.value) for score in averages)],
        "less full": ["less full", *(_difference(row.difference.value) for row in shown)],
        "interval": ["", *(_interval(row.difference) for row in shown)],
        "p": ["p", *(p_text(row.p) for row in shown)],
        "cost": ["cost", *(f"{scores.study.plans[row.column].cost:g}" for row in shown)],
        "plan": ["plan", *("full model" if row is scores.full else row.name for row in shown)],
    }
    # A group that is alone stands beside its tasks, others in their place.
    counted = scores.study.counted
    places = range(len(counted)) if len(counted) > 1 else range(len(scores.results))[scores.beside]
    names = {place: scores.results[place].task.name for place in places if 1 < len(places) <= MOST_TASKS}
    of_tasks = {
        f"task {place}": [_clip(name, TASK_WIDTH), *(_decimals(row.tasks[place].value) for row in shown)]
        for place, name in names.items()
    }
    both = {"score": of_average["score"], **of_tasks, **of_average}
    both = {name: cells for name, cells in both.items() if any(cells[1:])}  # what no row has takes no room
    needed = min(PLAN_WIDTH, max(map(len, both["plan"])))
    for left_out in ((), ("interval",), tuple(of_tasks)):
        some = {name: cells for name, cells in both.items() if name not in left_out}
        if sum(max(map(len, cells)) + 2 for name, cells in some.items() if name != "plan") + needed <= WIDTH:
            break
    return some


def _difference(value: float) -> str:
    return "" if math.isnan(value) else f"{value:+z.3f}"


def _interval(difference: Number) -> str:
    return "" if math.isnan(difference.low) else f"{difference.low:+z.2f} to {difference.high:+z.2f}"


def _finetuned(measured: Measurements) -> Iterator[str]:
    """What was fine-tuned, before and after."""
    for each in measured.tuned:
        variants = each.variants()
        if not variants:
            continue
        yield from _wrapped(f"Before and after fine-tuning on {each.title}, {each.task.metric} ({each.how()}):")
        before = [math.nan if each.frozen is None else float(each.frozen.main.value[v.column]) for v in variants]
        after = [float(each.tuned.main.value[v.column]) for v in variants]
        found = sorted(
            zip(variants, before, after, strict=True), key=lambda row: -row[2] if row[2] == row[2] else math.inf
        )
        yield f"{'before':>6}  {'after':>6}  {'gain':>6}  plan"
        for variant, old, new in found:
            name = "full model" if variant.column == each.study.full else variant.label
            yield f"{_decimals(old):>6}  {_decimals(new):>6}  {_difference(new - old):>6}  {_clip(name, WIDTH - 24)}"
        yield ""


def _decimals(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:z.3f}"


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _sentence(title: str, measured: Measurements, answers: Sequence[Answer]) -> str:
    numbers: Counter[str] = Counter(answer.verdict if answer.asked else NOT_ASKED for answer in answers)
    parts = [f"{numbers[HOLDS]} hold{'s' * (numbers[HOLDS] == 1)}"]
    for kind, one, several in (
        (IN_PART, "holds in part", "hold in part"),
        (DOES_NOT_HOLD, "does not", "do not"),
        (OPEN, "is open", "are open"),
        (NOT_ASKED, "is not asked", "are not asked"),
    ):
        if numbers[kind]:
            parts.append(f"{numbers[kind]} {one if numbers[kind] == 1 else several}")
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
    for answer in (answer for answer in answers if answer.asked):
        head = f"{answer.question.number}  {answer.verdict:{width}}  "
        text = answer.question.claim if answer.verdict != OPEN else f"{answer.question.claim} {answer.lead}"
        yield from _wrapped(text, head, " " * len(head))
    if rest := not_asked(answers):
        yield from ["", *_wrapped(rest)]


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
