"""What a probe learns of the full model before it reads plans: sums over half of the texts, solved on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpaint.analysis.ridge import Moments
from jaxpaint.models.family import Config

SEED = 0  # of the draw of texts that are held out
States = Sequence[Float[np.ndarray, "texts S D"]]
"""The full model's, the embeddings first, in float32 on the host."""


class Fitted(NamedTuple):
    """`parameters` are a pytree that probes read on the device; `r2` is R² on texts that the fit has not seen."""

    parameters: Any
    r2: Float[np.ndarray, " fits"]


@dataclass(frozen=True)
class Fit:
    """A first pass, over the full model: `name` is what probes find its parameters under.

    Half of the texts are held out of the fit, and choose its penalty; probes read those alone.

    sums: Of texts' states and lengths, sums that add up over batches, once for each half.
    solve: The parameters from the sums of the texts that are fitted, and of those held out.
    held_bytes: What both halves' sums take on the host.
    """

    name: str
    sums: Callable[[States, Int[np.ndarray, " texts"]], Sequence[Moments]]
    solve: Callable[[Sequence[Moments], Sequence[Moments]], Fitted]
    held_bytes: Callable[[Config], int]


def held_out(count: int) -> Bool[np.ndarray, " texts"]:
    """Which of so many texts are held out of fits: half of them, drawn, since orders of texts have patterns."""
    held = np.zeros(count, bool)
    held[np.random.default_rng(SEED).permutation(count)[: count // 2]] = True
    return held
