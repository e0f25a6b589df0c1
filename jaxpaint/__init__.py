"""jaxpaint: frozen pretrained transformers under any layer plan, compiled with JAX.

>>> import jaxpaint as jp
>>> model = jp.load("path/to/model", dtype="float32")
>>> model.logits(tokens, plan=jp.Plan.parse("0-8 {9-22}*3 23-31"))
"""

from __future__ import annotations

from jaxpaint.base import __version__ as __version__
from jaxpaint.base.errors import UserError

# Nothing else is imported: the command minds signals first.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from jaxpaint.analysis.measurements import propose
    from jaxpaint.analysis.routes import routes
    from jaxpaint.analysis.states import analyse
    from jaxpaint.engine.interventions import Knockout, Replace, Scale
    from jaxpaint.engine.masked import score_masked
    from jaxpaint.engine.model import Model, load
    from jaxpaint.engine.next_tokens import most_likely_next
    from jaxpaint.engine.run import Run
    from jaxpaint.generation import Prompt, Sampling, generate
    from jaxpaint.plans.plan import Plan, PlanError
    from jaxpaint.plans.strategies import build, family
    from jaxpaint.report import write_report
    from jaxpaint.study.run import run_study
    from jaxpaint.study.spec import StudySpec
    from jaxpaint.training.heal import heal
    from jaxpaint.training.settings import HealingSettings

__all__ = [
    "HealingSettings", "Knockout", "Model", "Plan", "PlanError", "Prompt", "Replace", "Run", "Sampling", "Scale",
    "StudySpec", "UserError", "analyse", "build", "family", "generate", "heal", "load", "most_likely_next", "propose",
    "routes", "run_study", "score_masked", "write_report",
]  # fmt: skip

# Most bring JAX along, so each is imported when it is first used.
_HOMES = {
    "HealingSettings": "jaxpaint.training.settings",
    "Knockout": "jaxpaint.engine.interventions",
    "Model": "jaxpaint.engine.model",
    "Plan": "jaxpaint.plans.plan",
    "PlanError": "jaxpaint.plans.plan",
    "Prompt": "jaxpaint.generation",
    "Replace": "jaxpaint.engine.interventions",
    "Run": "jaxpaint.engine.run",
    "Sampling": "jaxpaint.generation",
    "Scale": "jaxpaint.engine.interventions",
    "StudySpec": "jaxpaint.study.spec",
    "analyse": "jaxpaint.analysis.states",
    "build": "jaxpaint.plans.strategies",
    "family": "jaxpaint.plans.strategies",
    "generate": "jaxpaint.generation",
    "heal": "jaxpaint.training.heal",
    "load": "jaxpaint.engine.model",
    "most_likely_next": "jaxpaint.engine.next_tokens",
    "propose": "jaxpaint.analysis.measurements",
    "routes": "jaxpaint.analysis.routes",
    "run_study": "jaxpaint.study.run",
    "score_masked": "jaxpaint.engine.masked",
    "write_report": "jaxpaint.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxpaint' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
