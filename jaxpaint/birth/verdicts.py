"""Does a claim hold? From seeds as the sample: a mean and two standard errors either side of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

Verdict: TypeAlias = Literal["holds", "in part", "does not hold", "cannot be told"]
Part: TypeAlias = bool | None
"""Whether a part of a claim holds; None where it cannot be told."""


@dataclass(frozen=True)
class Finding:
    """A claim, whether it holds here, and the numbers that say so."""

    claim: str
    verdict: Verdict
    evidence: str


def verdict(parts: Sequence[Part]) -> Verdict:
    """Of a claim of several parts."""
    if parts and all(part is True for part in parts):
        return "holds"
    if parts and all(part is False for part in parts):
        return "does not hold"
    return "in part" if True in parts else "cannot be told"


def above(values: Sequence[float] | Float[np.ndarray, " seeds"], bound: float = 0.0) -> Part:
    """Whether seeds' mean lies above a bound by two standard errors, or below it (False); one seed alone cannot tell
    but by its side of the bound, so there it counts.
    """
    low, high = interval(values)
    return True if low > bound else False if high < bound else None


def below(values: Sequence[float] | Float[np.ndarray, " seeds"], bound: float = 0.0) -> Part:
    """As `above`, the other way round."""
    return above(-np.asarray(values), -bound)


def interval(values: Sequence[float] | Float[np.ndarray, " seeds"]) -> tuple[float, float]:
    """The mean less and plus two standard errors; of one value, the value."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean() - 2 * error), float(values.mean() + 2 * error)


def shown(values: Sequence[float] | Float[np.ndarray, " seeds"], digits: int = 2) -> str:
    """The mean and two standard errors: `0.93 ± 0.02`."""
    low, high = interval(values)
    middle, half = (low + high) / 2, (high - low) / 2
    return f"{middle:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def steps_to(curve: Float[np.ndarray, "... records"], at: Float[np.ndarray, " records"], level: float) -> np.ndarray:
    """The first step at which each curve is at a level; infinite where it never is."""
    reached = np.asarray(curve) >= level
    return np.where(reached.any(axis=-1), np.asarray(at)[reached.argmax(axis=-1)], np.inf)


def sooner(first: np.ndarray, second: np.ndarray, end: float) -> Part:
    """Whether the first get there in fewer steps than the second, paired by seed; who never does takes `end` at least.

    None where it cannot be told, as when neither ever does.
    """
    both = np.isfinite(first) | np.isfinite(second)
    if not both.any():
        return None
    return above(np.minimum(second, end) - np.minimum(first, end))
