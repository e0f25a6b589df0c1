"""report.html: one page that needs no network, from the finding to the figure to the numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxpaint.base import __version__
from jaxpaint.plans.strategies import entry
from jaxpaint.report import finetuned, glue, tables
from jaxpaint.report.across import Compared, across_tables
from jaxpaint.report.analysed import clock_words
from jaxpaint.report.bootstrap import DRAWS
from jaxpaint.report.data import Study, TaskResults, model_facts
from jaxpaint.report.evidence import DOES_NOT_HOLD, OPEN
from jaxpaint.report.figures import SLUG_CHARACTERS, figures_across, paper_figures, study_figures
from jaxpaint.report.figures.glue import glue_figures
from jaxpaint.report.figures.plans import COST, WINDOWS, plan_figures
from jaxpaint.report.findings import Answer, answers, not_asked
from jaxpaint.report.flow_page import FlowSection, flow_parts
from jaxpaint.report.glue import GlueStudy
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.normalise import is_at_chance
from jaxpaint.report.paired import PlanScores
from jaxpaint.report.parts import MOST_ROWS, Listing, Picture, pictures, saved
from jaxpaint.report.plans_page import MOST_ROWS as MOST_PLANS
from jaxpaint.report.plans_page import PlansBox, facts, plans_box
from jaxpaint.report.search import search_tables
from jaxpaint.report.story_picture import StoryBox
from jaxpaint.report.summary import across_summary, glue_summary, summary
from jaxpaint.report.tables import Table
from jaxpaint.results.reading import NOT_FINITE, RUNNING, TaskRow

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """One study on the page: what it is, its plans, the questions that it asks, and all else. `first` are the tables
    that go before the questions.
    """

    anchor: str
    title: str
    head: tuple[tuple[str, str], ...]
    plans: PlansBox | None
    first: tuple[Listing, ...]
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    pictures: tuple[Picture, ...]
    listings: tuple[Listing, ...]
    answers: tuple[tuple[Answer, tuple[Picture, ...]], ...] = ()
    not_asked: str = ""
    flows: tuple[FlowSection, ...] = ()
    stories: tuple[StoryBox, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()

    @property
    def contents(self) -> list[tuple[str, str]]:
        """What the list of contents leads to."""
        parts = (
            ("plans", "Plans, best first", self.plans),
            ("questions", "The paper’s questions", self.answers),
            *((f"q{answer.question.number}", answer.question.text, True) for answer, _ in self.answers),
            ("figures", "More figures" if self.answers else "Figures", self.pictures),
            ("flow", "How facts flow", self.flows or self.stories),
            ("numbers", "Numbers", True),
        )
        return [(f"{self.anchor}-{part}", title) for part, title, there in parts if there]


def write_page(studies: Sequence[Study], store: str, folder: Path) -> list[str]:
    """Draws and writes everything into `folder`: report.html, figures/ and tables/. Returns the studies' summaries.

    Studies without the full model are named on the page and left out.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    studies, tuned = finetuned.split(studies)
    studies, on_glue = glue.split(studies)
    shown = [Measurements.of(study, finetuned.of_study(tuned, study)) for study in studies if study.has_full_model]
    found = [_answers(measured) for measured in shown]
    titles = _titles(studies)
    shown_glue = [each for each in on_glue if each.scores.tasks]
    names = _prefixes([*(titles[id(measured.study)] for measured in shown), *glue.titles(shown_glue)])
    across = pictures(figures_across(shown), "", folder, "")
    elsewhere = [picture.drawn.number for picture in across]
    compared = [Compared(titles[id(m.study)], m, of_study) for m, of_study in zip(shown, found, strict=True)]
    beside = [saved(table, table.texts(), folder, "") for table in across_tables(compared)]
    sections = [
        _section(measured, of_study, folder, elsewhere, *name)
        for measured, of_study, name in zip(shown, found, names, strict=False)
    ]
    sections += [_glue_section(each, folder, *name) for each, name in zip(shown_glue, names[len(shown) :], strict=True)]
    pages = Environment(
        loader=PackageLoader("jaxpaint.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = pages.get_template("page.html").render(
        store=store,
        normalised=any(section.answers for section in sections),
        vega=_vega() if any(section.plans and section.plans.is_explored for section in sections) else (),
        glue=bool(shown_glue),
        written=any(result.task.kv for measured in shown for result in measured.study.results),
        version=__version__,
        draws=DRAWS,
        sections=sections,
        across=across,
        beside=beside,
        left_out=[titles[id(study)] for study in studies if not study.has_full_model]
        + glue.titles([each for each in on_glue if not each.scores.tasks]),
    )
    (folder / "report.html").write_text(text, encoding="utf-8")
    told = [summary(*each) for each in compared]
    return [*told, *across_summary(compared), *map(glue_summary, glue.titles(shown_glue), shown_glue)]


def _vega() -> tuple[Markup, ...]:
    """The libraries that draw the figures to explore, in the order in which they need each other."""
    from markupsafe import Markup

    folder = Path(__file__).with_name("vega")
    texts = ((folder / f"{name}.min.js").read_text(encoding="utf-8") for name in ("vega", "vega-lite", "vega-embed"))
    return tuple(Markup(re.sub(r"//# sourceMappingURL=\S+", "", text).strip()) for text in texts)


def _answers(measured: Measurements) -> tuple[Answer, ...]:
    """To the paper's questions; none where a study asks none of them, or only a search's plans happen to."""
    found = answers(measured)
    asked = [answer for answer in found if answer.asked]
    return found if any(answer.verdict != OPEN for answer in asked) or (asked and not measured.study.searches) else ()


def _section(
    measured: Measurements, found: Sequence[Answer], folder: Path, across: Sequence[str], title: str, prefix: str
) -> Section:
    drawn = pictures(study_figures(measured), measured.study.model.name, folder, prefix)
    by_number = {picture.drawn.number: picture for picture in drawn}
    asked = [answer for answer in found if answer.asked]
    placed = [(answer, tuple(by_number[n] for n in answer.question.figures if n in by_number)) for answer in asked]
    shown = {picture.drawn.number for _, some in placed for picture in some}
    needs = paper_figures() if found else {}
    absent = tuple((number, how) for number, how in needs.items() if number not in (*by_number, *across))
    listings = [
        saved(table, _shown_rows(table, "median", measured.study.looped), folder, prefix)
        for table in tables.study_tables(measured, found)
    ]
    first = [saved(table, table.texts(), folder, prefix) for table in search_tables(measured.study)]
    first += [listing for listing in listings if listing.table.name == "fine-tuned"]
    flows, stories, of_flows = flow_parts(measured.study, folder, prefix)
    return Section(
        anchor=_anchor(prefix),
        title=title,
        head=facts(measured.study),
        plans=_plans(measured.plans, folder, prefix),
        first=tuple(first),
        facts=(*_facts(measured), *(("Fine-tuned on", f"{each.title}: {each.how()}") for each in measured.tuned)),
        notes=tuple(_notes(measured)),
        pictures=tuple(picture for picture in drawn if picture.drawn.number not in shown),
        listings=tuple([listing for listing in listings if listing not in first] + of_flows),
        answers=tuple(placed),
        not_asked=not_asked(found),
        flows=flows,
        stories=stories,
        absent=absent,
    )


def _plans(scores: PlanScores, folder: Path, prefix: str) -> PlansBox | None:
    """None where nothing has a score."""
    if not scores.rows:
        return None
    drawn = pictures(list(plan_figures(scores)), scores.study.model.name, folder, prefix)
    cost = next((picture for picture in drawn if picture.drawn.number == COST), None)
    maps = [picture for picture in drawn if picture.drawn.number == WINDOWS]
    listing = saved(tables.plans_table(scores), [], folder, prefix)
    flipped = tables.flipped_table(scores, MOST_PLANS)
    beside = saved(flipped, [], folder, prefix).csv if flipped.rows else ""
    return plans_box(scores, listing, cost, maps, prefix, beside)


def _glue_section(study: GlueStudy, folder: Path, title: str, prefix: str) -> Section:
    listings = [saved(table, _shown_rows(table, "average"), folder, prefix) for table in tables.glue_tables(study)]
    return Section(
        anchor=_anchor(prefix),
        title=title,
        head=facts(study.study),
        plans=_plans(study.plans, folder, prefix),
        first=(),
        facts=glue.facts(study),
        notes=tuple(glue.notes(study)),
        pictures=tuple(pictures(list(glue_figures(study)), study.study.model.name, folder, prefix)),
        listings=tuple(listings),
    )


def _prefixes(titles: Sequence[str]) -> list[tuple[str, str]]:
    """The sections' titles, each with what begins its anchors and folders; nothing where there is one section."""
    if len(titles) == 1:
        return [(titles[0], "")]
    slugs = [re.sub(r"[^a-z0-9.]+", "-", title.lower())[:SLUG_CHARACTERS].strip("-.") for title in titles]
    return [(title, f"{index}-{slug}") for index, (title, slug) in enumerate(zip(titles, slugs, strict=True), start=1)]


def _anchor(prefix: str) -> str:
    return f"study-{prefix}" if prefix else "study"


def _shown_rows(table: Table, over_tasks: str, looped: int | None = None) -> list[list[str]]:
    """What the page shows of a table: of strategies those over all tasks, and of the longest their beginning."""
    if table.name != "strategies":
        return table.texts()[:MOST_ROWS]
    shown = []
    for row, texts in zip(table.rows, table.texts(), strict=True):
        values = dict(zip(table.columns, row, strict=True))
        if values["task"] == over_tasks and values.get("iterations") in (None, looped):
            shown.append(texts)
    return shown


def _facts(measured: Measurements) -> tuple[tuple[str, str], ...]:
    study = measured.study
    tasks = "; ".join(
        f"{score.task} ({', '.join((*_of(result), f'{score.documents} documents', *_how(result.task)))})"
        for score, result in zip(measured.scores.full, study.counted, strict=True)
    )
    cells = "; ".join(f"{count} {status}" for status, count in sorted(study.statuses().items()))
    seconds = sum(float(result.seconds.sum()) for result in study.results)
    return (
        *model_facts(study.model),
        ("BOS token", study.bos or "not recorded"),
        ("Tasks", tasks or "none"),
        ("Plans", str(len(study.plans))),
        ("Results", cells or "analyses only"),
        ("Device time", f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds:.0f} seconds"),
        ("Fingerprint", study.model.fingerprint[:16]),
    )


def _of(result: TaskResults) -> Iterator[str]:
    """The tasks of a group."""
    if result.group is not None:
        yield f"{len(result.group.tasks)} tasks"


def _how(task: TaskRow) -> Iterator[str]:
    """How a task was asked, and its answers read."""
    yield "several shots" if task.num_fewshot is None else f"{task.num_fewshot}-shot"
    if task.kv:
        yield f"kv={task.kv}"
    if task.filter != "none":
        yield task.filter


def _notes(measured: Measurements) -> list[str]:
    """What a reader must know before trusting the figures."""
    study, scores = measured.study, measured.scores
    own = not any(entry(variant.strategy).in_paper for variant in study.variants if variant.column != study.full)
    what = (
        "plans can hardly be told apart"
        if own
        else "it is left out of the normalised figures, the median and the answers"
    )
    notes = [f"{score.task}: {score.left_out}; {what}." for score in scores.left_out if not own or is_at_chance(score)]
    if not scores.tasks and study.results and not own:
        notes.append("No task can be normalised, so no strategy can be judged; the scores are in the tables.")
    if (words := clock_words(measured)) and DOES_NOT_HOLD in words:
        notes.append(words)
    if len(scores.tasks) == 1 and not own:
        notes.append(f"The median is over one benchmark, {scores.tasks[0]}: it says nothing of others.")
    counts = study.statuses()
    unfinished = "not finished: the report shows what there is"
    if study.searches:
        unfinished = "of plans that a search looked at on some documents: they have no metrics"
    fewer = 0
    for result in study.results if study.full is not None else ():
        fewer += int((~np.isnan(result.main.value) & (result.documents < result.documents[study.full])).sum())
    for count, one, several, rest in (
        (counts[NOT_FINITE], "is", "are", "not finite (logits overflowed): shown as missing, and left out of means"),
        (counts[RUNNING], "is", "are", unfinished),
        (fewer, "covers", "cover", "fewer documents than the full model's: compared on the shared ones"),
    ):
        if count:
            notes.append(f"{count} of {counts.total()} results {one if count == 1 else several} {rest}.")
    benchmarks = [result.task.benchmark for result in study.counted if result.task.name in scores.tasks]
    if len(set(benchmarks)) < len(benchmarks):
        notes.append("Some benchmark was run in several settings, each of which counts in the median.")
    return notes


def _titles(studies: Sequence[Study]) -> dict[int, str]:
    """By the study's id(): the model, and the BOS setting where it ran under several."""
    count = Counter(study.model.name for study in studies)
    several = {name for name, number in count.items() if number > 1}
    return {id(s): s.model.name + (f", BOS {s.bos}" if s.model.name in several else "") for s in studies}
