"""What `--patches`, `--sublayers` and `--clock` add to a flow of facts: how much, in what memory, how long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jaxpaint.analysis.asking import CLOCK, PATCHES, SUBLAYERS, Asked
from jaxpaint.analysis.patching import donors, extracts_with
from jaxpaint.analysis.runs import batches
from jaxpaint.analysis.subjects import first_facts, late_without, windows_without
from jaxpaint.base.words import count
from jaxpaint.engine.source import Source
from jaxpaint.plans.events import steps
from jaxpaint.plans.plan import Plan
from jaxpaint.studies.clock_estimate import ClockWork, read_seconds
from jaxpaint.studies.estimate import Line
from jaxpaint.studies.flow_timing import MANY, Piece, Seconds, least_seconds, timed


@dataclass(frozen=True)
class ExtraWork:
    """What is asked on top under plans.

    `runs` are ordinary runs of each fact, one for each plan, by their events; `donors` the states that each puts in
    place of later ones, in each of `sets`; `without` the runs of each of `subjects` without a sublayer, of each plan.
    """

    facts: int
    events: tuple[int, ...]
    steps: tuple[int, ...]
    donors: tuple[int, ...]
    sets: int
    subjects: int
    without: int
    clock: ClockWork | None
    extras: tuple[str, ...]

    @classmethod
    def of(cls, model: Source, to_ask: Asked, plans: Sequence[Plan], fits: int) -> ExtraWork:
        """`fits` is how often the clock is fitted: once for each part of plans that a store keeps together."""
        subjects, lengths = len(first_facts(to_ask)), tuple(len(steps(plan)) for plan in plans)
        extras = to_ask.setting.extras
        return cls(
            facts=len(to_ask.facts),
            events=tuple(plan.applications for plan in plans),
            steps=lengths,
            donors=tuple(len(donors(length)) for length in lengths),
            sets=len(to_ask.prompts[0].sets),
            subjects=subjects,
            without=2 * len(windows_without(model.num_layers)) if subjects > 1 else 0,  # attention, feed-forwards
            clock=ClockWork.of(model, to_ask, fits) if CLOCK in extras else None,
            extras=tuple(each for each in (PATCHES, SUBLAYERS, CLOCK) if each in extras),
        )

    @property
    def patched(self) -> int:
        """Layer applications of each fact, with an earlier state in place of a part of what it reads."""
        return self.sets * sum(events * own for events, own in zip(self.events, self.donors, strict=True))

    @property
    def silenced(self) -> int:
        """Layer applications of each subject in runs without a sublayer."""
        return self.without * sum(self.events)

    def lines(self) -> Iterator[Line]:
        """What will be made."""
        if PATCHES in self.extras:
            told = f"{self.patched:,} applications a fact, in up to {count(max(self.donors), 'earlier state')}"
            yield Line("patches", told, {"patched_applications": self.patched})
        if SUBLAYERS in self.extras:
            runs = f"{count(self.without, 'run')} a plan without a sublayer of some layers"
            told = f"{self.silenced:,} applications for each of {count(self.subjects, 'subject')}, {runs}"
            yield Line("without", told, {"silenced_applications": self.silenced, "silenced_runs": self.without})
        if self.clock is not None:
            yield self.clock.line(sum(self.steps) + len(self.steps))

    def seconds(self, piece: Piece) -> dict[str, float]:
        """Of each of what is asked, from small pieces of it, compilation left out."""
        few = len(piece.facts.facts)
        found = {}
        run = timed(lambda plan: _run(piece, plan)).each(few) if self.extras else Seconds(0, 0)
        plain = sum(map(run.of, self.events))  # of a fact, under all plans
        if PATCHES in self.extras:
            once = max(0.0, least_seconds(lambda plan: _patched(piece, plan), MANY) / few - run.of(MANY))
            found[PATCHES] = self.facts * (plain + self.patched * once / (MANY * self.sets))
        if SUBLAYERS in self.extras:
            numbers = first_facts(piece.facts)

            def without(plan: Plan) -> None:
                late_without(piece.model, piece.facts, plan, numbers, "attention", 0)

            own = timed(without).each(len(numbers))
            found[SUBLAYERS] = self.subjects * self.without * sum(map(own.of, self.events))
        if self.clock is not None:
            read = read_seconds(piece, self.clock)
            state = max(0.0, read.layer - run.layer)  # which a plan gives after each step, of several events or one
            once = plain + sum(self.steps) * state + len(self.steps) * max(0.0, read.rest - run.rest)
            fitted = self.facts * run.of(self.clock.depths - 1) + self.clock.seconds()
            found[CLOCK] = self.clock.fits * fitted + self.clock.held_out * once
        return found


def _run(piece: Piece, plan: Plan) -> None:
    for _, run in batches(piece.model, piece.facts.prompts, plan):
        run.keep("reads", "states")


def _patched(piece: Piece, plan: Plan) -> None:
    for part, run in batches(piece.model, piece.facts.prompts, plan):
        extracts_with(run, part, [0])
