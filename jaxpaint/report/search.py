"""What a search found as a table and in words, from what the store keeps of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from jaxpaint.base.files import write_whole
from jaxpaint.base.words import count
from jaxpaint.report.data import Study
from jaxpaint.report.tables import Table, Value, csv_text
from jaxpaint.results.search import FRONT, SearchResult, verdict

LONGEST = 44  # characters of a plan in the terminal


@dataclass(frozen=True)
class SearchSummary:
    """A search's outcome for the terminal: what it took, the front, and what is confirmed."""

    result: SearchResult

    def __str__(self) -> str:
        return "\n".join([work(self.result), "", *grid(self.result), "", *verdict(self.result)])


def work(result: SearchResult) -> str:
    """How many plans were looked at, and what their shared beginnings saved, in words."""
    done = f"{count(result.compared, 'plan')} looked at within {result.setting.budget} and on the way there"
    if not result.executed:
        return done
    times = result.separate / result.executed
    return f"{done}; the store's scores took {times:.1f} times fewer layer applications than one by one"


def grid(result: SearchResult) -> list[str]:
    """The front and what it is held against, line by line; a > before the winner."""
    is_timed = any(each.latency is not None for each in result.found)
    scores = "search", "held out", "± se", "vs ref.", "± se", "p"
    rows = [("", "cost", "depth", *(["ms"] * is_timed), *scores, "plan")]
    for each in result.found:
        beside = ("-", "-") if each.against is None else (f"{each.against.value:+.3f}", f"{each.against.stderr:.3f}")
        mark = ">" if each.plan == result.winner else ""
        numbers = (f"{each.search.value:+.3f}", f"{each.held_out.value:+.3f}", f"{each.held_out.stderr:.3f}")
        p = f"{each.p:.2g}" if each.role == FRONT else "-"
        text = each.plan if len(each.plan) <= LONGEST else f"{each.plan[: LONGEST - 1]}…"
        name = f"{text} ({each.name})" if each.name else text
        took = [] if not is_timed else ["-" if each.latency is None else f"{1000 * each.latency:.4g}"]
        rows.append((mark, f"{each.cost:g}", f"{each.depth:g}", *took, *numbers, *beside, p, name))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join((*(cell.rjust(width) for cell, width in zip(row[:-1], widths, strict=False)), row[-1])).rstrip()
        for row in rows
    ]


def search_table(result: SearchResult, milliseconds: Mapping[str, float]) -> Table:
    """The front with every digit; `milliseconds` to the first new token are of those plans that were timed."""
    rows: list[tuple[Value, ...]] = []
    for each in result.found:
        beside = (None, None) if each.against is None else (each.against.value, each.against.stderr)
        rows.append(
            (
                *("winner" if each.plan == result.winner else each.role, each.name, each.plan, each.cost, each.depth),
                *(each.search.value, each.search.stderr, each.held_out.value, each.held_out.stderr),
                *(each.held_out.low, each.held_out.high, each.metric.value, each.metric.stderr, *beside),
                *(each.p if each.role == FRONT else None, each.shrinkage.value, each.shrinkage.stderr),
                milliseconds.get(each.plan),
                None if each.latency is None else 1000 * each.latency,
            )
        )
    columns = (
        "role", "name", "plan", "cost", "depth", "search", "search stderr", "held out", "held out stderr", "low",
        "high", "metric", "metric stderr", "against reference", "against stderr", "p (Holm)", "shrinkage",
        "shrinkage stderr", "ms to the first token", "ms a call",
    )  # fmt: skip
    title = (
        f"Search within {result.setting.budget}: score less the full model's (nats of the right answer), "
        f"{result.compared:,} plans on {result.setting.documents} documents, "
        f"{result.finalists} finalists on {result.setting.held_out} held-out ones"
    )
    return Table("search", title, columns, tuple(rows))


def write_csv(result: SearchResult, file: Path) -> None:
    """The front as CSV. Raises UserError where the file cannot be written."""
    write_whole(csv_text(search_table(result, {})), file)


def milliseconds(study: Study) -> Mapping[str, float]:
    """To the first new token, by plan, under the setting that most of the study's plans were timed under."""
    settings = Counter(each.latency.setting for each in study.latencies)
    if not settings:
        return {}
    ((setting, _),) = settings.most_common(1)
    timed = (each for each in study.latencies if each.latency.setting == setting)
    return {study.plans[each.column].text: 1000 * each.latency.first.median for each in timed}


def search_tables(study: Study) -> list[Table]:
    """Of each search in the store, under a name of its own."""
    tables = [search_table(result, milliseconds(study)) for result in study.searches]
    return [replace(table, name=f"{table.name}-{n}") if n > 1 else table for n, table in enumerate(tables, 1)]
