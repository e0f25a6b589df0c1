"""What a study does one after the other, and what of it is still to come: for one time left over all of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxpaint.base.progress import Advance, Start

SCORED_PER_WRITTEN = 10  # tokens scored in the time of one written, as an order of magnitude


@dataclass(frozen=True)
class Phases:
    """Phases in their order, and the work of each in tokens scored, or what takes as long.

    The last one is the report, where there is one, in seconds: it runs at no model's pace.
    """

    work: Mapping[str, float]
    report: float = 0.0

    @property
    def names(self) -> list[str]:
        """Of those that there is work for."""
        return [*(name for name, work in self.work.items() if work), *(["report"] if self.report else [])]

    def of(self, name: str, progress: Start, scored_per_unit: float = 1.0) -> Start:
        """The progress of one of them, which counts units of so many tokens scored."""
        names = self.names
        after = sum(work for each, work in list(self.work.items())[list(self.work).index(name) + 1 :])

        def start(total: int, phase: str = "", later: float = 0.0, beyond: float = 0.0) -> Advance:
            told = f"{name} ({names.index(name) + 1} of {len(names)})" if len(names) > 1 and name in names else phase
            how = {"beyond": self.report} if self.report else {}
            return progress(total, told, after / scored_per_unit, **how)

        return start
