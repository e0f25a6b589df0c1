"""The settings of a search, checked."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.bundled import MODEL
from jaxpaint.base.errors import UserError
from jaxpaint.base.words import count
from jaxpaint.search.budget import Budget
from jaxpaint.search.methods import METHODS
from jaxpaint.studies.spec import StudySpec

PROPOSALS = ("drop-by-influence", "drop-span-by-angle")
"""What is measured on calibration texts: plans to begin with, and to be held against."""
DEFAULT_METHODS = ("greedy", "evolution")


@dataclass(frozen=True)
class Timing:
    """What a latency is of: a call that reads prompts and writes after them, by the median of so many rounds.

    Raises UserError for a number that leaves nothing to measure.
    """

    batch_size: int = 1
    prompt_length: int = 128
    new_tokens: int = 32
    rounds: int = 5

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("prompt_length", 2), ("new_tokens", 2), ("rounds", 1)):
            if (given := getattr(self, name)) < least:
                raise UserError(f"--{name.replace('_', '-')} is {given}; give at least {least}")

    def __str__(self) -> str:
        return f"{count(self.batch_size, 'prompt')} of {self.prompt_length} tokens, {self.new_tokens} new ones each"


@dataclass(frozen=True)
class SearchSpec:
    """What `jaxpaint search` runs: the model, tasks and store of `study`, whose tasks include `held_out_tasks`.

    The methods run one after the other, each from the best plans so far. `held_out` is the share of every other task's
    documents that the search does not see; `plans` how many a method looks at, about, and `width` how many the beam
    keeps; `finalists` how many plans of the front are confirmed on held-out documents. `timing` is what a latency for a
    budget is of. With `study.strategies` (of
    `PROPOSALS`) their plans are begun with.

    Raises UserError for an unknown method, no task to search on, or a number out of range.
    """

    study: StudySpec
    budget: Budget
    methods: tuple[str, ...] = DEFAULT_METHODS
    held_out_tasks: tuple[str, ...] = ()
    held_out: float = 0.5
    plans: int = 200
    width: int = 4
    finalists: int = 8
    seed: int = 0
    timing: Timing = Timing()

    def __post_init__(self) -> None:
        for name in self.methods:
            if name not in METHODS:
                near = difflib.get_close_matches(name, METHODS, n=1)
                hint = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(METHODS)}"
                raise UserError(f"unknown method {name!r}: {hint}")
        if not self.methods:
            raise UserError(f"no method is given; the methods are {', '.join(METHODS)}")
        if not self.searched:
            raise UserError("there is no task to search on; give --tasks lambada_openai,arc_easy")
        if not 0.1 <= self.held_out <= 0.9:
            raise UserError(f"--held-out is {self.held_out:g}; expected a share of the documents from 0.1 to 0.9")
        for name, least in (("plans", 2), ("width", 1), ("finalists", 1), ("seed", 0)):
            if not least <= getattr(self, name) <= 100_000:
                raise UserError(f"--{name} is {getattr(self, name)}; expected {least} to 100,000")

    @property
    def searched(self) -> tuple[str, ...]:
        """The tasks that the search sees documents of."""
        return tuple(name for name in map(str, self.study.tasks) if name not in self.held_out_tasks)


def proposals(model: str, calibration: Path | None) -> tuple[str, ...]:
    """The strategies to begin with: those that measure the model, where there are texts to measure it on."""
    return PROPOSALS if calibration is not None or model == MODEL else ()
