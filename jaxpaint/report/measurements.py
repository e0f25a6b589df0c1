"""One study with what is drawn and asked of it again and again: its normalised scores and its strategies' curves."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.report.curves import Curve, curve, own_plans
from jaxpaint.report.data import Study
from jaxpaint.report.normalise import Normalised, normalise
from jaxpaint.report.paired import PlanScores, plan_scores
from jaxpaint.results.kinds import FIT, STDERR
from jaxpaint.results.reading import Analysis

if TYPE_CHECKING:
    from jaxpaint.report.finetuned import TunedTask


@dataclass(frozen=True, eq=False)
class Measurements:
    """A study, normalised, and what was fine-tuned of it. Curves are made once each."""

    study: Study
    scores: Normalised
    tuned: tuple[TunedTask, ...] = ()

    @classmethod
    def of(cls, study: Study, tuned: tuple[TunedTask, ...] = ()) -> Measurements:
        return cls(study, normalise(study), tuned)

    @property
    def num_layers(self) -> int:
        return self.study.model.num_layers

    def curve(
        self, strategy: str, task: str | None = None, *, iterations: int | None = None, times: int | None = None
    ) -> Curve:
        """A strategy's curve, as `report.curves.curve`."""
        return self._curve(strategy, task, iterations=iterations, times=times)

    @cached_property
    def _curve(self) -> Callable[..., Curve]:
        return cache(partial(curve, self.study, self.scores))

    @cached_property
    def plans(self) -> PlanScores:
        """Every plan beside the full model, best first."""
        return plan_scores(self.study, self.scores.means)

    @cached_property
    def own_plans(self) -> Curve:
        """Plans of the user's own, one point each."""
        return own_plans(self.study, self.scores)

    def curves(self, *strategies: str) -> dict[str, Curve]:
        """The curves of those of the strategies that have data."""
        found = {strategy: self.curve(strategy) for strategy in strategies}
        return {strategy: curve for strategy, curve in found.items() if curve}

    def name(self, strategy: str) -> str:
        """A strategy in words."""
        return self.study.words(strategy)

    def by_layer(self, strategy: str) -> tuple[np.ndarray, np.ndarray]:
        """Of skip-one or switch: layers [N], and the median's values under each, [1 + DRAWS, N], the point first."""
        point, draws = self.scores.over_tasks
        found = [(v.layer, v.column) for v in self.study.variants if v.strategy == strategy and v.layer is not None]
        kept = sorted((layer, column) for layer, column in found if not np.isnan(point[column]))
        columns = [column for _, column in kept]
        return np.array([layer for layer, _ in kept], np.int64), np.vstack([point[columns], draws[:, columns]])

    def analysis(self, name: str, column: int | None) -> np.ndarray | None:
        """A stored analysis of one plan; None where there is none, or it holds no finite number."""
        found = self._analysis(name, column)
        value = np.array(found.value if found else [], np.float64)
        return value if np.isfinite(value).any() else None

    def stderr(self, name: str, column: int | None) -> np.ndarray | None:
        """The standard errors of `analysis`, texts being the sample; None of a store that was written without them."""
        found = self.nested(name, column)
        return None if found is None or found[1] is None else np.array(found[1], np.float64)

    def nested(self, name: str, column: int | None) -> tuple[list[Any], list[Any] | None] | None:
        """An analysis and its standard errors (None where there are none) as they are stored, nested lists."""
        found = self._analysis(name, column)
        if found is None:
            return None
        return found.value, self._beside(found, name + STDERR)

    def fit(self, name: str, fit: str, column: int | None) -> list[float]:
        """R² of a fit that an analysis reads through, on texts that it had not seen; empty where there is none."""
        found = self._analysis(name, column)
        r2 = None if found is None else self._beside(found, fit + FIT)
        return [math.nan if value is None else value for value in r2 or ()]

    def _beside(self, analysis: Analysis, name: str) -> list[Any] | None:
        """What was stored with an analysis under another name."""
        found = self._analyses.get((name, analysis.column), ())
        return next((other.value for other in found if other.settings == analysis.settings), None)

    def analysed_texts(self, name: str, column: int | None) -> str:
        """What `analysis` was made on, in words; empty where the store does not say."""
        found = self._analysis(name, column)
        if found is None or not {"samples", "task"} <= found.settings.keys():
            return ""
        settings = found.settings
        return f"{settings['samples']} texts of {settings['task']}, BOS {settings.get('bos', 'not recorded')}"

    def analysed_count(self, name: str, column: int | None) -> int | None:
        """How many texts `analysis` was made on; None where the store does not say."""
        found = self._analysis(name, column)
        return None if found is None else found.settings.get("samples")

    @property
    def documents(self) -> int:
        """Of the tasks that are normalised, under the full model."""
        return sum(score.documents for score in self.scores.full if not score.left_out)

    def _analysis(self, name: str, column: int | None) -> Analysis | None:
        """Of several, the one under the study's own BOS setting and over most texts."""
        return min(
            self._analyses.get((name, column), ()),
            key=lambda a: (a.settings.get("bos") != self.study.bos, -a.settings.get("samples", 0), str(a.settings)),
            default=None,
        )

    @cached_property
    def _analyses(self) -> Mapping[tuple[str, int | None], list[Analysis]]:
        found: dict[tuple[str, int | None], list[Analysis]] = defaultdict(list)
        for analysis in self.study.analyses:
            found[analysis.name, analysis.column].append(analysis)
        return found
