"""A metric as the store keeps it, of a cell, and as a group of tasks has it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricRow:
    """One of lm-eval's metrics over a cell's documents; None or NaN where it is unknown or not finite."""

    metric: str
    filter: str
    value: float | None
    stderr: float | None = None
    higher_is_better: bool | None = None
