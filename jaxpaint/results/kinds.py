"""What kind of result a row is: names and keys of settings that say so, and which of lm-eval's filters counts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from typing import Any

# Among a task's settings: other settings are another task.
KV = "kv"  # the cache of a generative task, "exact" or "mean"
GENERATION = "generation"  # what a generative task's checkpoint itself says of how it is written with
CHAT_TEMPLATE = "chat_template"  # a digest of what prompts were written by
FINETUNED = "finetuned"  # how the model was trained on the task before it was scored
TRAINED_ON = "trained_on"  # a digest of the training examples
FROZEN = "frozen"  # of GLUE: whether the encoder was left as it is under its classifier
LATENCY = "latency"  # of analyses: what took how long, in place of what hidden states are (jaxpaint.results.latency)
FLOW = "flow"  # of analyses: how facts flow (jaxpaint.results.flow), and how one of them does (jaxpaint.results.story)
STORY = "story"
MEASURED = "measured"  # of analyses: what was measured of the full model to propose plans from (jaxpaint.studies)
SEARCH = "search"  # of analyses: what a search for plans found (jaxpaint.results.search)
CLOCK = "clock of plans"  # of analyses: what a plan's parts take on a machine (jaxpaint.search.clock)
# Analyses that are no numbers by state or step of texts, and are read by modules of their own.
APART = (LATENCY, FLOW, STORY, MEASURED, SEARCH, CLOCK)
# Those that are no results of a model.
BESIDE = (LATENCY, MEASURED, SEARCH, CLOCK)
STDERR = "_stderr"  # ends the name of an analysis's standard errors, which are an analysis of their own
LEAST_R2 = 0.9  # of a clock's fit on what it had not seen, below which it tells nothing
FIT = "_fit"  # ends the name of a fit's R² on texts that it had not seen, likewise
# A metric of GLUE's cells: of answering every example with the most frequent class of the training examples.
MAJORITY = "majority_score"
PREFERRED = ("none", "strict-match")


def kv(settings: str) -> str | None:
    """What a cache held while the task's texts were written, exact or mean; None where none were.

    `settings` here and below are as the store keeps them, canonical JSON.
    """
    return json.loads(settings).get(KV)


def is_chat(settings: str) -> bool:
    """Whether prompts were written by the checkpoint's chat template."""
    return CHAT_TEMPLATE in json.loads(settings)


def is_finetuned(settings: str) -> bool:
    """Whether the model was trained on the task before it was scored."""
    return FINETUNED in json.loads(settings)


def split_finetuned(settings: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """How the model was trained on the task, and the settings of the same task without training."""
    rest = json.loads(settings)
    return rest.pop(FINETUNED), rest


def glue_training(settings: str) -> Mapping[str, Any] | None:
    """The settings of a GLUE study but for its examples; None of any other task."""
    rest = json.loads(settings)
    return None if rest.pop(TRAINED_ON, None) is None else rest


def main_filter(connection: sqlite3.Connection, task: int, metric: str) -> str:
    """Of the filters that a task's metric is stored under: none, a strict match, or the first in the alphabet."""
    rows = connection.execute(
        "SELECT DISTINCT filter FROM metrics JOIN cells ON cells.id = cell WHERE task = ? AND metric = ?",
        (task, metric),
    )
    return preferred([name for (name,) in rows])


def preferred(filters: Collection[str]) -> str:
    """As `main_filter`, of these."""
    return next((name for name in (*PREFERRED, *sorted(filters)) if name in filters), "none")
