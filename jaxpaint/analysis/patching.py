"""Extraction from early states: would attention still say the answer, did it read a key set as it was before?

As Geva et al. (arXiv 2304.14767) ask it, event by event: what a step's attention reads at some positions is replaced by
the states that these had after an earlier step of the same plan, and nothing else, before or after, is changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxpaint.analysis.extraction import on_top
from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.base.compilation import jit
from jaxpaint.engine.layers import run_layer
from jaxpaint.engine.run import Run
from jaxpaint.models.observed import Edits

# Of the 48 layers of Geva et al., whose states are put in place of later ones.
DONORS = (0, 1, 5, 10, 20)
OF_LAYERS = 48


def donors(steps: int) -> tuple[int, ...]:
    """The states (0: the embeddings) that are put in place of later ones, of a plan of so many steps."""
    return tuple(dict.fromkeys(min(steps, round(layer * steps / OF_LAYERS)) for layer in DONORS))


def extracts_with(run: Run, prompts: Sequence[Prompt], states: Sequence[int]) -> Bool[np.ndarray, "donors sets E B"]:
    """Whether each event's attention extracts the run's own answer, did it read a key set in an earlier state.

    `states` are the donors' numbers; an event that reads no later state than a donor reads its own.
    """
    run.keep("reads", "states")
    rows, width = run.inputs.tokens.shape
    masks = np.zeros((len(prompts[0].sets), rows, width), bool)
    for row, prompt in enumerate([*prompts, *[prompts[-1]] * (rows - len(prompts))]):
        for number, places in enumerate(prompt.sets):
            masks[number, row, list(places)] = True
    layers = jnp.array([event.layer for event in run.events])
    steps = np.array([event.step - 1 for event in run.events])  # the state that the event's step began with
    token = run.last_logits.argmax(axis=-1)
    own = run.model.graphdef, run.model.state, run.lengths, token, layers, run.reads
    found = [
        np.asarray(_extracts(*own, run.states[donor], masks, steps > donor))[..., : len(prompts)] for donor in states
    ]
    return np.stack(found)


@jit("graphdef")
def _extracts(graphdef, state, lengths, token, layers, reads, donor, masks, later):
    """[sets, E, B] of one donor's state [B, S, D]."""
    model = nnx.merge(graphdef, state)
    model.kernel = None
    context, kinds = model.row_context(lengths, reads.shape[2]), model.layer_kinds
    blocks, stacked = nnx.split(model.blocks)
    rows = jnp.arange(len(lengths))

    def block(parameters: Any, x: Array, context: Any) -> Float[Array, "B D"]:
        asked = frozenset({"attention_out"})
        return nnx.merge(blocks, parameters).observed(x, context, Edits(), asked)[1]["attention_out"][rows, lengths - 1]

    def event(place: tuple[Array, Array, Array]) -> Bool[Array, "sets B"]:
        layer, read, is_later = place
        own = context if kinds is None else context.of_kind(jnp.array(kinds)[layer])

        def with_set(mask: Bool[Array, "B S"]) -> Bool[Array, " B"]:
            x = jnp.where((mask & is_later)[..., None], donor, read)
            return on_top(model, run_layer(block, stacked, layer, x, own)) == token

        return jax.lax.map(with_set, masks)

    return jax.lax.map(event, (layers, reads, later)).swapaxes(0, 1)
