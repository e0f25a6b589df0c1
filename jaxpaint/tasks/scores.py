"""A model scored on tasks under one plan, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.progress import asked_bar
from jaxpaint.plans.plan import Plan
from jaxpaint.results.group_scores import MEANS
from jaxpaint.results.kinds import preferred
from jaxpaint.tasks.asking import USUAL, Asking
from jaxpaint.tasks.local_data import Data, data_options, parse_data_option
from jaxpaint.tasks.own import OwnTask
from jaxpaint.tasks.paired import metric_values
from jaxpaint.tasks.requests import main_metric

if TYPE_CHECKING:
    import pandas as pd

    from jaxpaint.engine.model import Model
    from jaxpaint.generation.cache import CacheKind
    from jaxpaint.tasks.encoding import Bos

COLUMNS = ("task", "metric", "filter", "value", "stderr", "documents")


@dataclass(frozen=True, eq=False)
class Scores:
    """A plan's scores: `scores["arc_easy"]` is a task's or a group's main one, `frame()` all; `results` is lm-eval's
    dictionary.
    """

    plan: Plan
    results: Mapping[str, Any] = field(repr=False)
    main: Mapping[str, str]

    def __getitem__(self, task: str) -> float:
        """A task's main metric. Raises UserError for another task."""
        if task not in self.main:
            raise UserError(f"there is no score of {task!r}; the tasks are {', '.join(self.main)}")
        own = self._metrics(task)
        filters = [name for metric, name in own if metric == self.main[task]]
        return own[self.main[task], preferred(filters)]

    def __repr__(self) -> str:
        shown = ", ".join(f"{task} {metric} {self[task]:.4g}" for task, metric in self.main.items())
        return f"Scores({str(self.plan)!r}: {shown})"

    def frame(self) -> pd.DataFrame:
        """All metrics, a row each."""
        import pandas as pd

        rows = []
        for task in self.main:
            found = self.results["results"][task]
            documents = found["sample_len"]
            for (metric, name), value in self._metrics(task).items():
                stderr = found.get(f"{metric}_stderr,{name}")
                rows.append((task, metric, name, value, stderr if isinstance(stderr, float) else None, documents))
        frame = pd.DataFrame(rows, columns=COLUMNS)
        return frame.astype({"value": float, "stderr": float})

    def _metrics(self, task: str) -> dict[tuple[str, str], float]:
        """By metric and filter."""
        return metric_values(self.results["results"][task])


def score_tasks(
    model: Model,
    tasks: str | OwnTask | Sequence[str | OwnTask],
    plan: Plan | str | None = None,
    *,
    limit: float | None = None,
    data: Data = (),
    num_fewshot: int | None = None,
    bos: Bos = "auto",
    kv: CacheKind = "exact",
    include_path: str | Path | None = None,
    trust_tasks: bool = False,
    asking: Asking = USUAL,
    batch_tokens: int | None = None,
    progress: bool | None = None,
) -> Scores:
    """Scores a model under a plan (default: all layers in order) on lm-eval's tasks, by lm-eval's own code.

    Args:
        tasks: One or several: names, task files, or `multiple_choice`.
        limit: Documents per task, or a fraction below 1.
        data: Local files in place of datasets: {"arc_easy": "arc_easy.jsonl"} or "arc_easy=arc_easy.jsonl".
        bos: Whether a BOS token is put before every text; "off" is as the paper ran.
        kv: The cache that texts are written with (`jaxpaint.generation.cache`).
        trust_tasks: Whether task files of one's own may run code.
        asking: lm-eval's other settings (`jaxpaint.tasks.asking`).
        progress: Whether to show a bar: by default in notebooks and on terminals.

    Raises:
        PlanError: a plan that cannot be read, or names a layer that the model lacks.
        UserError: as `jaxpaint.tasks.load.load_tasks`, and where a task cannot be scored.
    """
    from jaxpaint.tasks.evaluation import evaluate_tasks
    from jaxpaint.tasks.harness import PlanLM
    from jaxpaint.tasks.load import load_tasks

    if not isinstance(tasks, Iterable | OwnTask):
        raise UserError(f"tasks is {tasks!r}; give names of tasks, task files, or jaxpaint.multiple_choice")
    names = [tasks] if isinstance(tasks, str | OwnTask) else list(tasks)
    how: Any = {"include_path": include_path, "trust": trust_tasks, "asking": asking}
    checked, files = model.checked_plan(plan), parse_data_option(data_options(data))
    loaded = load_tasks(names, data=files, num_fewshot=num_fewshot, **how)
    with asked_bar(progress, "scoring") as bar:
        lm = PlanLM(model, checked, bos=bos, kv=kv, asking=asking, batch_tokens=batch_tokens, progress=bar)
        results = evaluate_tasks(lm, loaded, limit=limit, asking=asking)
    if "interrupted" in results:
        raise KeyboardInterrupt
    if failed := results.get("failed"):
        raise UserError("; ".join(f"{name}: {reason}" for name, reason in failed.items()))
    main = {name: main_metric(task) for name, task in loaded["tasks"].items()}
    for name, found in results.get("groups", {}).items():
        if metrics := [metric for metric, _ in metric_values(found)]:
            main[name] = next((metric for metric in MEANS if metric in metrics), metrics[0])
    return Scores(checked, results, main)
