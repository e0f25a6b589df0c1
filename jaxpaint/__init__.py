"""jaxpaint: frozen pretrained transformers under any layer plan, compiled with JAX.

>>> import jaxpaint as jp
>>> model = jp.load("painter-16")
>>> model.generate("question : what is the animal of lumor ? answer :", plans=["0-15", "0-3 {4-11}*2 12-15"])
>>> model.study(["0-7 9-15"], tasks="painter_facts").frame()
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
    from jaxpaint.engine.next_tokens import most_likely_next
    from jaxpaint.engine.run import Run
    from jaxpaint.face.model import Model, load
    from jaxpaint.generation import Prompt, Sampling
    from jaxpaint.generation.written import Written, generate
    from jaxpaint.plans.plan import Plan, PlanError
    from jaxpaint.plans.strategies import build, family
    from jaxpaint.report import write_report
    from jaxpaint.studies.asked import Study, study
    from jaxpaint.studies.run import run_study
    from jaxpaint.studies.spec import StudySpec
    from jaxpaint.tasks.own import multiple_choice
    from jaxpaint.tasks.scores import Scores
    from jaxpaint.training.heal import heal
    from jaxpaint.training.settings import HealingSettings

__all__ = [
    "HealingSettings", "Knockout", "Model", "Plan", "PlanError", "Prompt", "Replace", "Run", "Sampling", "Scale",
    "Scores", "Study", "StudySpec", "UserError", "Written", "analyse", "build", "family", "generate", "heal", "load",
    "most_likely_next", "multiple_choice", "propose", "routes", "run_study", "score_masked", "study", "write_report",
]  # fmt: skip

# Most bring JAX along, so each is imported when it is first used.
_HOMES = {
    "HealingSettings": "jaxpaint.training.settings",
    "Knockout": "jaxpaint.engine.interventions",
    "Model": "jaxpaint.face.model",
    "Plan": "jaxpaint.plans.plan",
    "PlanError": "jaxpaint.plans.plan",
    "Prompt": "jaxpaint.generation",
    "Replace": "jaxpaint.engine.interventions",
    "Run": "jaxpaint.engine.run",
    "Sampling": "jaxpaint.generation",
    "Scale": "jaxpaint.engine.interventions",
    "Scores": "jaxpaint.tasks.scores",
    "Study": "jaxpaint.studies.asked",
    "StudySpec": "jaxpaint.studies.spec",
    "Written": "jaxpaint.generation.written",
    "analyse": "jaxpaint.analysis.states",
    "build": "jaxpaint.plans.strategies",
    "family": "jaxpaint.plans.strategies",
    "generate": "jaxpaint.generation.written",
    "heal": "jaxpaint.training.heal",
    "load": "jaxpaint.face.model",
    "most_likely_next": "jaxpaint.engine.next_tokens",
    "multiple_choice": "jaxpaint.tasks.own",
    "propose": "jaxpaint.analysis.measurements",
    "routes": "jaxpaint.analysis.routes",
    "run_study": "jaxpaint.studies.run",
    "score_masked": "jaxpaint.engine.masked",
    "study": "jaxpaint.studies.asked",
    "write_report": "jaxpaint.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'jaxpaint' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
