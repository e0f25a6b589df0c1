"""A group's difference between two plans, of made-up answers: as its tasks' documents weigh in its score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import mean, variance

import pytest

from jaxpaint.results.groups import Group, GroupMetric
from jaxpaint.tasks.paired import differences

FIRST = {"large": (1, 1, 0, 1, 0, 1), "small": (0, 1, 1)}
OTHER = {"large": (1, 0, 0, 0, 1, 0), "small": (1, 1, 0)}


def results(answers: Mapping[str, tuple[int, ...]], shares: tuple[float, float]) -> dict:
    """As lm-eval has them, the last document first, of a group that weighs its two tasks by these shares."""
    means = {task: mean(values) for task, values in answers.items()}
    means["own"] = sum(share * means[task] for share, task in zip(shares, answers, strict=True))
    samples = {
        task: [{"doc_id": k, "filter": "none", "metrics": ["acc"], "acc": v} for k, v in enumerate(values)][::-1]
        for task, values in answers.items()
    }
    return {"results": {task: {"acc,none": value} for task, value in means.items()}, "samples": samples}


@pytest.mark.parametrize(
    ("by_size", "members", "shares"),
    [
        (True, ("large", "small"), (6 / 9, 3 / 9)),
        (False, ("large", "small"), (1 / 2, 1 / 2)),
        (False, ("large", "small", "small"), (1 / 3, 2 / 3)),
    ],
)
def test_of_a_group(by_size: bool, members: tuple[str, ...], shares: tuple[float, float]) -> None:
    group = Group("own", "1", members, members, (GroupMetric("acc", by_size, None),))
    found = differences(results(OTHER, shares), results(FIRST, shares), [group])
    less = [[own - first for own, first in zip(OTHER[task], FIRST[task], strict=True)] for task in FIRST]
    assert found["own"]["acc,none"] == pytest.approx(sum(s * mean(each) for s, each in zip(shares, less, strict=True)))
    error = math.sqrt(sum(s**2 * variance(each) / len(each) for s, each in zip(shares, less, strict=True)))
    assert found["own"]["acc_stderr,none"] == pytest.approx(error)


def test_of_a_group_that_is_no_mean_of_documents() -> None:
    group = Group("own", "1", ("large", "small"), ("large", "small"), (GroupMetric("acc", True, None),))
    found = differences(results(OTHER, (1, 1)), results(FIRST, (1, 1)), [group])
    assert found["own"] == {"acc,none": pytest.approx(-2 / 6), "acc_stderr,none": "N/A"}
