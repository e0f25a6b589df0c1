"""What is measured to answer the paper's questions: estimates with intervals, and what each says of a claim."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from jaxpaint.report.bootstrap import interval
from jaxpaint.report.curves import Curve

Verdict: TypeAlias = Literal["holds", "holds in part", "does not hold", "open"]
"""What a number or all of them say of a claim, in the words of the terminal, the page and the tables alike."""
HOLDS: Verdict = "holds"
IN_PART: Verdict = "holds in part"
DOES_NOT_HOLD: Verdict = "does not hold"
OPEN: Verdict = "open"

Z = 1.96  # standard errors from a mean to the end of its 95 % interval
NEGLIGIBLE = 0.02
"""A difference that lies wholly below this share of the full model's score refutes the claim that there is one."""


@dataclass(frozen=True)
class Evidence:
    """One measured number: what it is, its 95 % interval (NaN where none can be had), and what it says of the claim.

    Without a verdict it is context only. Where it is open, `times` as large a sample would find it `then`, were the
    value to stay; `texts` is its sample where that is an analysis's and not the tasks' documents.
    """

    what: str
    value: float
    low: float
    high: float
    verdict: Verdict | None
    times: float = math.nan
    then: Verdict | None = None
    texts: int | None = None


def difference(what: str, values: np.ndarray, *, decides: bool = True) -> Evidence:
    """Of a claim that the difference is positive. `values` are float64 [1 + DRAWS], the point estimate first."""
    return above(what, values, 0.0, slack=NEGLIGIBLE, decides=decides)


def above(what: str, values: np.ndarray, threshold: float, *, slack: float = 0.0, decides: bool = True) -> Evidence:
    """Of a claim that the value is above a threshold; refuted where all of the interval is below it plus `slack`."""
    low, high = (float(end) for end in interval(values[1:]))
    return _judged(what, float(values[0]), low, high, threshold, slack, decides)


def of_texts(what: str, value: float, stderr: float, texts: int | None, *, decides: bool = True) -> Evidence:
    """As `difference`, of a mean over an analysis's texts with its standard error: a normal interval."""
    ends = value - Z * stderr, value + Z * stderr
    return replace(_judged(what, value, *ends, 0.0, NEGLIGIBLE, decides), texts=texts)


def _judged(
    what: str, value: float, low: float, high: float, threshold: float, slack: float, decides: bool
) -> Evidence:
    verdict: Verdict = HOLDS if low > threshold else DOES_NOT_HOLD if high < threshold + slack else OPEN
    if not decides or verdict != OPEN:
        return Evidence(what, value, low, high, verdict if decides else None)
    # An interval narrows with the square root of the sample, until one end or the other is past its threshold.
    held = _times(value - low, value - threshold)
    refuted = _times(high - value, threshold + slack - value)
    return Evidence(what, value, low, high, OPEN, min(held, refuted), HOLDS if held <= refuted else DOES_NOT_HOLD)


def _times(half: float, distance: float) -> float:
    """How many times the sample takes an interval's half to less than a distance; infinity where there is none."""
    return (half / distance) ** 2 if distance > 0 else math.inf


def plain(what: str, value: float, *, decides: bool = True) -> Evidence:
    """Of a claim that a value without an interval is positive."""
    verdict = HOLDS if value > NEGLIGIBLE else DOES_NOT_HOLD
    return Evidence(what, value, math.nan, math.nan, verdict if decides else None)


def any_holds(evidence: Sequence[Evidence]) -> Verdict:
    """One verdict where one way to show the claim is enough."""
    return HOLDS if any(item.verdict == HOLDS for item in evidence) else combine(evidence)


def combine(evidence: Sequence[Evidence]) -> Verdict:
    """One verdict of several numbers: what they agree on, in part where one supports what another refutes."""
    verdicts = {item.verdict for item in evidence if item.verdict}
    if len(verdicts) == 1:
        return verdicts.pop()
    return IN_PART if {HOLDS, DOES_NOT_HOLD} <= verdicts else OPEN


def times_to_tell(evidence: Sequence[Evidence], judge: Callable[[Sequence[Evidence]], Verdict]) -> float:
    """How many times the documents would settle what `judge` finds open, were all values to stay.

    Infinity where no number of them would.
    """
    for times in sorted(item.times for item in evidence if item.times < math.inf):
        if judge([replace(item, verdict=item.then) if item.times <= times else item for item in evidence]) != OPEN:
            return times
    return math.inf


def shared(curves: Mapping[str, Curve]) -> list[int]:
    """Numbers of affected layers that all curves have; not 1, where most strategies are the full model."""
    common = set.intersection(*(set(curve.affected.tolist()) for curve in curves.values())) if curves else set()
    return sorted(common - {1})


def matched(curves: Mapping[str, Curve]) -> dict[str, np.ndarray]:
    """Each curve's mean over the numbers of affected layers that all of them have: [1 + DRAWS]; empty if none are."""
    affected = shared(curves)
    return {name: curve.at(affected).mean(axis=1) for name, curve in curves.items()} if affected else {}


def over(curves: Mapping[str, Curve]) -> str:
    """What `matched` averages over, in words."""
    return f"mean over {len(shared(curves))} numbers of affected layers"
