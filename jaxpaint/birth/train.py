"""Trains arms together: one executable steps all of them, on fresh texts, and what is frozen does not move by a bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.compilation import jit
from jaxpaint.base.errors import UserError
from jaxpaint.birth.arms import Arm, Arms, Model, stacked
from jaxpaint.birth.behaviour import losses, mean, scores
from jaxpaint.birth.data import Batch, sample
from jaxpaint.birth.layers import Parameters
from jaxpaint.birth.spread import State, each, mesh_of, narrowed, widened
from jaxpaint.engine.events import Events, stacked_events
from jaxpaint.plans.plan import Plan
from jaxpaint.training.checkpoints import TrainingCheckpoints

Optimizer: TypeAlias = Literal["sgd", "adamw"]
CHECKPOINT_SECONDS = 30.0
MOMENTUM = 0.9
# Salts that part the generators of one seed: weights, texts, test texts.
OF_WEIGHTS, OF_TEXTS, OF_TEST = range(3)


@dataclass(frozen=True)
class Training:
    """How arms are trained: `rows` fresh texts a step, measured every `every` steps on `test_rows` texts.

    `sgd` has momentum 0.9, `adamw` betas of 0.9 and 0.99. `watched` plans are tried on every arm each time, on
    `plan_rows` texts.
    """

    steps: int
    rows: int
    learning_rate: float
    optimizer: Optimizer = "sgd"
    weight_decay: float = 1e-4
    every: int = 10
    test_rows: int = 128
    watched: tuple[Plan, ...] = ()
    plan_rows: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1 or self.every < 1 or self.steps % self.every:
            raise UserError(f"{self.steps} steps, measured every {self.every}; expected a multiple of it")

    def transformation(self) -> optax.GradientTransformation:
        """As optax knows it."""
        if self.optimizer == "adamw":
            return optax.adamw(self.learning_rate, b2=0.99, weight_decay=self.weight_decay)
        decay = optax.add_decayed_weights(self.weight_decay)
        return optax.chain(decay, optax.sgd(self.learning_rate, momentum=MOMENTUM))


@dataclass(frozen=True, eq=False)
class Trained:
    """What training came to.

    Attributes:
        arms: in the order of every axis A.
        parameters: of all arms, stacked along A.
        steps: [steps] curves of every step on its own batch, by name: [steps, A], steps counted from 0.
        measured: curves on the test texts and of the weights, by name: [1 + steps / every, A], the start first.
        watched: in-context accuracy under each watched plan, by its text: [1 + steps / every, A].
        maps: the first arm's attention in its first test text, by layer: [1 + steps / every, S, S]; none of a model
            without probes of attention.
        seconds: that it took, compilation included; of the last process where several took part.
    """

    model: Model
    training: Training
    arms: tuple[Arm, ...]
    parameters: Parameters
    steps: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    watched: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    seconds: float

    @property
    def at(self) -> np.ndarray:
        """The steps after which `measured` was measured."""
        return np.arange(0, self.training.steps + 1, self.training.every)


def train(
    model: Model,
    arms: Sequence[Arm],
    training: Training,
    *,
    size: int | None = None,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Trained:
    """Trains all arms from their seeds. `size` as in `jaxpaint.birth.arms.stacked`.

    With `checkpoints` a killed run goes on from the last one and ends with the same numbers to the bit. `progress` is
    called with the steps just done and a word on how it goes. Raises UserError for arms that cannot be, and
    FloatingPointError where a loss is not finite.
    """
    began = time.monotonic()
    mesh, count = mesh_of(len(arms)), len(arms)
    data = stacked(model, [*arms, *[arms[-1]] * (-count % mesh.size)], size)
    start, tests = _begin(model, data, training)
    trained, frozen = split(start, data.release)
    own = {path: leaf[:count] for path, leaf in trained.items()}
    found = checkpoints.latest(lambda: _abstract(own, data, model, training)) if checkpoints else None
    state = widened(_empty(own, data, model, training) if found is None else found, len(data.stream), mesh)
    if found is None:
        state = _measured(model, training, mesh, data, frozen, tests, state)
    elif progress and int(state.done):
        progress(int(state.done), "continued")
    saved = time.monotonic()
    while (done := int(state.done)) < training.steps:
        state = _chunk(model, training, mesh, data, frozen, state)
        state = _measured(model, training, mesh, data, frozen, tests, state)
        loss = float(state.steps["loss"][done : done + training.every].mean())
        if not np.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} after {done + training.every} steps")
        if progress:
            progress(training.every, f"loss {loss:.2f}")
        if checkpoints and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            checkpoints.write(int(state.done), narrowed(state, count))
            saved = time.monotonic()
    state, frozen = narrowed(state, count), {path: leaf[:count] for path, leaf in frozen.items()}
    return Trained(
        model=model,
        training=training,
        arms=tuple(arms),
        parameters=joined(state.parameters, frozen),
        steps=jax.tree.map(np.asarray, state.steps),
        measured=jax.tree.map(np.asarray, state.measured),
        watched=jax.tree.map(np.asarray, state.watched),
        maps=jax.tree.map(lambda map_: np.asarray(map_[0]), state.maps),
        seconds=time.monotonic() - began,
    )


def split(parameters: Parameters, release: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """`(trained, frozen)` by path: what has no step of release is never differentiated."""
    flat = {"/".join(str(key.key) for key in path): leaf for path, leaf in jax.tree.leaves_with_path(parameters)}
    trained = {path: leaf for path, leaf in flat.items() if path in release}
    return trained, {path: leaf for path, leaf in flat.items() if path not in release}


def joined(*parts: dict[str, Array]) -> Parameters:
    """The tree that `split` took apart."""
    tree: Parameters = {}
    for path, leaf in (item for part in parts for item in part.items()):
        *folders, name = path.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = leaf
    return tree


def key_of(seed: Array | int, salt: int) -> Array:
    """A generator of its own for each use of a seed."""
    return jax.random.fold_in(jax.random.key(seed), salt)


@jit("model", "training")
def _begin(model, data, training):
    """All arms' parameters at the start, and every stream's test texts."""

    def texts(source, seed):
        return sample(source, key_of(seed, OF_TEST), training.test_rows, model.length)

    parameters = jax.vmap(lambda seed: model.init(key_of(seed, OF_WEIGHTS)))(data.weight_seeds)
    return parameters, jax.vmap(texts)(data.tests, data.data_seeds)


def _empty(trained: Any, data: Arms, model: Model, training: Training) -> State:
    arms, records = len(jax.tree.leaves(trained)[0]), 1 + training.steps // training.every
    # Copied: steps take the state's memory over.
    parameters = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), trained)
    names = ("loss", "accuracy", "in_context_loss", "global_loss")

    def unknown(length: int) -> Array:
        return jnp.full((length, arms), jnp.nan, jnp.float32)

    told, maps = _shapes(model, data)
    return State(
        jnp.zeros((), jnp.int32),
        parameters,
        jax.vmap(training.transformation().init)(parameters),
        {name: unknown(training.steps) for name in names},
        {name: unknown(records) for name in told},
        {str(plan): unknown(records) for plan in training.watched},
        {name: jnp.full((1, records, *map_.shape), jnp.nan, jnp.float32) for name, map_ in maps.items()},
    )


def _abstract(trained: Any, data: Arms, model: Model, training: Training) -> State:
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = jax.eval_shape(lambda: _empty(trained, data, model, training))
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), shapes)


# XLA's library is faster here (docs/birth.md).
@jit("model", "training", "mesh", donate=("state",), default_products=True)
def _chunk(model, training, mesh, data, frozen, state):
    """Steps until the next measurement."""
    return each(mesh, partial(_trained_on, model, training))(data, frozen, (), state)


def _trained_on(model, training, data, frozen, _, state):
    """On one device, of its share of the arms."""
    optimizer, numbers = training.transformation(), state.done + jnp.arange(training.every)

    def texts(number):
        def of_stream(source, seed):
            return sample(source, jax.random.fold_in(key_of(seed, OF_TEXTS), number), training.rows, model.length)

        return jax.vmap(of_stream)(data.sources, data.data_seeds)

    def of_arm(lane, number):
        trained, moments, frozen, events, release, everywhere, batch = lane

        def loss(trained):
            logits = model.logits(joined(trained, frozen), events, batch.tokens)
            each, counters = losses(logits, batch), batch.counters
            correct = jnp.argmax(logits, axis=-1) == batch.labels
            value = mean(each, everywhere | (counters >= 2))
            return value, {
                "loss": value,
                "accuracy": mean(correct, counters >= 2),
                "in_context_loss": mean(each, counters >= 2),
                "global_loss": mean(each, counters == 0),
            }

        gradient, told = jax.grad(loss, has_aux=True)(trained)
        updates, after = optimizer.update(gradient, moments, trained)
        moved = {path: number >= _over(release[path], leaf) for path, leaf in trained.items()}
        chosen = jax.tree.map(jnp.where, moved, optax.apply_updates(trained, updates), trained)
        # A frozen parameter's moments stay at zero, where they begin: it is released as if training began then.
        kept = optax.tree_utils.tree_map_params(
            optimizer, lambda moment, moves: jnp.where(moves, moment, 0), after, moved
        )
        return chosen, kept, told

    def step(carry, given):
        trained, moments = carry
        number, batches = given
        own = jax.tree.map(lambda leaf: leaf[data.stream], batches)
        lanes = (trained, moments, frozen, data.events, data.release, data.everywhere, own)
        # Batched products are slower on a CPU than single ones (docs/birth.md).
        together = jax.lax.map if on_cpu() else lambda run, lanes: jax.vmap(run)(lanes)
        trained, moments, told = together(lambda lane: of_arm(lane, number), lanes)
        return (trained, moments), told

    batches = jax.vmap(texts)(numbers)
    (trained, moments), told = jax.lax.scan(step, (state.parameters, state.moments), (numbers, batches))
    steps = {name: _placed(curve, told[name], state.done) for name, curve in state.steps.items()}
    return state._replace(done=state.done + training.every, parameters=trained, moments=moments, steps=steps)


def _over(release: Array, leaf: Array) -> Array:
    """Steps of release, of a whole parameter or of each layer, that broadcast with it."""
    return release.reshape(release.shape + (1,) * (leaf.ndim - release.ndim))


def _shapes(model: Model, data: Arms) -> Any:
    """Of everything that is measured of an arm."""
    one = jax.tree.map(lambda leaf: leaf[0], data)
    shape = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    batch = jax.eval_shape(lambda: sample(one.sources, jax.random.key(0), 1, model.length))
    return jax.eval_shape(lambda p, b: _measures(model, p, one.events, b, one.stored, one.sources), shape, batch)


def _measures(model: Model, parameters: Parameters, events: Events, batch: Batch, stored: Array, source: Any):
    """One arm's scores on its test texts and what its weights store, and its maps of attention."""
    bigrams = jnp.diff(jnp.minimum(source.following, 1), prepend=0.0, axis=1)
    triggers = jnp.where(source.random, -1, source.triggers)
    told = scores(model.logits(parameters, events, batch.tokens), batch)
    attended, maps = model.attended(parameters, events, batch)
    return told | attended | model.memories(parameters, stored, triggers, bigrams), maps


@jit("model", "training", "mesh", donate=("state",), default_products=True)
def _measured(model, training, mesh, data, frozen, tests, state):
    """The state with its next record."""
    return each(mesh, partial(_measured_on, model, training))(data, frozen, tests, state)


def _measured_on(model, training, data, frozen, tests, state):
    """On one device, of its share of the arms."""
    plans = stacked_events(training.watched) if training.watched else None

    def of_arm(arm):
        trained, frozen, events, stored, stream = arm
        parameters = joined(trained, frozen)
        source, batch = jax.tree.map(lambda leaf: leaf[stream], (data.sources, tests))
        told, maps = _measures(model, parameters, events, batch, stored, source)
        few = jax.tree.map(lambda leaf: leaf[: training.plan_rows], batch)
        accuracies = jnp.zeros(0)
        if plans is not None:
            accuracies = jax.lax.map(lambda plan: plan_accuracy(model, parameters, plan, few), plans)
        return told, maps, accuracies

    # One arm after the other: what is measured needs no gradient, and little memory.
    told, maps, accuracies = jax.lax.map(of_arm, (state.parameters, frozen, data.events, data.stored, data.stream))
    record = state.done // training.every
    measured = {name: _placed(curve, told[name][None], record) for name, curve in state.measured.items()}
    watched = {
        str(plan): _placed(state.watched[str(plan)], accuracies[None, :, number], record)
        for number, plan in enumerate(training.watched)
    }
    drawn = {name: _placed(state.maps[name][0], of_arms[:1], record)[None] for name, of_arms in maps.items()}
    return state._replace(measured=measured, watched=watched, maps=drawn)


def plan_accuracy(model: Model, parameters: Parameters, events: Events, batch: Batch) -> Array:
    """The in-context accuracy of one model under a plan."""
    return scores(model.logits(parameters, events, batch.tokens), batch)["accuracy"]


def _placed(curve: Array, values: Array, at: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(curve, values.astype(curve.dtype), at, axis=0)
