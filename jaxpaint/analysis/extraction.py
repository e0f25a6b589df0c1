"""Which updates say the answer: a sublayer *extracts* it where what it writes at the last token has it on top.

As Geva et al. (arXiv 2304.14767) count it: before it is added, by itself, through the head. The final norm's scale is
kept and its statistics are not, which no positive factor changes, nor then a branch's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.compilation import jit
from jaxpaint.engine.run import Run


@dataclass(frozen=True, eq=False)
class Extraction:
    """Of one plan, prompt by prompt: whether each event's attention, its feed-forward and each whole step extracts.

    What is extracted is `token`, the plan's own most likely one. A step's update is what it adds to the state: of an
    averaged group the mean of its branches'.
    """

    token: Int[np.ndarray, " prompts"]
    attention: Bool[np.ndarray, "E prompts"]
    mlp: Bool[np.ndarray, "E prompts"]
    steps: Bool[np.ndarray, "steps prompts"]

    @property
    def shares(self) -> dict[str, float]:
        """Of the prompts: with an event of attention, of the feed-forward, of both kinds, of neither."""
        attention, mlp = self.attention.any(axis=0), self.mlp.any(axis=0)
        each = {"attention": attention, "mlp": mlp, "both": attention & mlp, "neither": ~(attention | mlp)}
        return {name: float(found.mean()) for name, found in each.items()}

    def later(self, depths: Sequence[int]) -> Float[np.ndarray, " both"]:
        """1 of each prompt whose first event of attention is later than its first of the feed-forward, 0 of the others.

        Of the prompts that have both, by the events' `depths`, the plan's clock: of one layer attention comes first.
        """
        both = self.attention.any(axis=0) & self.mlp.any(axis=0)
        at = np.asarray(depths, np.float64)[:, None]
        first, other = (np.where(kind[:, both], at, np.inf).min(axis=0) for kind in (self.attention, self.mlp))
        return (first > other).astype(np.float64)


def extraction(run: Run, rows: int | None = None) -> Extraction:
    """The extraction events of a run's first `rows`, all of them unless given."""
    own = run.model.graphdef, run.model.state
    token = np.asarray(run.last_logits.argmax(axis=-1))
    found = [token, *(most_likely(*own, each) == token for each in updates(run).values())]
    return Extraction(*(each[..., :rows] for each in found))


def joined(parts: Sequence[Extraction]) -> Extraction:
    """Of the same plan's prompts, one after the other."""
    names = [field.name for field in fields(Extraction)]
    return Extraction(*(np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in names))


def updates(run: Run) -> dict[str, Float[np.ndarray, "of B D"]]:
    """At each row's last token: what events' attention and feed-forward wrote, and what each step added."""
    run.keep("states", "attention_out", "mlp_out")
    last = run.lengths - 1
    states = run.at_places("states", last).astype(np.float32)
    at_last = {"attention": run.at_places("attention_out", last), "mlp": run.at_places("mlp_out", last)}
    return {**at_last, "steps": states[1:] - states[:-1]}


def most_likely(graphdef: Any, state: Any, update: Float[np.ndarray, "of B D"]) -> Int[np.ndarray, "of B"]:
    """The token that each update has on top."""
    return np.stack([jax.device_get(_most_likely(graphdef, state, each)) for each in update])


@jit("graphdef")
def _most_likely(graphdef, state, update):
    return on_top(nnx.merge(graphdef, state), update)


def on_top(model: Any, update: Float[Array, "B D"]) -> Int[Array, " B"]:
    """The token that each row of an update has on top."""
    update = update.astype(jnp.float32)
    scale = model.norm.scale[...].astype(jnp.float32) + (1.0 if model.traits.norm_offset else 0.0)
    if model.traits.norm == "layer":
        update -= update.mean(axis=-1, keepdims=True)
    weighed = (update * scale).astype(model.norm.scale[...].dtype)
    return model.vocabulary_logits(weighed, 0, model.config.vocab_size).argmax(axis=0)
