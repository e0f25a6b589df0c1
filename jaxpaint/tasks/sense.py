"""Whether a document's choices and right answer make sense.

lm-eval scores a document whose label is beyond its choices as answered wrongly, with a warning in its log; a mistake in
the data would look like a weak model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task


def refuse_nonsense(task: Task, chosen: Sequence[int] | None = None) -> None:
    """From now on the task refuses, by its number, a document that it would score senselessly.

    `chosen` are the numbers of the documents that are asked; None for all.
    """
    construct: Callable[..., Any] = task.construct_requests

    @functools.wraps(construct)
    def checked(doc: Any, *arguments: Any, **keywords: Any) -> Any:
        problem = _problem(task, doc)
        if problem:
            place = keywords["metadata"][1]
            where = f"task {task.config.task!r}, document {place if chosen is None else chosen[place]}"
            raise UserError(f"{where}: {problem}; correct the data or leave it out")
        return construct(doc, *arguments, **keywords)

    task.construct_requests = checked  # type: ignore[method-assign]


def _problem(task: Task, doc: Any) -> str | None:
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = task.doc_to_choice(doc)
        gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
        # A task that reads its results by itself may mean something else by its target.
        return _of_choices(choices) or (None if callable(task.config.process_results) else _of_gold(gold, choices))
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "generate_until":
        if task.config.doc_to_choice is not None:
            choices = task.doc_to_choice(doc)
            return _of_choices(choices) or _of_gold(target, choices)
        if _is_missing(target) or (isinstance(target, list) and (not target or any(map(_is_missing, target)))):
            return f"its right answer is {target!r}"
        return None
    if not isinstance(target, str):
        return f"the text to score is {target!r}, not text"
    return None


def _of_choices(choices: Any) -> str | None:
    if isinstance(choices, str) or not isinstance(choices, Sequence) or not len(choices):
        return f"its choices are {_shown(choices)}, not a list of texts"
    wrong = next((choice for choice in choices if not isinstance(choice, str) or not choice), None)
    if wrong is not None or None in choices:
        return f"one of its choices is {wrong!r}, not a text"
    return None


def _of_gold(gold: Any, choices: Sequence[str]) -> str | None:
    """A label counts from 0; a text must be one of the choices; several right answers are a list of labels."""
    each = gold if isinstance(gold, list) else [gold]
    if not each:
        return "it has no right answer"
    for one in each:
        if isinstance(one, str) and not isinstance(gold, list):
            if one not in choices:
                return f"its right answer {one!r} is none of its choices {_shown(choices)}"
        elif not isinstance(one, int | float) or one != int(one if math.isfinite(one) else 0):
            return f"its right answer is {one!r}, not the number of a choice"
        elif not 0 <= one < len(choices):
            return f"its right answer is choice {one}, and its {len(choices)} choices are 0 to {len(choices) - 1}"
    return None


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
