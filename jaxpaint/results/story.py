"""The story of one prompt under one plan: what each step says, reads and needs. As it is computed, shown and kept."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import SETS, nested
from jaxpaint.results.kinds import STORY

# Of the strongest change, from which a window beside it belongs to where a key set is read.
MUCH = 0.5
LEAST = 5.0  # per cent of the answer's probability: less is nothing


@dataclass(frozen=True)
class StorySetting:
    """What of a story is the same under all plans."""

    prompt: str
    subject: str
    answer: str
    before: str
    bos: bool
    size: int


@dataclass(frozen=True, eq=False)
class Story:
    """One prompt under one plan.

    The states are one more than the steps, and `depths` tells how many events of the plan's clock came before each.
    `answer` is the plan's own most likely next token. `said` is what the logit lens has on top of each state at each
    token of the prompt, `said_logprob` and `answer_logprob` the log-probabilities of that and of the answer, in nats.
    `reads` is what attention of the last token to each token writes of the answer's logit at each depth, and
    `feed_forward` what feed-forwards do; `change` is that of the answer's probability, in per cent, where the last
    token does not attend to a key set in the window around a depth.
    """

    plan: Plan
    tokens: tuple[str, ...]
    sets: tuple[tuple[int, ...], ...]
    answer: str
    labels: tuple[str, ...]
    depths: tuple[int, ...]
    said: tuple[tuple[str, ...], ...]
    said_logprob: Float[np.ndarray, "states S"]
    answer_logprob: Float[np.ndarray, "states S"]
    reads: Float[np.ndarray, "depths S"]
    feed_forward: Float[np.ndarray, " depths"]
    change: Float[np.ndarray, "depths sets"]

    @property
    def probability(self) -> float:
        """Of the answer, in the end."""
        return math.exp(self.answer_logprob[-1, -1])

    @property
    def appears(self) -> int | None:
        """The number of the first state from which on the last token's lens has the answer on top; None: of none."""
        found = None
        for number, said in reversed(list(enumerate(self.said))):
            if said[-1] != self.answer:
                break
            found = number
        return found

    def read_at(self, key: int) -> tuple[int, int] | None:
        """The depths from which to which a key set is read: windows around the strongest one that change half as much.

        None where none lowers the answer's probability by more than `LEAST` per cent.
        """
        change = self.change[:, key]
        if not len(change) or change.min() > -LEAST:
            return None
        little = np.flatnonzero(change > MUCH * change.min())
        strongest = int(change.argmin())
        before, after = little[little < strongest], little[little > strongest]
        return int(before[-1]) + 1 if len(before) else 0, int(after[0]) - 1 if len(after) else len(change) - 1

    @property
    def value(self) -> list[Any]:
        """As it is stored: texts and numbers in lists, None in place of numbers that are not finite."""
        return nested([getattr(self, field.name) for field in fields(self) if field.name != "plan"])

    @classmethod
    def read(cls, plan: str, value: Any) -> Story:
        """Of a stored `value`. Raises ValueError or TypeError for another one."""
        tokens, sets, answer, labels, depths, said, *numbers = value
        arrays = [np.array(each, np.float64) for each in numbers]
        of_sets = tuple(tuple(map(int, places)) for places in sets)
        texts = tuple(map(tuple, said))
        return cls(Plan.parse(plan), tuple(tokens), of_sets, answer, tuple(labels), tuple(depths), texts, *arrays)


def sentences(story: Story) -> Iterator[str]:
    """What happens, in words."""
    yield f"{story.answer!r} in the end, with a probability of {story.probability:.2f}."
    subject, rest, _ = range(len(SETS))
    for key, name in ((rest, "the rest of the prompt"), (subject, "the subject")):
        found = story.read_at(key)
        if found is None:
            yield f"No window of steps without {name} lowers that by {LEAST:g} per cent."
            continue
        strongest = int(story.change[:, key].argmin())
        where = f"step {found[0]}" if found[0] == found[1] else f"steps {found[0]} to {found[1]}"
        amount = story.change[strongest, key]
        yield f"It needs {name} at {where}, most around step {strongest}: {amount:+.0f} per cent without it."
    if story.appears is None:
        yield "No state before the end has it on top at the last token."
    elif story.appears == 0:
        yield "The last token's embedding has it on top already."
    else:
        before = story.depths[story.appears]
        yield f"It is on top at the last token once {before} of {story.depths[-1]} steps have run, and stays."


@dataclass(frozen=True, eq=False)
class StoryRow:
    """A plan of the store, by its id, and a story under it."""

    plan: int
    setting: StorySetting
    story: Story


def stored_stories(connection: sqlite3.Connection, model: int) -> list[StoryRow]:
    """A model's, inside the caller's `reading`, in the order of settings and plans. Other forms are passed over."""
    rows: Sequence[tuple[int, str, str, str]] = connection.execute(
        "SELECT plan, text, settings, value FROM analyses JOIN plans ON plans.id = plan WHERE model = ? AND name = ? "
        "ORDER BY settings, plan",
        (model, STORY),
    ).fetchall()
    found = []
    for plan, text, settings, value in rows:
        known: Mapping[str, Any] = json.loads(settings)
        if known.keys() == {field.name for field in fields(StorySetting)}:
            try:
                found.append(StoryRow(plan, StorySetting(**known), Story.read(text, json.loads(value))))
            except (TypeError, ValueError):  # of another version
                continue
    return found
