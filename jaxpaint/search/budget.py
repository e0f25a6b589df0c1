"""What a plan that is searched for may take: layer applications, layers on the longest chain, or time."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.search.clock import Clock

Kind: TypeAlias = Literal["cost", "depth", "latency"]
EXAMPLES = "such as cost=0.75 or latency=0.8 (of the full model's), cost=24, depth=24 (layers) or latency=40ms"
MOST = 1000  # layers, or seconds
MOST_MILLISECONDS = 1000 * MOST
LEAST_CHAIN = 0.05  # of a layer's time, above which groups are tried for being faster
ROUNDING = 1e-6
MOST_SHARE = 4  # of the full model's latency
_NUMBER = re.compile(r"([0-9]*[.]?[0-9]+(?:e-?[0-9]+)?) *(ms|s)?", re.IGNORECASE)


@dataclass(frozen=True)
class Limit:
    """At most `most` layer applications ("cost"), layers on the longest chain ("depth"), or seconds by the `clock`
    ("latency").
    """

    kind: Kind
    most: float
    clock: Clock | None = None

    def of(self, plan: Plan) -> float:
        """What the plan takes of it."""
        if self.clock is not None:
            return self.clock.seconds(plan)
        return plan.cost if self.kind == "cost" else plan.depth

    def fits(self, plan: Plan) -> bool:
        return self.of(plan) <= self.most * (1 + ROUNDING)

    @property
    def gains_by_groups(self) -> bool:
        """Whether layers side by side take less of it than one after the other."""
        return self.kind == "depth" if self.clock is None else self.clock.chain > LEAST_CHAIN * self.clock.layer

    @property
    def layers(self) -> int:
        """Layers, one after the other, that are within it."""
        return int(self.most) if self.clock is None else self.clock.layers_within(self.most)


@dataclass(frozen=True)
class Budget:
    """A limit before the model is known: of the full model's where `is_share` says so, else in layers, or seconds."""

    kind: Kind
    amount: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Of "cost=0.75", "cost=24", "depth=0.8", "latency=0.8" or "latency=40ms".

        At most 1 is a share, and below 4 what has a point; a latency is a share unless it ends in ms or s. Raises
        UserError for anything else.
        """
        kind, equals, number = (part.strip() for part in text.partition("="))
        if kind not in ("cost", "depth", "latency") or not equals:
            raise UserError(f"--budget {text!r} is no budget; expected cost, depth or latency, {EXAMPLES}")
        found = _NUMBER.fullmatch(number)
        amount = float(found[1]) if found else math.nan
        unit = found[2].lower() if found and found[2] else ""
        if not 0 < amount <= (MOST_MILLISECONDS if unit == "ms" else MOST):
            raise UserError(f"--budget {text!r}: expected a positive number, {EXAMPLES}")
        if unit:
            if kind != "latency":
                raise UserError(f"--budget {text!r}: a time is a latency's, {EXAMPLES}")
            return cls("latency", amount / 1000 if unit == "ms" else amount, False)
        if kind == "latency":
            if amount >= MOST_SHARE:
                raise UserError(f"--budget {text!r}: a share of the full model's, or a time with its unit, {EXAMPLES}")
            return cls("latency", amount, True)
        is_share = amount <= 1 or ("." in number and amount < 4)
        if not is_share and amount != int(amount):
            raise UserError(f"--budget {text!r}: layers are whole, {EXAMPLES}")
        return cls(kind, amount, is_share)  # type: ignore[arg-type]

    def limit(self, num_layers: int, clock: Clock | None = None) -> Limit:
        """Of a model of so many layers; of a latency by its clock. Raises UserError where not one layer is left."""
        if self.kind == "latency":
            assert clock is not None, "a latency is told by a clock"
            full = clock.seconds(Plan.of(range(num_layers)))
            most: float = self.amount * full if self.is_share else self.amount
            limit = Limit("latency", most, clock)
            if limit.layers < 1:
                least = f"{1000 * (clock.overhead + clock.layer):.3g} ms"
                raise UserError(
                    f"--budget {self} leaves no layer: one alone takes {least}, all of them {1000 * full:.3g} ms"
                )
            return limit
        most = math.floor(self.amount * num_layers + 1e-9) if self.is_share else int(self.amount)
        if most < 1:
            raise UserError(f"--budget {self} leaves no layer of {num_layers}; give a larger one")
        return Limit(self.kind, most)

    def __str__(self) -> str:
        if self.kind == "latency":
            return f"latency={self.amount:g}" if self.is_share else f"latency={1000 * self.amount:g}ms"
        if not self.is_share:
            return f"{self.kind}={int(self.amount)}"
        is_whole = self.amount > 1 and self.amount == int(self.amount)  # two layers are another budget
        return f"{self.kind}={self.amount:.1f}" if is_whole else f"{self.kind}={self.amount:g}"
