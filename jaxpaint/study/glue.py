"""A GLUE study from its settings to its results store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from jaxpaint.base.words import count
from jaxpaint.engine.model import load, require_pooler
from jaxpaint.results.store import Store
from jaxpaint.study.glue_frozen import FrozenSettings, run_frozen
from jaxpaint.study.glue_spec import TRAIN, GlueSpec
from jaxpaint.study.trained import finetuned_cells, run_finetuned
from jaxpaint.tasks.evaluation import environment
from jaxpaint.tasks.glue import load_examples
from jaxpaint.training.features import check_max_length


@dataclass(frozen=True)
class GlueSummary:
    """What was asked, plans on tasks, how many of the results this run computed, in `seconds`, and how many other
    processes are at."""

    plans: int
    tasks: int
    computed: int
    elsewhere: int
    seconds: float

    def __str__(self) -> str:
        """In words, in one line."""
        done = f"{count(self.plans, 'plan')} on {count(self.tasks, 'task')}"
        if not self.computed and not self.elsewhere:
            return f"{done}; there was nothing to compute"
        others = f"; other processes are at {self.elsewhere}" if self.elsewhere else ""
        return f"{done}; {count(self.computed, 'result')} in {self.seconds:.0f} s{others}"


def run_glue(spec: GlueSpec, *, progress: Callable[[int], Callable[[int, str], None]] | None = None) -> GlueSummary:
    """Computes what the study's store lacks. It may be ended at any moment, and called again.

    Args:
        spec: What to run.
        progress: Told a number of examples, counted for each pass over them; gives what is called with the number of
            examples done and a note, such as `jaxpaint.base.progress.bar` gives.

    Raises:
        PlanError, UserError: as `GlueSpec`, `load_examples`, `jaxpaint.load`, `run_frozen` and `run_finetuned`. What
            was written before stands.
    """
    started, computed, elsewhere = time.perf_counter(), 0, 0
    begin = progress or (lambda total: lambda examples, note: None)
    files = spec.files()
    examples = [
        (
            task,
            load_examples(task, TRAIN, local.get(TRAIN), spec.limit_train),
            load_examples(task, task.validation_split, local.get(task.validation_split), spec.limit),
        )
        for task, local in files
    ]
    model = load(spec.model, dtype=spec.dtype, revision=spec.revision)  # type: ignore[arg-type]
    require_pooler(model)
    for task, _ in files:
        check_max_length(model, task, spec.training.max_length)
    variants = spec.variants(model.num_layers)
    with Store.open(spec.store, create=True) as store:
        for task, train, validation in examples:
            common = (model, store, task, train, validation, variants)
            here = environment()
            if isinstance(spec.training, FrozenSettings):
                computed += run_frozen(*common, spec.training, environment=here, progress=begin)
                continue
            cells = finetuned_cells(*common, spec.training)
            passes = len(cells.lacking(store)) * len(spec.training.seeds) * spec.training.epochs
            advance = partial(_noted, begin(passes * len(train)), task.name)
            computed += run_finetuned(*common, spec.training, environment=here, progress=advance)
            elsewhere += len(cells.lacking(store))
    plans = len({variant.plan for variant in variants})
    return GlueSummary(plans, len(examples), computed, elsewhere, time.perf_counter() - started)


def _noted(advance: Callable[[int, str], None], task: str, examples: int, loss: float | None) -> None:
    advance(examples, task if loss is None else f"{task}, loss {loss:.3f}")
