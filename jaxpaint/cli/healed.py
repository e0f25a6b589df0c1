"""What healing was worth, as printed: a line for each measure, of the full model and of the plan, before and after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from jaxpaint.cli.options import plan_line
from jaxpaint.results.search import Estimate

if TYPE_CHECKING:
    from jaxpaint.tasks.main_metric import MainMetric
    from jaxpaint.training.heal import Healed


@dataclass(frozen=True)
class Line:
    """A measure; `change` is that of the same texts or documents, None where it is no mean of theirs."""

    name: str
    full: Estimate
    before: Estimate
    after: Estimate
    change: Estimate | None


def of_texts(healed: Healed) -> list[Line]:
    """Of the held-out texts."""
    from jaxpaint.training.heal import estimate

    change = estimate(healed.after.divergence - healed.before.divergence)
    full, before, after = (Estimate(each.perplexity, math.nan) for each in (healed.full, healed.before, healed.after))
    return [
        Line("divergence", healed.full.mean, healed.before.mean, healed.after.mean, change),
        Line("perplexity", full, before, after, None),
    ]


def of_tasks(before: Mapping[str, Sequence[MainMetric]], after: Mapping[str, Sequence[MainMetric]]) -> list[Line]:
    """Of each task's main metric; `before` of the full model and the plan, `after` of the plan."""
    from jaxpaint.training.heal import estimate

    lines = []
    for name, (full, plan) in before.items():
        (healed,) = after[name]
        paired = plan.documents is not None and healed.documents is not None
        change = estimate(healed.documents - plan.documents) if paired else None  # type: ignore[operator]
        lines.append(Line(f"{name} {full.name}", _estimate(full), _estimate(plan), _estimate(healed), change))
    return lines


def table(lines: Sequence[Line]) -> Iterator[str]:
    """The lines under each other."""
    rows = [
        ("held out", "full model", "plan before", "plan healed", "change"),
        *((line.name, *map(_shown, (line.full, line.before, line.after)), _shown(line.change)) for line in lines),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(others, widths[1:], strict=True)]
        yield f"{first:<{widths[0]}}  {'  '.join(cells)}".rstrip()


def heading(healed: Healed) -> str:
    return plan_line(str(healed.plan), healed.plan.cost, healed.plan.depth)


def values(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """As JSON has it, which lacks NaN."""
    return [
        {
            "name": line.name,
            **{
                name: None if (found := getattr(line, name)) is None else _finite(asdict(found))
                for name in ("full", "before", "after", "change")
            },
        }
        for line in lines
    ]


def _estimate(metric: MainMetric) -> Estimate:
    return Estimate(*(math.nan if each is None else each for each in (metric.value, metric.stderr)))


def _shown(found: Estimate | None) -> str:
    if found is None or math.isnan(found.value):
        return "" if found is None else "not finite"
    digits = 2 if abs(found.value) >= 10 else 4
    error = "" if math.isnan(found.stderr) else f" ± {found.stderr:.{digits}f}"
    return f"{found.value:.{digits}f}{error}"


def _finite(found: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in found.items()}
