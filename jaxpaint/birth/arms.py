"""Arms: runs that differ in seed, freezes, plan, texts or loss, all of which are data, so that they train as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxpaint.base.errors import UserError
from jaxpaint.birth.data import NO_TOKEN, Batch, DataSettings, Source, source_of
from jaxpaint.birth.layers import NEVER, Parameters
from jaxpaint.birth.model import FULL
from jaxpaint.engine.events import Events, stacked_events
from jaxpaint.plans.plan import Plan

LossOver: TypeAlias = Literal["in-context", "all"]
# The paper's names of what may be frozen, and where it lies: a parameter's path, and a layer of it.
MEMORIES: Mapping[str, tuple[tuple[str, int], ...]] = {
    "W_K1": (("layers/key", 0),),
    "W_K2": (("layers/key", 1),),
    "W_O2": (("layers/output", 1),),
    "W_F": (("layers/feed_forward", 1), ("layers/feed_forward_in", 1), ("layers/feed_forward_out", 1)),
}


class Model(Protocol):
    """A hashable architecture: `jaxpaint.birth.model.SmallModel` or `jaxpaint.birth.general.GeneralModel`."""

    @property
    def layers(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def vocabulary(self) -> int: ...

    def init(self, key: Array) -> Parameters: ...

    def logits(self, parameters: Parameters, events: Events, tokens: Int[Array, "B T"]) -> Float[Array, "B T N"]: ...

    def released(self, embeddings: bool) -> dict[str, np.ndarray]:
        """The step from which each trained parameter is trained, by its path: a number, or one for each layer."""

    def memories(self, parameters: Parameters, stored: Array, triggers: Array, bigrams: Array) -> dict[str, Array]:
        """What the weights alone tell; nothing where there are no such probes."""

    def attended(
        self, parameters: Parameters, events: Events, batch: Batch
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """What its layers look at: numbers, and maps [S, S] of the first text; nothing without such probes."""


@dataclass(frozen=True)
class Arm:
    """One run.

    Attributes:
        name: what tells it apart in tables and figures; arms of several seeds share it.
        seed: of its weights, its texts and its test, each drawn from a generator of its own.
        plan: the layer plan it is trained and tested under.
        frozen_until: steps at which frozen parameters (`MEMORIES`) are released; `NEVER` is a number too.
        data: its texts.
        test: the texts it is tested on, where they are drawn in another way.
        loss: over the positions that can be predicted in context, or all.
        embeddings: whether w_E and w_U are trained too.
    """

    name: str
    seed: int = 0
    plan: Plan = FULL
    frozen_until: Mapping[str, int] = field(default_factory=dict)
    data: DataSettings = field(default_factory=DataSettings)
    test: DataSettings | None = None
    loss: LossOver = "in-context"
    embeddings: bool = False


class Arms(NamedTuple):
    """Arms as data, along a leading axis A: what one executable takes, whatever the arms are.

    `release` says from which step each trained parameter moves; `stored` [A, N] are the tokens that the trigger memory
    is asked for; `stream` [A] which of the S streams of texts an arm reads, `sources`, `tests` and `data_seeds` [S].
    """

    events: Events
    release: dict[str, Int[Array, "A ..."]]
    everywhere: Bool[Array, " A"]
    weight_seeds: Int[Array, " A"]
    stored: Int[Array, "A N"]
    stream: Int[Array, " A"]
    sources: Source
    tests: Source
    data_seeds: Int[Array, " S"]


def stacked(model: Model, arms: Sequence[Arm], size: int | None = None) -> Arms:
    """The arms as data, their plans padded to `size` events (the costliest plan's unless given).

    Raises UserError for a plan that the model cannot run and for memories that it does not have.
    """
    streams = list(dict.fromkeys((arm.data, arm.test or arm.data, arm.seed) for arm in arms))
    room = max(data.count for each in streams for data in each[:2])
    sources = [source_of(data, room=room) for data, _, _ in streams]
    tests = [source_of(test, for_test=True, room=room) for _, test, _ in streams]
    embeddings = any(arm.embeddings for arm in arms)
    trained = [_release(model, arm, embeddings) for arm in arms]
    return Arms(
        events=stacked_events([arm.plan.validate(model.layers) for arm in arms], size),
        release=_stack(trained),
        everywhere=jnp.array([arm.loss == "all" for arm in arms]),
        weight_seeds=jnp.array([arm.seed for arm in arms], jnp.uint32),
        stored=jnp.array([_stored(model, sources[streams.index((a.data, a.test or a.data, a.seed))]) for a in arms]),
        stream=jnp.array([streams.index((arm.data, arm.test or arm.data, arm.seed)) for arm in arms]),
        sources=_stack(sources),
        tests=_stack(tests),
        data_seeds=jnp.array([seed for _, _, seed in streams], jnp.uint32),
    )


def _release(model: Model, arm: Arm, embeddings: bool) -> dict[str, np.ndarray]:
    """Of one arm; with `embeddings` some arm trains them, and where this one does not they are frozen for good."""
    own = model.released(arm.embeddings)
    every = model.released(embeddings)
    found = {path: np.array(own.get(path, np.full_like(steps, NEVER)), np.int32) for path, steps in every.items()}
    for name, step in arm.frozen_until.items():
        places = [(path, layer) for path, layer in MEMORIES.get(name, ()) if path in found]
        if not places:
            raise UserError(f"{name} cannot be frozen; this model trains {', '.join(_trained(found))}")
        for path, layer in places:
            found[path][layer] = max(step, found[path][layer])
    return found


def _trained(found: Mapping[str, np.ndarray]) -> list[str]:
    return [name for name, places in MEMORIES.items() if any(path in found for path, _ in places)]


def _stored(model: Model, source: Source) -> np.ndarray:
    """The tokens that may be triggers: the fixed ones, or all."""
    tokens = np.arange(model.vocabulary)
    if bool(source.random):
        return tokens
    fixed = np.array(source.triggers)
    return np.concatenate([fixed, np.full(model.vocabulary - len(fixed), NO_TOKEN)])


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)
