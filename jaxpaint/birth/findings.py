"""The paper's claims, and ours on layer plans, beside what came out; a verdict may well be "does not hold"."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxpaint.birth import settings as names
from jaxpaint.birth.settings import Settings, frozen_name
from jaxpaint.birth.train import Trained
from jaxpaint.birth.verdicts import Finding, Part, above, below, shown, sooner, steps_to, verdict

STORED = 0.95  # recall that counts as learned
NUMBERS = {2: "two", 3: "three", 4: "four"}
SOON = 20  # steps after a release
CAN = 0.9  # in-context accuracy of what can do it; below 0.65 is what cannot
SOLVED = 0.8  # in-context accuracy that counts as learned


@dataclass(frozen=True, eq=False)
class Runs:
    """All that was trained, by the names of arms; arms of one name differ in seed, in the order of seeds."""

    settings: Settings
    groups: Mapping[str, Trained]

    def __contains__(self, name: str) -> bool:
        return any(arm.name == name for group in self.groups.values() for arm in group.arms)

    def has(self, quantity: str) -> bool:
        """Whether the model has such a probe."""
        return all(quantity in group.measured for group in self.groups.values())

    @property
    def first_memory(self) -> tuple[str, str]:
        """What says that layer 0 finds the token before: W_K1's recall, or with rotary positions what it looks at."""
        if self.has("previous_token"):
            return "previous_token", "W_K1 recalls"
        return "looks_back", "layer 0 looks back in a share of"

    @property
    def at(self) -> Float[np.ndarray, " records"]:
        """The steps of every measurement."""
        return next(iter(self.groups.values())).at

    def measured(self, name: str, quantity: str) -> Float[np.ndarray, "seeds records"]:
        """A curve of each seed."""
        return np.stack([group.measured[quantity][:, arm] for group, arm in self.places(name)])

    def watched(self, name: str, plan: str) -> Float[np.ndarray, "seeds records"]:
        """In-context accuracy under a watched plan."""
        return np.stack([group.watched[plan][:, arm] for group, arm in self.places(name)])

    def places(self, name: str) -> list[tuple[Trained, int]]:
        return [
            (group, number)
            for group in self.groups.values()
            for number, arm in enumerate(group.arms)
            if arm.name == name
        ]


def findings(runs: Runs) -> list[Finding]:
    """Of every claim for which something was run."""
    return [finding for claim in CLAIMS for finding in claim(runs)]


def _order(runs: Runs) -> Iterator[Finding]:
    if not runs.has("previous_token"):
        return
    output, previous = (runs.measured(names.UNFROZEN, each) for each in ("output", "previous_token"))
    trigger = runs.measured(names.UNFROZEN, "trigger")
    when = steps_to(output, runs.at, STORED)
    parts: list[Part] = [
        sooner(each, steps_to(previous, runs.at, STORED), runs.at[-1])
        for each in (when, steps_to(trigger, runs.at, STORED))
    ]
    reached = np.isfinite(when)
    then = [previous[seed, runs.at == when[seed]][0] for seed in np.flatnonzero(reached)]
    told = f"W_O2 recalls {STORED} " + (
        f"at step {shown(when[reached], 0)}, where W_K1 recalls {shown(then)} of its first positions"
        if then
        else "at no step"
    )
    yield Finding("Memories are learned from the output down: W_K1 is the last", verdict(parts), told)


def _frozen_output(runs: Runs) -> Iterator[Finding]:
    step = runs.settings.freezes.get("W_O2")
    if step is None or (name := frozen_name("W_O2", step)) not in runs:
        return
    before = runs.at <= step
    memory, told = runs.first_memory
    recall, accuracy = (runs.measured(name, each)[:, before].max(axis=1) for each in (memory, "accuracy"))
    yield Finding(
        "While W_O2 is frozen, neither attention learns",
        verdict([below(recall, 0.2), below(accuracy, 0.2)]),
        f"until step {min(step, runs.settings.steps)} {told} at most {shown(recall)}, "
        f"accuracy at most {shown(accuracy)}",
    )
    if step + SOON > runs.settings.steps or step % runs.settings.every:
        return
    after = runs.at >= step
    soon = runs.measured(name, "accuracy")[:, runs.at == step + SOON][:, 0]
    at_first = runs.measured(names.UNFROZEN, "accuracy")[:, runs.at == SOON][:, 0]
    released = steps_to(runs.measured(name, "accuracy")[:, after], runs.at[after] - step, 0.5)
    whole = steps_to(runs.measured(names.UNFROZEN, "accuracy"), runs.at, 0.5)
    yield Finding(
        "After its release they follow faster than from the start",
        verdict([above(soon - at_first), sooner(released, whole, runs.settings.steps - step)]),
        f"accuracy {shown(soon)} after {SOON} steps of release, {shown(at_first)} after as many from the start; 0.5 "
        f"{_when(released)} of release, {_when(whole)} from the start",
    )


def _frozen_key(runs: Runs) -> Iterator[Finding]:
    step = runs.settings.freezes.get("W_K1")
    if step is None or (name := frozen_name("W_K1", step)) not in runs:
        return
    last = np.flatnonzero(runs.at <= step)[-1]
    output, accuracy = (runs.measured(name, each)[:, last] for each in ("output", "accuracy"))
    free = runs.measured(names.UNFROZEN, "accuracy")[:, last]
    yield Finding(
        "Without W_K1 the output memory is learned all the same, and the head is not",
        verdict([above(output, 0.5), above(free - accuracy)]),
        f"at step {runs.at[last]} W_O2 recalls {shown(output)}; accuracy {shown(accuracy)}, unfrozen {shown(free)}",
    )


def _one_layer(runs: Runs) -> Iterator[Finding]:
    alone = [name for name in (names.FIRST_ALONE, names.SECOND_ALONE) if name in runs]
    if not alone or (layers := runs.settings.layers) < 2:
        return
    found = [runs.measured(name, "accuracy")[:, -1] for name in alone]
    both, of_all = (runs.measured(names.UNFROZEN, each)[:, -1] for each in ("accuracy", "output_accuracy"))
    told = ", ".join(f"{name} {shown(each)}" for name, each in zip(alone, found, strict=True))
    one = ", ".join(shown(runs.measured(name, "output_accuracy")[:, -1]) for name in alone)
    number = NUMBERS.get(layers, str(layers))
    yield Finding(
        f"One layer cannot do it, {number} can",
        verdict([*(below(each, 0.65) for each in found), above(both, CAN)]),
        f"accuracy in context: {told}, {number} {shown(both)}; of all outputs, the first time included: {one}, "
        f"{number} {shown(of_all)}",
    )


def _redrawn(runs: Runs) -> Iterator[Finding]:
    if names.REDRAWN not in runs:
        return
    found = runs.measured(names.REDRAWN, "accuracy").max(axis=1)
    yield Finding("Outputs drawn anew stay at chance", verdict([below(found, 0.1)]), f"accuracy at most {shown(found)}")


SLOWER = {
    names.ONE: "Fewer triggers make it slower",
    names.RANDOM: "Random triggers make it slower than fixed ones",
    names.RARE_ARM: "Rare triggers make it slower than frequent ones",
}


def _slower(runs: Runs) -> Iterator[Finding]:
    base = steps_to(runs.measured(names.UNFROZEN, "accuracy"), runs.at, SOLVED)
    for name, claim in SLOWER.items():
        if name in runs:
            other = steps_to(runs.measured(name, "accuracy"), runs.at, SOLVED)
            told = f"accuracy {SOLVED} {_when(other)}, otherwise {_when(base)}"
            yield Finding(claim, verdict([sooner(base, other, runs.settings.steps)]), told)


def _bigram(runs: Runs) -> Iterator[Finding]:
    if names.BIGRAM not in runs:
        return
    bigram, uniform = (runs.measured(name, "accuracy")[:, -1] for name in (names.BIGRAM, names.UNFROZEN))
    yield Finding(
        "Training on bigram outputs serves uniform ones less well",
        verdict([above(uniform - bigram)]),
        f"accuracy on uniform outputs: {shown(bigram)}, trained on them {shown(uniform)}",
    )


def _global_first(runs: Runs) -> Iterator[Finding]:
    if runs.settings.loss != "all":
        return
    loss, accuracy = (runs.measured(names.UNFROZEN, each) for each in ("global_loss", "accuracy"))
    level = loss[:, :1] - 0.9 * (loss[:, :1] - loss.min(axis=1, keepdims=True))
    first = steps_to(-loss, runs.at, -level)
    second = steps_to(accuracy, runs.at, 0.5)
    yield Finding(
        "Global bigrams come first, predictions in context later",
        verdict([sooner(first, second, runs.settings.steps)]),
        f"the global loss has 90 % of its fall {_when(first)}, accuracy 0.5 {_when(second)}",
    )


def _plans(runs: Runs) -> Iterator[Finding]:
    looped, full, trained_under = str(runs.settings.looped), str(runs.settings.full), runs.settings.control
    if not {looped, full} <= set(runs.settings.plans):
        return
    gained, base = (runs.watched(names.UNFROZEN, plan) for plan in (looped, full))
    rise = gained[:, -1] - gained[:, 0]
    yield Finding(
        f"{looped} gains while {full} does, untrained for (ours)",
        verdict([above(rise, 0.1)]),
        f"accuracy under it {shown(gained[:, 0])} at the start, {shown(gained[:, -1])} at the end;"
        f" {full} {shown(base[:, -1])}",
    )
    if trained_under in runs:
        control = runs.watched(trained_under, looped)[:, -1]
        yield Finding(
            f"Trained under {looped}, it runs better under it (ours)",
            verdict([above(control - gained[:, -1])]),
            f"accuracy {shown(control)}, trained under {full} {shown(gained[:, -1])}",
        )
    if trained_under in runs and runs.has("previous_token"):
        previous, trigger, output = (
            runs.measured(trained_under, each)[:, -1] for each in ("previous_token", "trigger", "output")
        )
        yield Finding(
            f"Trained under {looped}, it stores the same memories (ours)",
            verdict([above(previous, 0.5), above(trigger, 0.5), above(output, 0.5)]),
            f"recalls: W_K1 {shown(previous)}, W_K2 {shown(trigger)}, W_O2 {shown(output)}",
        )


def _when(values: np.ndarray) -> str:
    """Steps to something: `after 175 ± 10 steps (1 of 3 never)`."""
    finite = values[np.isfinite(values)]
    never = len(values) - len(finite)
    if not len(finite):
        return "at no step"
    return f"after {shown(finite, 0)} steps" + (f" ({never} of {len(values)} never)" if never else "")


CLAIMS: tuple[Callable[[Runs], Iterator[Finding]], ...] = (
    *(_order, _frozen_output, _frozen_key, _one_layer, _redrawn, _slower, _bigram, _global_first, _plans),
)
