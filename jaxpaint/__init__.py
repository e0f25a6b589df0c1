"""jaxpaint: frozen pretrained transformers under any layer plan, compiled with JAX.

>>> import jaxpaint as jp
>>> model = jp.load("path/to/model", dtype="float32")
>>> model.logits(tokens, plan=jp.Plan.parse("0-8 {9-22}*3 23-31"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan, PlanError

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "Plan", "PlanError", "UserError", "load"]


def __getattr__(name: str) -> Any:
    """`load` and `Model` bring JAX along, so they are imported when first used."""
    if name in ("Model", "load"):
        from jaxpaint.engine import model

        return getattr(model, name)
    raise AttributeError(f"module 'jaxpaint' has no attribute {name!r}")
