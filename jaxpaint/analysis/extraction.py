"""Which updates say the answer: a sublayer *extracts* it where what it writes at the last token has it on top.

As Geva et al. (arXiv 2304.14767) count it: before it is added, by itself, through the head. The final norm's scale is
kept and its statistics are not, which no positive factor changes, nor then a branch's weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.base.budgets import budgets
from jaxpaint.base.compilation import jit
from jaxpaint.engine.model import Model
from jaxpaint.engine.run import Run
from jaxpaint.plans.plan import Plan


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


def extraction(model: Model, prompts: Sequence[Prompt], plan: Plan) -> Extraction:
    """The plan's extraction events of prompts. Raises PlanError and UserError as `Model.run`."""
    # A run keeps what events wrote at every position, though the last one's is read.
    position_bytes = 3 * plan.cost * model.config.hidden_size * model.dtype.itemsize
    longest = max(len(prompt.tokens) for prompt in prompts)
    height = max(1, min(len(prompts), budgets().analysis_bytes // (position_bytes * longest)))
    parts = []
    for start in range(0, len(prompts), height):
        part = prompts[start : start + height]
        padded = [*part, *[part[-1]] * (height - len(part))]
        found = _extracted(model.run([prompt.tokens for prompt in padded], plan))
        parts.append([each[..., : len(part)] for each in found])
    return Extraction(*(np.concatenate(each, axis=-1) for each in zip(*parts, strict=True)))


def updates(run: Run) -> dict[str, Float[Array, "of B D"]]:
    """At each row's last token: what events' attention and feed-forward wrote, and what each step added."""
    run.keep("states", "attention_out", "mlp_out")
    rows, last = np.arange(len(run.lengths)), run.lengths - 1
    states = run.states[:, rows, last].astype(jnp.float32)
    at_last = {"attention": run.attention_out[:, rows, last], "mlp": run.mlp_out[:, rows, last]}
    return {**at_last, "steps": states[1:] - states[:-1]}


def _extracted(run: Run) -> Sequence[np.ndarray]:
    own = run.model.graphdef, run.model.state
    token = np.asarray(run.last_logits.argmax(axis=-1))
    return [token, *(_top(*own, each) == token for each in updates(run).values())]


def _top(graphdef: Any, state: Any, update: Any) -> Int[np.ndarray, "of B"]:
    return np.stack([jax.device_get(_most_likely(graphdef, state, each)) for each in update])


@jit("graphdef")
def _most_likely(graphdef, state, update):
    model = nnx.merge(graphdef, state)
    update = update.astype(jnp.float32)
    scale = model.norm.scale[...].astype(jnp.float32) + (1.0 if model.traits.norm_offset else 0.0)
    if model.traits.norm == "layer":
        update -= update.mean(axis=-1, keepdims=True)
    weighed = (update * scale).astype(model.norm.scale[...].dtype)
    return model.vocabulary_logits(weighed, 0, model.config.vocab_size).argmax(axis=0)
