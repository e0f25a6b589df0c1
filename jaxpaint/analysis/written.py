"""What writes the answer's logit, step by step of a plan's clock: attention to each key set, and feed-forwards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.engine.model import Model
from jaxpaint.engine.run import Run
from jaxpaint.results.flow import WRITERS


def sources_are_known(model: Model) -> bool:
    """Whether what attention gives is the sum of its heads and sources: not where a norm follows it."""
    traits: Any = getattr(model.config, "traits", None)
    return not traits.norms[1]


def reads_of_sources(run: Run, row: int) -> Float[np.ndarray, "depths S"]:
    """What attention to each token writes of the logit of a row's answer, its own most likely token."""
    parts, _ = run.attribution_by_head()
    found = np.zeros((run.plan.chain_length, parts.shape[-1]))
    for event, each in zip(run.events, parts[:, row].sum(axis=1), strict=True):
        found[event.depth] += each
    return found


def written(run: Run, prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompts depths writers"]:
    """Of each prompt's answer, its own most likely token; what biases of attention's output write is not in it.

    Raises:
        UserError: attention's output is normed, which mixes heads and sources.
    """
    parts, _ = run.attribution_by_head()
    feed_forward = run.attribution().mlp
    by_source = parts.sum(axis=2)
    found = np.zeros((len(prompts), run.plan.chain_length, len(WRITERS)))
    for row, prompt in enumerate(prompts):
        length = len(prompt.tokens)
        own = [list(places) for places in prompt.sets]
        others = [at for at in range(length) if not any(at in places for places in prompt.sets)]
        for event in run.events:
            of_event = by_source[event.number, row]
            sources = [of_event[places].sum() for places in (*own, others)]
            found[row, event.depth] += [*sources, feed_forward[event.number, row]]
    return found
