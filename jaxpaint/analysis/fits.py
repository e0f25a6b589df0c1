"""What a probe learns of the full model before it reads plans: sums over half of the texts, solved on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpaint.analysis.ridge import Moments, Ridge, chosen
from jaxpaint.base.memory import memory_left
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

    Half of the texts are held out of the fit, and choose its penalty; probes read those alone. A fit is one regression
    or several, each by itself.

    count: How many regressions it is.
    sums: Of texts' states and lengths the sums of one regression, by its number: they add up over batches and halves.
    gathered: The parameters of the regressions together, in float32.
    sums_bytes: What one regression's sums take on the host, of both halves and while they are solved.
    kept_bytes: What all regressions take there while they are put together.
    """

    name: str
    count: Callable[[Config], int]
    sums: Callable[[States, Int[np.ndarray, " texts"], int], Moments]
    gathered: Callable[[Sequence[Ridge]], Any]
    sums_bytes: Callable[[Config], int]
    kept_bytes: Callable[[Config], int]


Pass: TypeAlias = tuple[tuple[Fit, int], ...]
"""Regressions that are summed up together, in one run of the full model."""


def fit_bytes(fits: Iterable[Fit], config: Config) -> int:
    """The least that fits take on the host: one regression's sums beside what is kept of all."""
    fits = list(fits)
    return max((each.sums_bytes(config) for each in fits), default=0) + sum(each.kept_bytes(config) for each in fits)


def passes(fits: Iterable[Fit], config: Config) -> tuple[Pass, ...]:
    """All regressions of fits, as many at once as half of the memory that is left holds, and one at least."""
    fits, left = list(fits), memory_left()
    allowed = None if left is None else left // 2 - sum(each.kept_bytes(config) for each in fits)
    found: list[list[tuple[Fit, int]]] = []
    used = 0
    for each in fits:
        size = each.sums_bytes(config)
        for number in range(each.count(config)):
            if not found or (allowed is not None and used + size > allowed):
                found.append([])
                used = 0
            found[-1].append((each, number))
            used += size
    return tuple(map(tuple, found))


def solved(train: Moments, held: Moments) -> Ridge:
    """One regression, its weights in float32."""
    found = chosen(train, held)
    return found._replace(weights=found.weights.astype(np.float32), intercept=found.intercept.astype(np.float32))


def held_out(count: int) -> Bool[np.ndarray, " texts"]:
    """Which of so many texts are held out of fits: half of them, drawn, since orders of texts have patterns."""
    held = np.zeros(count, bool)
    held[np.random.default_rng(SEED).permutation(count)[: count // 2]] = True
    return held
