"""A loaded model with what later rooms do with it: text, scores, studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jax.sharding import Mesh

from jaxpaint.base.precision import Weights
from jaxpaint.engine import model as engine
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.generation.written import Asked, Written
    from jaxpaint.studies.asked import Study, Tasks
    from jaxpaint.tasks.scores import Scores


@dataclass(frozen=True, eq=False, repr=False)
class Model(engine.Model):
    """A converted model, ready to run under any layer plan; `jaxpaint.load` gives one.

    `logits`, `hidden_states` and `run` take texts or token ids; `generate`, `evaluate` and `study` text and tasks.
    Wherever a plan is asked for, its text will do.
    """

    def generate(
        self, prompts: Asked | Sequence[Asked], plans: Plan | str | Iterable[Plan | str] | None = None, **options: Any
    ) -> list[Written]:
        """What plans (default: all layers in order) write after a prompt or several, in the order asked.

        >>> model.generate("Once upon a time", plans=["0-15", "0-8 10-15"], max_new_tokens=20)[1].text

        Options (`max_new_tokens`, `stop`, `sampling`, …) and errors are `jaxpaint.generate`'s.
        """
        from jaxpaint.generation.written import generate

        return generate(self, prompts, plans, **options)

    def evaluate(self, tasks: Tasks, plan: Plan | str | None = None, **options: Any) -> Scores:
        """The scores of a plan (default: all layers in order) on tasks of lm-eval's or of one's own.

        >>> model.evaluate(["arc_easy"], "0-8 10-15", limit=100)["arc_easy"]

        Options (`limit`, `data`, `num_fewshot`, `bos`, …) and errors are `jaxpaint.tasks.scores.score_tasks`'s. Several
        plans are scored with less work by `study`.
        """
        from jaxpaint.tasks.scores import score_tasks

        return score_tasks(self, tasks, plan, **options)

    def study(self, plans: Plan | str | Iterable[Plan | str] = (), *, tasks: Tasks, **options: Any) -> Study:
        """`jaxpaint.study` of this model: plans on tasks, beside the full model.

        >>> model.study([model.full_plan.without(layer) for layer in range(4, 12)], tasks="arc_easy").frame()
        """
        from jaxpaint.studies.asked import study

        return study(self, plans, tasks=tasks, **options)


def load(
    model: str | Path,
    *,
    dtype: engine.DType = "auto",
    weights: Weights = "float",
    revision: str | None = None,
    adapter: str | Path | None = None,
    mesh: Mesh | None = None,
    offload: bool = False,
) -> Model:
    """Loads a store, or a Hugging Face or Meta folder, GGUF file or hub id (converted into the cache on first use).

    `dtype` "auto" is float32 on CPU and bfloat16 on accelerators. With `weights` "int8" or "int4" the layers' kernels
    are kept so (`jaxpaint.models.quantised`), and all else in `dtype`. `mesh`
    (`jaxpaint.models.sharding.device_mesh`) spreads the parameters over several devices, each reading its own part.
    With `offload` the layers' kernels stay in the host's memory, from which each layer's come to the device as it runs:
    for models larger than the device. `adapter` is the folder of a LoRA adapter of peft, merged into the weights.

    Raises:
        UserError: no such model, a damaged one, or one of a family that is not known.
    """
    how: Any = {"dtype": dtype, "weights": weights, "revision": revision, "mesh": mesh, "offload": offload}
    loaded = engine.load(model, adapter=adapter, **how)
    return Model(**{field.name: getattr(loaded, field.name) for field in fields(loaded)})
