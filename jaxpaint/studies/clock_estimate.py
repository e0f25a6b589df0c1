"""What the clock of facts takes: regressions on the host, and what they read off plans' states."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.ridge import PENALTIES, Ridge
from jaxpaint.analysis.roles import (
    Clocks,
    Regression,
    Role,
    clocked,
    held_out_facts,
    places_of,
    regression,
    states_bytes,
)
from jaxpaint.base.words import count
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import ROLES
from jaxpaint.studies.estimate import Line
from jaxpaint.studies.flow_timing import Piece, Seconds, timed

# Of a regression that is timed: a larger one's time is told from its operations.
LARGEST_WIDTH, LARGEST_SAMPLES = 512, 4096
EIGENVECTORS = 25  # operations for each of width³


@dataclass(frozen=True)
class Shape:
    """Of a regression: samples of the fit and those held out, dimensions of inputs and outputs."""

    fit: int
    held: int
    width: int
    outputs: int

    @property
    def span(self) -> int:
        """Dimensions that it is solved in."""
        return min(self.fit, self.width)

    @property
    def operations(self) -> int:
        """Multiplications and additions, about."""
        own, samples = self.span, self.fit + self.held
        basis = 4 * self.width * own**2 if own < self.width else 0
        moments = 2 * samples * own * (self.width + own + self.outputs)
        return basis + moments + EIGENVECTORS * own**3 + 4 * len(PENALTIES) * own**2 * self.outputs

    @property
    def kept_bytes(self) -> int:
        """Basis and weights, in float64."""
        return 8 * self.span * (self.width + self.outputs)

    def seconds(self) -> float:
        """From random samples."""
        width = min(self.width, LARGEST_WIDTH)
        fit, held = (max(2, min(LARGEST_SAMPLES, each * width // self.width)) for each in (self.fit, self.held))
        small = Shape(fit, held, width, min(self.outputs, width))
        draw = np.random.default_rng(0).standard_normal
        x, y = (draw((each, width)) for each in (fit, held))
        ends = (draw((each, small.outputs)) for each in (fit, held))
        fitted, held_out = ends
        times = []
        for _ in range(2):
            start = time.perf_counter()
            regression(x, fitted, y, held_out)
            times.append(time.perf_counter() - start)
        return min(times) * self.operations / small.operations


@dataclass(frozen=True)
class ClockWork:
    """Of each of `ROLES` a clock over all `depths`, and of each of these a map to the last one; `held_out` facts are
    read. `fits` is how often it is fitted.
    """

    fits: int
    held_out: int
    facts: int
    depths: int
    clocks: tuple[Shape, ...]
    maps: tuple[Shape, ...]
    states_bytes: int

    @classmethod
    def of(cls, model: Source, to_ask: Asked, fits: int) -> ClockWork:
        held, depths, width = held_out_facts(to_ask), model.num_layers + 1, model.config.hidden_size
        places = np.array([[len(each) for each in places_of(prompt)] for prompt in to_ask.prompts])
        tokens = np.stack([places[~held].sum(axis=0), places[held].sum(axis=0)], axis=-1).tolist()
        return cls(
            fits=fits,
            held_out=int(held.sum()),
            facts=len(held),
            depths=depths,
            clocks=tuple(Shape(depths * fit, depths * kept, width, 1) for fit, kept in tokens),
            maps=tuple(Shape(fit, kept, width, width) for fit, kept in tokens),
            states_bytes=states_bytes(model, int(places.sum())),
        )

    @property
    def regressions(self) -> int:
        return len(ROLES) * (1 + self.depths)

    @property
    def bytes(self) -> int:
        """On the host: states, all maps, and a role's states in float64, as they are and scaled."""
        of_role = max(2 * 8 * (each.fit + each.held) * each.width for each in self.clocks)
        return self.states_bytes + of_role + self.depths * sum(each.kept_bytes for each in self.maps)

    def line(self, states: int) -> Line:
        """What will be made, with so many states of plans to read."""
        often = f", {self.fits} times" if self.fits > 1 else ""
        fitted = f"{count(self.regressions, 'regression')} on {count(self.facts - self.held_out, 'fact')}{often}"
        told = f"{fitted}; {count(states, 'state')} of {count(self.held_out, 'other fact')} read"
        numbers = {"regressions": self.regressions, "clock_facts": self.held_out, "clock_states": states}
        return Line("clock", told, numbers)

    def seconds(self) -> float:
        """Of one fit's regressions."""
        clocks, maps = (sum(each.seconds() for each in shapes) for shapes in (self.clocks, self.maps))
        return clocks + self.depths * maps


def read_seconds(piece: Piece, work: ClockWork) -> Seconds:
    """Of one fact, for each step: what clocks and maps of the same sizes read, were there one of every role."""
    facts = piece.facts.prompts
    nothing = np.zeros(len(facts))
    roles = []
    for clock, each in zip(work.clocks, work.maps, strict=True):
        to_depth, to_end = (
            Regression(
                np.eye(own.width, own.span),
                Ridge(np.zeros((own.span, own.outputs)), np.full(own.outputs, 0.5), 0.0, 1.0),
            )
            for own in (clock, each)
        )
        roles.append(Role(to_depth, (to_end,) * work.depths, nothing, nothing))
    clocks = Clocks(tuple(roles), facts)

    def read(plan: Plan) -> None:
        clocked(piece.model, clocks, plan)

    return timed(read).each(len(facts))
