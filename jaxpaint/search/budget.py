"""What a plan that is searched for may cost: layer applications, or layers on the longest chain."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan

EXAMPLES = "such as cost=0.75 (of the full model's layer applications), cost=24 or depth=24 (layers)"


@dataclass(frozen=True)
class Limit:
    """At most `most` layer applications ("cost"), or as many layers on the longest chain ("depth")."""

    kind: Literal["cost", "depth"]
    most: int

    def of(self, plan: Plan) -> float:
        """What the plan takes of it."""
        return plan.cost if self.kind == "cost" else plan.depth

    def fits(self, plan: Plan) -> bool:
        return self.of(plan) <= self.most


@dataclass(frozen=True)
class Budget:
    """A limit before the model is known: of the full model's where `is_share` says so, else in layers."""

    kind: Literal["cost", "depth"]
    amount: float
    is_share: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Of "cost=0.75", "cost=24" or "depth=0.8". At most 1 is a share, and below 4 what has a point.

        Raises UserError for anything else; also for a latency, which no plan has before it is measured.
        """
        kind, equals, number = (part.strip() for part in text.partition("="))
        if kind == "latency":
            raise UserError(
                f"--budget {text}: a plan's latency is not known before it is measured, and a search looks at "
                "hundreds; search by cost or depth, then measure what it found: jaxpaint bench --model M --plan ... "
                "--store STORE puts the milliseconds beside the front"
            )
        if kind not in ("cost", "depth") or not equals:
            raise UserError(f"--budget {text!r} is no budget; expected cost or depth, {EXAMPLES}")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        if not 0 < amount <= 1000:
            raise UserError(f"--budget {text!r}: expected a positive number, {EXAMPLES}")
        is_share = amount <= 1 or ("." in number and amount < 4)
        if not is_share and amount != int(amount):
            raise UserError(f"--budget {text!r}: layers are whole, {EXAMPLES}")
        return cls(kind, amount, is_share)  # type: ignore[arg-type]

    def limit(self, num_layers: int) -> Limit:
        """Of a model of so many layers. Raises UserError where not one layer is left."""
        most = math.floor(self.amount * num_layers + 1e-9) if self.is_share else int(self.amount)
        if most < 1:
            raise UserError(f"--budget {self} leaves no layer of {num_layers}; give a larger one")
        return Limit(self.kind, most)

    def __str__(self) -> str:
        if not self.is_share:
            return f"{self.kind}={int(self.amount)}"
        is_whole = self.amount > 1 and self.amount == int(self.amount)  # two layers are another budget
        return f"{self.kind}={self.amount:.1f}" if is_whole else f"{self.kind}={self.amount:g}"
