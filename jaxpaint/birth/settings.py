"""What `jaxpaint birth` does: its options as a value, and the arms that come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from jaxpaint.base.errors import UserError
from jaxpaint.birth.arms import Arm, LossOver
from jaxpaint.birth.data import DataSettings
from jaxpaint.birth.layers import NEVER
from jaxpaint.birth.model import FeedForward, SmallModel, Start
from jaxpaint.birth.train import Training
from jaxpaint.plans.plan import Plan

Kind: TypeAlias = Literal["freezes", "one-layer", "texts", "plans"]
KINDS: tuple[Kind, ...] = ("freezes", "one-layer", "texts", "plans")
FULL = Plan.of(0, 1)
LOOPED = Plan.parse("{0 1}*2")
WATCHED = ("0 1", "1 0", "1", "{0 1}", "{0 1}*2", "{0 1}*3", "sum{0 1}*2", "0 {0 1}")
RARE = 15  # the most frequent tokens that rare triggers are not among
UNFROZEN, ONE, RANDOM, RARE_ARM, BIGRAM, REDRAWN = (
    *("unfrozen", "one trigger", "random triggers", "rare triggers", "bigram outputs", "outputs redrawn"),
)
FIRST_ALONE, SECOND_ALONE, CONTROL = "layer 0 alone", "layer 1 alone", f"under {LOOPED}"


@dataclass(frozen=True)
class Settings:
    """Of a whole run. Raises UserError, which names the option, for what cannot be."""

    width: int = 128
    length: int = 32
    rows: int = 32
    steps: int = 300
    learning_rate: float = 0.1
    start: Start = "default"
    feed_forward: FeedForward = "none"
    scaled: bool = True
    loss: LossOver = "in-context"
    embeddings: bool = False
    data: DataSettings = field(default_factory=DataSettings)
    seeds: tuple[int, ...] = (0, 1, 2)
    freezes: Mapping[str, int] = field(default_factory=lambda: {"W_O2": 100, "W_K1": 100})
    kinds: tuple[Kind, ...] = KINDS
    plans: tuple[str, ...] = WATCHED
    ideal_b: float = 10.0
    ideal_gamma: tuple[float, ...] = (1.0, 3.0, 10.0)

    def __post_init__(self) -> None:
        for name, least, most in (
            *(("width", 2, 4096), ("length", 4, 4096), ("rows", 1, 65536), ("steps", 10, 10_000_000)),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} is {getattr(self, name)}; expected {least} to {most}")
        if self.steps % self.every:
            raise UserError(f"--steps is {self.steps}; expected a multiple of {self.every}")
        for name, value in (("learning-rate", self.learning_rate), ("ideal-b", self.ideal_b)):
            if not 0 < value < float("inf"):
                raise UserError(f"--{name} is {value}; expected a number above 0")
        texts = tuple(str(Plan.parse(plan).validate(2)) for plan in self.plans)
        object.__setattr__(self, "plans", tuple(dict.fromkeys(texts)))

    @property
    def every(self) -> int:
        """Steps between measurements."""
        return 10

    @property
    def model(self) -> SmallModel:
        return SmallModel(self.width, self.length, start=self.start, feed_forward=self.feed_forward, scaled=self.scaled)

    @property
    def training(self) -> Training:
        return Training(
            self.steps, self.rows, self.learning_rate, every=self.every, watched=tuple(map(Plan.parse, self.plans))
        )

    def groups(self) -> dict[str, tuple[Arm, ...]]:
        """Arms that train together: those of two events a step, and, twice as costly, those under the looped plan."""
        base = Arm(UNFROZEN, data=self.data, loss=self.loss, embeddings=self.embeddings)
        arms = [base]
        if "freezes" in self.kinds:
            arms += [
                replace(base, name=frozen_name(name, step), frozen_until={name: step})
                for name, step in self.freezes.items()
            ]
        if "texts" in self.kinds:
            uniform = replace(self.data, outputs="uniform")
            changed = {
                ONE: replace(self.data, count=1),
                RANDOM: replace(self.data, triggers="random"),
                RARE_ARM: replace(self.data, triggers="fixed", skip=RARE),
                BIGRAM: replace(self.data, outputs="bigram"),
                REDRAWN: replace(self.data, redrawn=True),
            }
            arms += [
                replace(base, name=name, data=data, test=uniform if name == BIGRAM else None)
                for name, data in changed.items()
                if data != self.data
            ]
        of_seeds = [replace(arm, seed=seed) for arm in arms for seed in self.seeds]
        if "one-layer" in self.kinds:
            alone = ((FIRST_ALONE, Plan.of(0)), (SECOND_ALONE, Plan.of(1)))
            of_seeds += [replace(base, name=name, plan=plan, seed=self.seeds[0]) for name, plan in alone]
        found = {"full": tuple(of_seeds)}
        if "plans" in self.kinds:
            found["looped"] = tuple(replace(base, name=CONTROL, plan=LOOPED, seed=seed) for seed in self.seeds)
        return found


def frozen_name(name: str, step: int) -> str:
    """Of an arm with one parameter frozen."""
    return f"{name} frozen" if step >= NEVER else f"{name} frozen to {step}"
