"""What a model does for those who ask: scoring and writing, for all that wait at once where that shares work.

Texts asked of the same plans go together, so that nothing is computed that nobody asked for, and what texts and plans
share is computed once. Drawn texts go by their own request alone: a draw depends on a prompt's place among the others
(`jaxpaint.generation.sampling`), and equal seeds must give equal texts whoever else asks.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from jaxpaint.engine.model import Model
from jaxpaint.engine.token_scores import TokenScores, token_scores
from jaxpaint.generation import Continuation, Prompt, Sampling, generate
from jaxpaint.generation.sampling import GREEDY
from jaxpaint.plans.plan import Plan

# Told of a text by its place in the job, and the tokens just written.
Told: TypeAlias = Callable[[int, tuple[int, ...]], None]


@dataclass(frozen=True)
class Score:
    """Texts to score, and how many of the most likely tokens are wanted at each place."""

    texts: tuple[tuple[int, ...], ...]
    best: int = 1

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Write:
    """Prompts to go on from."""

    prompts: tuple[Prompt, ...]
    sampling: Sampling

    def __len__(self) -> int:
        return len(self.prompts)


@dataclass(eq=False)
class Job:
    """Work under a plan. `done` gets a list with `TokenScores` or `Continuation`s, or is cancelled by who asked."""

    plan: Plan
    work: Score | Write
    on_tokens: Told | None = None
    done: Future[list[Any]] = field(default_factory=Future)
    _found: dict[int, Any] = field(default_factory=dict)

    def found(self, place: int, result: TokenScores | Continuation) -> None:
        self._found[place] = result
        if len(self._found) == len(self.work):
            with suppress(InvalidStateError):  # cancelled meanwhile
                self.done.set_result([self._found[index] for index in range(len(self.work))])

    def failed(self, error: BaseException) -> None:
        with suppress(InvalidStateError):
            self.done.set_exception(error)


Asker: TypeAlias = tuple[Job, int]  # and the place in its work


@dataclass
class Group:
    """Texts and plans that go together, all with all, and who asked for each of them."""

    texts: list[Any]
    plans: list[Plan]
    askers: dict[tuple[int, int], list[Asker]]  # plan and text, by index

    @property
    def jobs(self) -> set[Job]:
        return {job for askers in self.askers.values() for job, _ in askers}

    @property
    def is_wanted(self) -> bool:
        return not all(job.done.done() for job in self.jobs)


class _Unwanted(Exception):
    """Everybody who asked has left."""


def do(model: Model, jobs: Sequence[Job]) -> None:
    """Does all that is still wanted; what fails is told to those who asked for it, and stops nobody else's."""
    scoring: dict[int, list[tuple[Job, tuple[tuple[int, ...], ...]]]] = {}
    greedy: list[tuple[Job, tuple[Prompt, ...]]] = []
    drawn: list[tuple[Job, Write]] = []
    for job in (job for job in jobs if not job.done.done()):
        match job.work:
            case Score(texts, best):
                scoring.setdefault(best, []).append((job, texts))
            case Write(prompts, sampling) if not sampling.temperature:
                greedy.append((job, prompts))
            case Write():
                drawn.append((job, job.work))
    for best, asked in scoring.items():
        for group in shared(asked):
            _tried(group, partial(_score, model, group, best))
    for group in shared(greedy):
        _tried(group, partial(_write, model, group, GREEDY))
    for sampling, group in _drawn(drawn):
        _tried(group, partial(_write, model, group, sampling))


def shared(asked: Iterable[tuple[Job, Sequence[Hashable]]]) -> list[Group]:
    """Groups of the texts that are asked of the same plans: each text under each of its plans once."""
    by_text: dict[Hashable, dict[Plan, list[Asker]]] = {}
    for job, texts in asked:
        for place, text in enumerate(texts):
            by_text.setdefault(text, {}).setdefault(job.plan, []).append((job, place))
    groups: dict[frozenset[Plan], Group] = {}
    for text, by_plan in by_text.items():
        group = groups.setdefault(frozenset(by_plan), Group([], list(by_plan), {}))
        for index, plan in enumerate(group.plans):
            group.askers[index, len(group.texts)] = by_plan[plan]
        group.texts.append(text)
    return list(groups.values())


def _drawn(asked: Iterable[tuple[Job, Write]]) -> Iterable[tuple[Sampling, Group]]:
    """A group for each request, or several that differ in their plans alone."""
    by_work: dict[Write, dict[Plan, list[Job]]] = {}
    for job, work in asked:
        by_work.setdefault(work, {}).setdefault(job.plan, []).append(job)
    for work, by_plan in by_work.items():
        askers = {
            (index, place): [(job, place) for job in jobs]
            for index, jobs in enumerate(by_plan.values())
            for place in range(len(work))
        }
        yield work.sampling, Group(list(work.prompts), list(by_plan), askers)


def _tried(group: Group, work: Callable[[], None]) -> None:
    try:
        if group.is_wanted:
            work()
    except _Unwanted:
        return
    except Exception as error:  # whatever it is, the next request may be another
        for job in group.jobs:
            job.failed(error)


def _score(model: Model, group: Group, best: int) -> None:
    for plan, of_plan in enumerate(token_scores(model, group.texts, group.plans, best=best)):
        for text, scores in enumerate(of_plan):
            for job, place in group.askers[plan, text]:
                job.found(place, scores)


def _write(model: Model, group: Group, sampling: Sampling) -> None:
    def tell(plan: int, prompt: int, tokens: tuple[int, ...]) -> None:
        if not group.is_wanted:
            raise _Unwanted
        # Plans that are equal write the same, so each stands here once.
        for job, place in group.askers[plan, prompt]:
            if job.on_tokens and not job.done.done():
                job.on_tokens(place, tokens)

    watched = any(job.on_tokens for job in group.jobs)
    on_tokens = tell if watched else None
    # Lengths round up to few, so that requests share executables.
    most = max(prompt.max_new_tokens for prompt in group.texts)
    texts = generate(
        model, group.texts, group.plans, sampling=sampling, room=1 << (most - 1).bit_length(), on_tokens=on_tokens
    )
    for found in texts:
        for job, place in group.askers[found.plan, found.prompt]:
            job.found(place, found)
        if not group.is_wanted:
            raise _Unwanted
