"""What `jaxpaint birth` does: its options as a value, and the arms that come of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, TypeAlias

from jaxpaint.base.errors import UserError
from jaxpaint.birth.arms import Arm, LossOver
from jaxpaint.birth.data import DataSettings
from jaxpaint.birth.general import GeneralModel
from jaxpaint.birth.layers import NEVER
from jaxpaint.birth.model import FeedForward, Positions, SmallModel, Start
from jaxpaint.birth.train import Optimizer, Training
from jaxpaint.plans.plan import Plan

Kind: TypeAlias = Literal["freezes", "one-layer", "texts", "plans"]
Architecture: TypeAlias = Literal["small", "general"]
KINDS: tuple[Kind, ...] = ("freezes", "one-layer", "texts", "plans")
WATCHED = ("0 1", "1 0", "1", "{0 1}", "{0 1}*2", "{0 1}*3", "sum{0 1}*2", "0 {0 1}")
RARE = 15  # the most frequent tokens that rare triggers are not among
UNFROZEN, ONE, RANDOM, RARE_ARM, BIGRAM, REDRAWN = (
    *("unfrozen", "one trigger", "random triggers", "rare triggers", "bigram outputs", "outputs redrawn"),
)
FIRST_ALONE, SECOND_ALONE = "layer 0 alone", "layer 1 alone"
# What the general model's defaults are instead: the authors' code, in a size that takes minutes.
GENERAL: Mapping[str, Any] = {
    **{"architecture": "general", "width": 64, "length": 64, "steps": 400, "learning_rate": 0.01, "optimizer": "adamw"},
    **{"weight_decay": 0.01, "loss": "all", "kinds": ("one-layer",), "freezes": {}},
}
# Fields that one of the architectures alone has, and their options.
SMALL_ALONE = {
    **{"start": "start", "feed_forward": "feed-forward", "scaled": "scaled", "positions": "positions"},
    **{"embeddings": "train-embeddings", "ideal_b": "ideal-b", "ideal_gamma": "ideal-gamma"},
}
GENERAL_ALONE = {"layers": "layers", "heads": "heads"}


@dataclass(frozen=True)
class Settings:
    """Of a whole run. Raises UserError, which names the option, for what cannot be."""

    architecture: Architecture = "small"
    layers: int = 2
    heads: int = 4
    width: int = 128
    length: int = 32
    rows: int = 32
    steps: int = 300
    learning_rate: float = 0.1
    optimizer: Optimizer = "sgd"
    weight_decay: float = 1e-4
    start: Start = "default"
    feed_forward: FeedForward = "none"
    scaled: bool = True
    positions: Positions = "random"
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
            *(("layers", 1, 64), ("width", 2, 4096), ("length", 4, 4096), ("rows", 1, 65536)),
            ("steps", 10, 10_000_000),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"--{name} is {getattr(self, name)}; expected {least} to {most}")
        if self.steps % self.every:
            raise UserError(f"--steps is {self.steps}; expected a multiple of {self.every}")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(f"--weight-decay is {self.weight_decay}; expected a number, 0 or above")
        for name, value in (("learning-rate", self.learning_rate), ("ideal-b", self.ideal_b)):
            if not 0 < value < float("inf"):
                raise UserError(f"--{name} is {value}; expected a number above 0")
        self._check_architecture()
        _ = self.model  # refuses what it cannot be
        plans = self.plans
        if plans == WATCHED and self.architecture == "general":
            plans = (str(self.full), " ".join(map(str, reversed(range(self.layers)))), "0", str(self.looped))
        texts = tuple(str(Plan.parse(plan).validate(self.layers)) for plan in plans)
        object.__setattr__(self, "plans", tuple(dict.fromkeys(texts)))

    @property
    def full(self) -> Plan:
        """All layers in order."""
        return Plan.of(*range(self.layers))

    @property
    def looped(self) -> Plan:
        """All layers side by side, twice: the plan that the control is trained under."""
        return Plan.parse(f"{{{' '.join(map(str, range(self.layers)))}}}*2")

    @property
    def control(self) -> str:
        """The name of that arm."""
        return f"under {self.looped}"

    def _check_architecture(self) -> None:
        is_general = self.architecture == "general"
        other = SMALL_ALONE if is_general else GENERAL_ALONE
        for each in fields(self):
            if each.name in other and getattr(self, each.name) != each.default:
                raise UserError(f"--{other[each.name]} is not an option of the {self.architecture} model; leave it out")
        if is_general and (self.freezes or "freezes" in self.kinds):
            raise UserError("the general model has no memories that could be frozen; leave --freeze and freezes out")
        if is_general and not (self.heads >= 1 and self.width % self.heads == 0):
            raise UserError(f"--heads is {self.heads}; expected a divisor of the width, {self.width}")

    @classmethod
    def general(cls, **given: Any) -> Settings:
        """Of the general model, with its defaults."""
        return cls(**{**GENERAL, **given})

    @property
    def every(self) -> int:
        """Steps between measurements."""
        return 10

    @property
    def model(self) -> SmallModel | GeneralModel:
        if self.architecture == "general":
            return GeneralModel(self.layers, self.width, self.heads, self.length)
        return self.small

    @property
    def small(self) -> SmallModel:
        """The small model of these settings."""
        return SmallModel(
            self.width,
            self.length,
            start=self.start,
            feed_forward=self.feed_forward,
            scaled=self.scaled,
            positions=self.positions,
        )

    @property
    def training(self) -> Training:
        return Training(
            *(self.steps, self.rows, self.learning_rate, self.optimizer, self.weight_decay),
            every=self.every,
            watched=tuple(map(Plan.parse, self.plans)),
        )

    def groups(self) -> dict[str, tuple[Arm, ...]]:
        """Arms that train together: those of two events a step, and, twice as costly, those under the looped plan."""
        base = Arm(UNFROZEN, plan=self.full, data=self.data, loss=self.loss, embeddings=self.embeddings)
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
        if "one-layer" in self.kinds and self.architecture == "general":
            of_seeds += [replace(base, name=FIRST_ALONE, plan=Plan.of(0), seed=seed) for seed in self.seeds]
        elif "one-layer" in self.kinds:
            alone = ((FIRST_ALONE, Plan.of(0)), (SECOND_ALONE, Plan.of(1)))
            of_seeds += [replace(base, name=name, plan=plan, seed=self.seeds[0]) for name, plan in alone]
        found = {"full": tuple(of_seeds)}
        if "plans" in self.kinds:
            control = replace(base, name=self.control, plan=self.looped)
            found["looped"] = tuple(replace(control, seed=seed) for seed in self.seeds)
        return found


def frozen_name(name: str, step: int) -> str:
    """Of an arm with one parameter frozen."""
    return f"{name} frozen" if step >= NEVER else f"{name} frozen to {step}"
