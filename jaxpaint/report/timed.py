"""A study's plans that have both a score and a measured latency, by machine and sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.measurements import Measurements
from jaxpaint.results.latency import Latency, Setting


@dataclass(frozen=True)
class Timed:
    """A plan, by its column in the study, with the first strategy that it stands for and that one's label."""

    column: int
    strategy: str
    label: str
    latency: Latency


def timed(measured: Measurements) -> Mapping[Setting, tuple[Timed, ...]]:
    """Those with a normalised score."""
    study, (point, _) = measured.study, measured.scores.over_tasks
    named: dict[int, tuple[str, str]] = {}
    for variant in study.variants:
        named.setdefault(variant.column, (variant.strategy, variant.label))
    found: dict[Setting, list[Timed]] = defaultdict(list)
    for each in study.latencies:
        if not np.isnan(point[each.column]):
            strategy, label = named.get(each.column, (CUSTOM, study.plans[each.column].text))
            found[each.latency.setting].append(Timed(each.column, strategy, label, each.latency))
    return {setting: tuple(plans) for setting, plans in found.items()}
