"""Which depth of the full model a plan's states look like, by role: a subject's last token, the last one, all others.

What `jaxpaint.analysis.clock` and `jaxpaint.analysis.ridge_lens` are of texts, here of facts, whose subjects are known:
each role has a clock and a lens of its own, ridge regressions on the full model's states. Half of the subjects are held
out of them, with all of their prompts: these choose the penalties, give R², and are the only ones that are read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxpaint.analysis.asking import Asked
from jaxpaint.analysis.clock import FLOOR
from jaxpaint.analysis.fits import held_out
from jaxpaint.analysis.knockouts import Prompt
from jaxpaint.analysis.ridge import PENALTIES, Moments, Ridge, chosen
from jaxpaint.analysis.runs import batches
from jaxpaint.base.memory import require_memory
from jaxpaint.engine.lens import most_likely
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import ROLES, Clocked, Mean, Verdict
from jaxpaint.results.kinds import LEAST_R2


class Regression(NamedTuple):
    """y = x @ basis @ weights + intercept; the basis is that of the samples, where there are fewer than dimensions."""

    basis: Float[np.ndarray, "D K"]
    ridge: Ridge

    def of(self, x: Float[np.ndarray, "tokens D"]) -> Float[np.ndarray, "tokens E"]:
        return x @ self.basis @ self.ridge.weights + self.ridge.intercept


class Samples(NamedTuple):
    """A role's states, and which prompt each of its tokens is of."""

    states: Float[np.ndarray, "states tokens D"]
    prompt: Int[np.ndarray, " tokens"]

    def mean(self, values: Float[np.ndarray, "states tokens"]) -> Float[np.ndarray, "prompts states"]:
        """Over each prompt's tokens."""
        return np.stack([values[:, self.prompt == each].mean(axis=1) for each in np.unique(self.prompt)])


@dataclass(frozen=True, eq=False)
class Role:
    """What was learned of a role: `clock` from a state, scaled, to its depth, `maps` from each depth to the last state.

    Of each held-out prompt `missed` is its part of 1 - R² of the clock, their mean; `off` by how many layers it is off.
    """

    clock: Regression
    maps: tuple[Regression, ...]
    missed: Float[np.ndarray, " prompts"]
    off: Float[np.ndarray, " prompts"]

    @property
    def tells(self) -> bool:
        """Whether there is a clock."""
        return bool(1 - self.missed.mean() >= LEAST_R2)

    def reading(self, x: Float[np.ndarray, "*at D"]) -> Float[np.ndarray, "*at"]:
        """The depth that states look like, from 0 to 1."""
        return np.clip(self._unbounded(x), 0, 1)

    def mapped(self, x: Float[np.ndarray, "tokens D"]) -> Float[np.ndarray, "tokens D"]:
        """What the full model would make of states, each by the map of the depth that it looks like."""
        depth = np.rint(np.nan_to_num(self.reading(x)) * (len(self.maps) - 1)).astype(int)
        found = np.empty_like(x)
        for each in np.unique(depth):
            found[depth == each] = self.maps[each].of(x[depth == each])
        return found

    def _unbounded(self, x: Float[np.ndarray, "*at D"]) -> Float[np.ndarray, "*at"]:
        return self.clock.of(_scaled(x).reshape(-1, x.shape[-1])).reshape(x.shape[:-1])

    @classmethod
    def fitted(cls, fit: Samples, held: Samples) -> Role:
        """On the full model's states, of prompts of the fit and of those held out."""
        depths = np.linspace(0, 1, len(fit.states))
        of_depth = [np.repeat(depths, each.states.shape[1])[:, None] for each in (fit, held)]
        scaled = [_scaled(each.states).reshape(-1, each.states.shape[-1]) for each in (fit, held)]
        clock = regression(scaled[0], of_depth[0], scaled[1], of_depth[1])
        ends = fit.states[-1], held.states[-1]
        maps = tuple(regression(x, ends[0], y, ends[1]) for x, y in zip(fit.states, held.states, strict=True))
        role = cls(clock, maps, np.zeros(0), np.zeros(0))
        errors = np.square(role._unbounded(held.states) - depths[:, None]).sum(axis=0)
        prompts = np.unique(held.prompt)
        by_prompt = np.array([errors[held.prompt == each].sum() for each in prompts])
        whole = np.square(depths - depths.mean()).sum() * len(held.prompt) / len(prompts)
        off = (len(depths) - 1) * np.abs(role.reading(held.states) - depths[:, None])
        return cls(clock, maps, by_prompt / whole, held.mean(off).mean(axis=1))


@dataclass(frozen=True, eq=False)
class Clocks:
    """Of each of `ROLES` what was learned, and the prompts that may be read."""

    roles: tuple[Role, ...]
    held_out: tuple[Prompt, ...]


def clocks_of(model: Model, to_ask: Asked) -> Clocks:
    """Fitted on the full model. Raises UserError where the memory of the host does not hold the states of all roles."""
    held = held_out_facts(to_ask)
    tokens = sum(len(each) for prompt in to_ask.prompts for each in places_of(prompt))
    needed = states_bytes(model, tokens)
    require_memory(needed, "the clock of facts", "ask for fewer facts (--limit), or leave the clock out")
    roles = []
    for each in _samples(model, to_ask.prompts, model.full_plan):
        halves = (held[each.prompt] == half for half in (False, True))
        roles.append(Role.fitted(*(Samples(each.states[:, own], each.prompt[own]) for own in halves)))
    return Clocks(tuple(roles), tuple(prompt for prompt, own in zip(to_ask.prompts, held, strict=True) if own))


def states_bytes(model: Model | Source, tokens: int) -> int:
    """What the full model's states of so many tokens take on the host: all, and in halves."""
    return 2 * 4 * tokens * (model.num_layers + 1) * model.config.hidden_size


def clocked(model: Model, clocks: Clocks, plan: Plan) -> tuple[Clocked, list[Verdict]]:
    """What the clocks read off a plan's states, and whether their lens says more of what the plan ends with."""
    readings, plain, mapped = [], [], []
    for role, own in zip(clocks.roles, _samples(model, clocks.held_out, plan), strict=True):
        says = _top(model, own.states[-1])
        plain.append(own.mean(np.stack([_agree(model, x, says) for x in own.states])))
        nothing = np.full_like(plain[-1], np.nan)
        readings.append(own.mean(role.reading(own.states)) if role.tells else nothing)
        through = np.stack([_agree(model, role.mapped(x), says) for x in own.states]) if role.tells else None
        mapped.append(nothing if through is None else own.mean(through))
    judged = []
    if plan == model.full_plan:
        subject = clocks.roles[ROLES.index("subject")]
        judged = [Verdict.of("depth", subject.missed, below=1 - LEAST_R2), Verdict.of("layer", subject.off, below=1)]
    last = ROLES.index("last")  # of all but the last state, which the logit lens reads by definition
    if clocks.roles[last].tells:
        judged.append(Verdict.of("read", (plain[last] - mapped[last])[:, :-1].mean(axis=1)))
    r2, off = (np.stack([getattr(role, name) for role in clocks.roles], axis=-1) for name in ("missed", "off"))
    means = (
        Mean.of(each) for each in (1 - r2[:, None], off[:, None], *(np.stack(a, -1) for a in (readings, plain, mapped)))
    )
    return Clocked(*means), judged


def held_out_facts(to_ask: Asked) -> Bool[np.ndarray, " facts"]:
    """Half of the subjects, with all of their facts: a subject's states are much alike in all of its prompts."""
    subjects = sorted({fact.subject for fact in to_ask.facts})
    held = {subject for subject, own in zip(subjects, held_out(len(subjects)), strict=True) if own}
    return np.array([fact.subject in held for fact in to_ask.facts])


def places_of(prompt: Prompt) -> tuple[tuple[int, ...], ...]:
    """As `ROLES`; a beginning-of-sequence token has none."""
    subject, rest, last = prompt.sets
    return subject[-1:], last, (*subject[:-1], *rest)


def _samples(model: Model, prompts: Sequence[Prompt], plan: Plan) -> list[Samples]:
    """Of each of `ROLES`, the embeddings first."""
    states: list[list[np.ndarray]] = [[] for _ in ROLES]
    owners: list[list[int]] = [[] for _ in ROLES]
    done = 0
    for part, run in batches(model, prompts, plan):
        found = np.asarray(run.states, np.float32)
        for role in range(len(ROLES)):
            where = [(row, at) for row, prompt in enumerate(part) for at in places_of(prompt)[role]]
            rows, places = np.array(where).T
            states[role].append(found[:, rows, places])
            owners[role] += [done + row for row in rows.tolist()]
        done += len(part)
    return [Samples(np.concatenate(own, axis=1), np.array(of)) for own, of in zip(states, owners, strict=True)]


def _scaled(x: Float[np.ndarray, "*at D"]) -> Float[np.ndarray, "*at D"]:
    x = x.astype(np.float64)
    return x / np.sqrt(np.maximum(np.square(x).mean(axis=-1, keepdims=True), FLOOR))


def regression(
    x: Float[np.ndarray, "samples D"],
    y: Float[np.ndarray, "samples E"],
    held_x: Float[np.ndarray, "held D"],
    held_y: Float[np.ndarray, "held E"],
) -> Regression:
    """As `chosen`, within the span of the samples, where the weights of ridge regression are."""
    width = x.shape[1]
    basis = np.linalg.qr(x.T.astype(np.float64))[0] if len(x) < width else np.eye(width)
    own, held = (Moments.of(inputs @ basis, outputs) for inputs, outputs in ((x, y), (held_x, held_y)))
    found = chosen(own, held, PENALTIES * basis.shape[1] / width)
    return Regression(basis, found)


def _top(model: Model, x: Float[np.ndarray, "tokens D"]) -> Int[np.ndarray, " tokens"]:
    wide = jnp.asarray(x, model.dtype)[None]
    return np.asarray(most_likely(model.graphdef, model.state, wide, 1, model.config.vocab_size)[0])[0, :, 0]


def _agree(
    model: Model, x: Float[np.ndarray, "tokens D"], says: Int[np.ndarray, " tokens"]
) -> Float[np.ndarray, " tokens"]:
    """1 where states say these tokens; NaN where they are not finite."""
    return np.where(np.isfinite(x).all(axis=-1), _top(model, x) == says, np.nan)
