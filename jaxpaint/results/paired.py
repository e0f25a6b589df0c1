"""Two scores on the same documents: their difference, which varies less than the scores do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Member(NamedTuple):
    """A task of a group: its documents' values under two plans, in one order, and how often the group has it."""

    own: Sequence[float]
    of_other: Sequence[float]
    times: int = 1


def paired_difference(
    value: float, other: float, own: Sequence[float], of_other: Sequence[float]
) -> tuple[float, float | None]:
    """`value` less `other`, and the standard error of that, of documents' values `own` and `of_other` in one order.

    Without a standard error where the scores are no means of these values, as perplexities are none, or of one alone.
    """
    return group_difference(value, other, [Member(own, of_other)], by_size=True)


def group_difference(
    value: float, other: float, members: Sequence[Member], *, by_size: bool
) -> tuple[float, float | None]:
    """As `paired_difference`, of two scores of a group, each a mean of its members' means.

    It is Σ w·d, d being the mean of a member's n documents' differences, and its standard error sqrt(Σ w²·s²/n), s²
    being their sample variance: members are independent of each other, their documents a sample of each. The weights w
    are in proportion to n where the group weights its members by size, else equal; a member that the group has
    several times weighs as often as that. Without a standard error where any member has one document alone.
    """
    found = value - other, None
    if not members or any(len(each.own) < 2 for each in members):
        return found
    weights = [each.times * (len(each.own) if by_size else 1) for each in members]
    shares = [weight / sum(weights) for weight in weights]
    if not _is_mean(value, shares, [each.own for each in members]):
        return found
    if not _is_mean(other, shares, [each.of_other for each in members]):
        return found
    means, variances = [], []
    for share, (own, of_other, _) in zip(shares, members, strict=True):
        each = [first - second for first, second in zip(own, of_other, strict=True)]
        mean = math.fsum(each) / len(each)
        means.append(share * mean)
        variances.append(share**2 * math.fsum((one - mean) ** 2 for one in each) / (len(each) - 1) / len(each))
    return math.fsum(means), math.sqrt(math.fsum(variances))


def _is_mean(value: float, shares: Sequence[float], members: Sequence[Sequence[float]]) -> bool:
    means = (share * math.fsum(own) / len(own) for share, own in zip(shares, members, strict=True))
    return math.isclose(math.fsum(means), value, abs_tol=1e-6)
