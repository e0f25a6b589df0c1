"""The facts that painter-16 is asked for: those that its training states and never asks about."""

from __future__ import annotations

from jaxpaint.analysis.facts import Fact
from jaxpaint.painter import language, world


def facts() -> tuple[Fact, ...]:
    """All 96 of them, in order."""
    asked = [(language.question(*fact), fact) for fact in sorted(world.FACTS)]
    held_out = [each for each in asked if language.held_out(each[0], language.FACTS_HELD_OUT_OF)]
    return tuple(Fact(question, fact[0], world.FACTS[fact], _of_town(fact[0])) for question, fact in held_out)


def _of_town(town: str) -> tuple[str, ...]:
    """All that is to know of it."""
    return tuple(world.FACTS[town, kind] for kind in world.VALUES)
