"""The head written down, under plans: what no training gives, at several scales of what it writes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxpaint.base.compilation import jit
from jaxpaint.birth.data import sample, source_of
from jaxpaint.birth.ideal import ideal
from jaxpaint.birth.probes import recalls
from jaxpaint.birth.settings import Settings
from jaxpaint.birth.train import OF_TEST, OF_WEIGHTS, key_of, plan_accuracy
from jaxpaint.engine.events import stacked_events
from jaxpaint.plans.plan import Plan

ROWS = 32


class Written(NamedTuple):
    """In-context accuracy [gammas, plans], and each memory's recall."""

    accuracy: Float[np.ndarray, "gammas plans"]
    recall: dict[str, float]


def written_down(settings: Settings, seed: int = 0) -> Written:
    """The ideal head of the settings' model, b and gammas; near-orthogonal, positions random, whatever theirs are."""
    from dataclasses import replace

    model = replace(settings.small, start="orthogonal", feed_forward="none", positions="random")
    source = source_of(settings.data)
    triggers = jnp.arange(model.vocabulary) if settings.data.triggers == "random" else source.triggers
    batch = sample(source, key_of(seed, OF_TEST), ROWS, settings.length)
    plans = stacked_events(map(Plan.parse, settings.plans))
    start = model.init(key_of(seed, OF_WEIGHTS))
    rows = []
    for gamma in settings.ideal_gamma:
        parameters = ideal(model, start, triggers, b=settings.ideal_b, gamma=gamma)
        rows.append(np.asarray(_accuracies(model, parameters, plans, batch)))
    return Written(np.stack(rows), {name: float(value) for name, value in recalls(parameters, triggers).items()})


@jit("model")
def _accuracies(model, parameters, plans, batch):
    return jax.lax.map(lambda each: plan_accuracy(model, parameters, each, batch), plans)
