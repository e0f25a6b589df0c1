"""GLUE results in words: titles, what a reader must know, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxpaint.report.data import NOT_FINITE, RUNNING
from jaxpaint.report.glue import GlueStudy

NEAR_MAJORITY = 0.05
"""A full model that beats the most frequent class by less shows little of what strategies lose."""


def titles(glue: Sequence[GlueStudy]) -> list[str]:
    """Numbered where the same encoder was trained with other settings, or on other examples."""
    alike = [f"{each.study.model.name}, GLUE {each.kind}" for each in glue]
    numbers = [alike[: place + 1].count(title) for place, title in enumerate(alike)]
    return [
        f"{title} ({number})" if alike.count(title) > 1 else title for title, number in zip(alike, numbers, strict=True)
    ]


def notes(glue: GlueStudy) -> list[str]:
    """What a reader must know before trusting the figures."""
    scores, counts = glue.scores, glue.study.statuses()
    found = ["Scores are as GLUE has them, not normalised, as in the paper; the average is over the tasks shown."]
    missing = [result.task.name for result in glue.study.results if result.task.name not in scores.tasks]
    if missing:
        found.append(f"Left out, because the full model has no result there: {', '.join(missing)}.")
    full, majority = glue.average("full"), glue.average("majority")
    if full - majority < NEAR_MAJORITY:
        found.append(
            f"The full model's average of {full:.3f} is {'hardly' if full > majority else 'not'} above that of the "
            f"most frequent class, {majority:.3f}: what a strategy loses can hardly be seen."
        )
    uneven = [result.task.name for result in glue.study.results if _is_uneven(result.documents)]
    if uneven:
        found.append(f"Some plans were scored on fewer examples than others: {', '.join(uneven)}.")
    for count, rest in (
        (counts[NOT_FINITE], "not finite (logits overflowed): shown as missing"),
        (counts[RUNNING], "not finished: the report shows what there is"),
    ):
        if count:
            found.append(f"{count} of {counts.total()} results {'is' if count == 1 else 'are'} {rest}.")
    return found


def _is_uneven(documents: np.ndarray) -> bool:
    return len(set(documents[documents > 0].tolist())) > 1


def facts(glue: GlueStudy) -> tuple[tuple[str, str], ...]:
    """What was measured, by name."""
    study, model = glue.study, glue.study.model
    tasks = [f"{result.task.name} ({int(result.documents.max())} examples)" for result in study.results]
    cells = [f"{count} {status}" for status, count in sorted(study.statuses().items())]
    asked = {column for result in study.results for column, status in enumerate(result.status) if status}
    return (
        ("Model", f"{model.source or model.name}{f', revision {model.revision}' if model.revision else ''}"),
        ("Layers", str(model.num_layers)),
        ("Computed in", model.dtype),
        ("Tasks", "; ".join(tasks)),
        ("Training", _training(glue.training)),
        ("Plans", str(len(asked))),
        ("Results", "; ".join(cells)),
        ("Fingerprint", model.fingerprint[:16]),
    )


def _training(settings: Mapping[str, Any]) -> str:
    flat = {
        name: value
        for key, group in settings.items()
        for name, value in (group.items() if isinstance(group, Mapping) else [(key, group)])
    }
    return ", ".join(f"{name.replace('_', ' ')} {_setting(value)}" for name, value in sorted(flat.items()))


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
