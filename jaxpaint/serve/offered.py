"""The models that a server offers: one model's plans, each under names of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from jaxpaint.base.errors import UserError
from jaxpaint.plans.names import Names
from jaxpaint.plans.plan import Plan

_LABEL = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Offered:
    """A plan and the names that clients ask for it by; the first is the one shown."""

    names: tuple[str, ...]
    plan: Plan

    @property
    def name(self) -> str:
        return self.names[0]


def offered(model: str, num_layers: int, plans: Sequence[str], names: Names | None = None) -> tuple[Offered, ...]:
    """The full plan as `model`, and `model@LABEL` for each of `plans`: `LABEL=PLAN`, or a plan that is its own label.

    A labelled plan answers to its canonical text too, and one with `names` of layers to its text as it was given.

    Raises:
        PlanError: a plan that cannot be read, or names a layer that the model lacks.
        UserError: a label that no name can have, or two plans of one name.
    """
    found = [Offered((model,), Plan.of(range(num_layers)))]
    for given in plans:
        before, equals, after = given.partition("=")
        label, text = (before.strip(), after) if equals else (None, given)
        if label is not None and not _LABEL.fullmatch(label):
            raise UserError(f"--plan {given}: the name {label!r} is not one of letters, digits, dots, - and _")
        plan = Plan.parse(text, names).validate(num_layers)
        given_text = [text.strip()] if ":" in text else []
        labels = [*([] if label is None else [label]), str(plan), *given_text]
        found.append(Offered(tuple(f"{model}@{each}" for each in labels), plan))
    first = [each.name for each in found]
    if twice := next((name for name in first if first.count(name) > 1), None):
        raise UserError(f"two plans are named {twice}; give one of them another name, --plan NAME=PLAN")
    return tuple(found)


def by_name(offered: Sequence[Offered]) -> dict[str, Offered]:
    """Every name's plan; where a plan's text and a label are the same, the label counts."""
    names = {name: each for each in offered for name in each.names[1:]}
    return names | {each.name: each for each in offered}
