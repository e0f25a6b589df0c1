"""What numbers a model is kept and computed in, in words that settings and results share."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, cast, get_args

from jaxpaint.base.errors import UserError

Weights: TypeAlias = Literal["float", "int8", "int4"]
"""What the kernels of a model's layers are kept in (`jaxpaint.models.quantised`)."""

WEIGHTS: tuple[str, ...] = get_args(Weights)


def checked_weights(weights: str) -> Weights:
    """Raises UserError for what weights cannot be kept in."""
    if weights not in WEIGHTS:
        raise UserError(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}")
    return cast(Weights, weights)


def require_float_weights(weights: str) -> None:
    """Raises UserError where there is nothing to fine-tune: integers have no gradient."""
    if weights != "float":
        raise UserError(f"{weights} weights cannot be fine-tuned; leave out --weights {weights}")


def described(dtype: Any, weights: str) -> str:
    """What results of one model are told apart by: `float32`, or `float32, int8 weights`."""
    return str(dtype) if weights == "float" else f"{dtype}, {weights} weights"


def parts(text: str) -> tuple[str, str]:
    """The dtype and the weights of what `described` gave, or of a result that is older than integer weights."""
    dtype, _, weights = text.partition(", ")
    return dtype, weights.removesuffix(" weights") or "float"


# Modules whose kernels weigh experts: small, and what they round off would choose others.
ROUTERS = ("gate", "shared_expert_gate")


def is_quantised(path: str, weights: str) -> bool:
    """Whether the parameter at `path` (`blocks/mlp/up_proj/kernel`) is kept in integers: a kernel of the layers."""
    first, *inside = path.split("/")
    return weights != "float" and first == "blocks" and inside[-1] == "kernel" and inside[-2] not in ROUTERS
