"""Two scores on the same documents: their difference, which varies less than the scores do."""

from __future__ import annotations

import math
from collections.abc import Sequence


def paired_difference(
    value: float, other: float, own: Sequence[float], of_other: Sequence[float]
) -> tuple[float, float | None]:
    """`value` less `other`, and the standard error of that, of documents' values `own` and `of_other` in one order.

    Without a standard error where the scores are no means of these values, as perplexities are none, or of one alone.
    """
    if len(own) > 1 and _is_mean(value, own) and _is_mean(other, of_other):
        each = [first - second for first, second in zip(own, of_other, strict=True)]
        mean = math.fsum(each) / len(each)
        variance = math.fsum((one - mean) ** 2 for one in each) / (len(each) - 1)
        return mean, math.sqrt(variance / len(each))
    return value - other, None


def _is_mean(value: float, documents: Sequence[float]) -> bool:
    return math.isclose(math.fsum(documents) / len(documents), value, abs_tol=1e-6)
