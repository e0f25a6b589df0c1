"""How facts flow under one plan, summed up over facts: as it is computed, shown, and kept among a store's analyses."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float

from jaxpaint.plans.events import events
from jaxpaint.plans.plan import Plan
from jaxpaint.results.kinds import FLOW

Answer: TypeAlias = Literal["holds", "does not hold", "cannot be told"]
# Key sets of a prompt, in this order: the subject's tokens, those before the last that are not its, and the last one. A
# beginning-of-sequence token is in none: much attention rests on it, and it tells nothing of the fact.
SETS = ("subject", "rest", "last")
# What writes the answer at the last token: attention to each of `SETS`, to what is in none, and the feed-forwards.
WRITERS = (*SETS, "other", "feed-forward")
CLAIMS: Mapping[str, str] = {
    "itself": "blocking the last token from itself changes little (per cent)",
    "subject": "a window on the subject hurts more than on the rest (per cent)",
    "order": "the rest is read before the subject (steps)",
    "enriched": "a subject's state tells half more of its attributes than of another's (share, other less own)",
    "patched": "extraction suffers more from early states of the subject than of the rest (share of events)",
    "first": "attention says the answer no later than a feed-forward, where both do (share that is later)",
    "told": "a subject's state late in the plan tells more of it than of another (share of words, other less own)",
    "built": "without early feed-forwards a subject's state tells less of it than without early attention (share)",
    "depth": "the clock tells the full model's depths at subjects' last tokens (1 - R², held-out prompts)",
    "layer": "the clock is less than a layer off at subjects' last tokens, in the full model (layers)",
    "read": "the ridge lens of the clock's depth says the answer after more steps than the logit lens (share less)",
}
LEAST_PROMPTS = 5  # of which two standard errors say something
PLACES = ("subject", "subject's first", "after the subject", "last")  # the subject's last token is the first
ROLES = ("subject", "last", "others")  # of tokens, for the clock: a subject's last one, the last, all others
SHARES = ("attention", "mlp", "both", "neither")


class Mean(NamedTuple):
    """Over prompts, with its standard error; of shape [windows, sets], or what is said of it."""

    value: Float[np.ndarray, "windows sets"]
    stderr: Float[np.ndarray, "windows sets"]

    @classmethod
    def of(cls, values: Float[np.ndarray, "prompts ..."]) -> Mean:
        """NaN where there is no prompt; no standard error of a single one."""
        count, nothing = len(values), np.full(values.shape[1:], np.nan)
        value = values.mean(axis=0) if count else nothing
        return cls(value, values.std(axis=0, ddof=1) / np.sqrt(count) if count > 1 else nothing)


@dataclass(frozen=True)
class Verdict:
    """What became of a claim (of `CLAIMS`), that a number is `below` a bound: its mean over prompts, standard error."""

    claim: str
    mean: float
    stderr: float
    below: float
    prompts: int

    @classmethod
    def of(cls, claim: str, numbers: Float[np.ndarray, " prompts"], below: float = 0.0) -> Verdict:
        """Of the prompts' numbers."""
        mean = Mean.of(np.asarray(numbers, np.float64))
        return cls(claim, float(mean.value), float(mean.stderr), below, len(numbers))

    @property
    def words(self) -> str:
        """The claim as a sentence."""
        return CLAIMS[self.claim]

    @property
    def answer(self) -> Answer:
        """Whether the mean is below the bound, by two standard errors; not told by few prompts."""
        if self.prompts < LEAST_PROMPTS:
            return "cannot be told"
        if self.mean + 2 * self.stderr < self.below:
            return "holds"
        return "does not hold" if self.mean - 2 * self.stderr > self.below else "cannot be told"


@dataclass(frozen=True, eq=False)
class Extracted:
    """Shares of the known prompts in which the answer is on top of an update.

    `shares` (as `SHARES`): of prompts with such an event of attention, of the feed-forward, of both, of neither;
    `attention` and `mlp` of each event, `steps` of each whole step.
    """

    shares: Float[np.ndarray, " kinds"]
    attention: Float[np.ndarray, " E"]
    mlp: Float[np.ndarray, " E"]
    steps: Float[np.ndarray, " steps"]


@dataclass(frozen=True, eq=False)
class Enriched:
    """Shares of a subject's attributes among as many tokens that states at `PLACES` would say, after each step.

    Or shares of words of texts about it. `control` is the same with another subject's. Each is [states, places]; of
    attributes [states, 1] in flows that were kept before the other places were read. The last two are those at the end
    of each branch of the plan's groups, [branches, places]: None where it has none, or before they were kept.
    """

    own: Mean
    control: Mean
    own_by_branch: Mean | None = None
    control_by_branch: Mean | None = None

    @property
    def parts(self) -> list[Mean]:
        """Those that there are."""
        return [each for each in (getattr(self, own.name) for own in fields(self)) if each is not None]


@dataclass(frozen=True, eq=False)
class Silenced:
    """Shares of a subject's attributes that its last token tells late in the plan, with sublayers of layers off.

    `own` is the share with all, [1, 1]; `attention` and `mlp` without those of a run of layers from each one on,
    wherever they run: [layers, 1].
    """

    own: Mean
    attention: Mean
    mlp: Mean


@dataclass(frozen=True, eq=False)
class Clocked:
    """Which depth of the full model a plan's states look like (0 to 1), by role, over prompts held out of the fits.

    `r2` and `off` are the clock's on the full model, [1, `ROLES`]: R², and by how many layers it is off. Of the states,
    [states, `ROLES`]: `reading`; and shares that say, at their token, what the plan's last state says there: through
    the `logit_lens`, and through the `ridge_lens` of the depth that the clock reads. NaN where there is no clock.
    """

    r2: Mean
    off: Mean
    reading: Mean
    logit_lens: Mean
    ridge_lens: Mean


@dataclass(frozen=True, eq=False)
class Patched:
    """Shares of events whose attention extracts, were it to read a key set in an earlier state: [donors, sets].

    `donors` are the states (0: the embeddings) that each event reads in place of its own; `own` is the share without.
    """

    donors: tuple[int, ...]
    own: Mean
    share: Mean


@dataclass(frozen=True, eq=False)
class Windows:
    """One measure of what blocking does, in the windows of a `Flow`."""

    everywhere: Mean
    by_depth: Mean
    by_layer: Mean
    by_branch: Mean


@dataclass(frozen=True, eq=False)
class Flow:
    """Of one plan the facts that it knows by itself, and what knocking out edges does to them.

    `by_depth` and `by_layer` have a window around each depth of the plan and each layer of the model, `by_branch` one
    for each branch of the plan's groups, where that was asked; `everywhere` is all events. Changes are in per cent of
    the answer's probability. `written` is what writes the answer's logit at each depth, [depths, `WRITERS`].
    """

    plan: Plan
    known: Bool[np.ndarray, " facts"]
    everywhere: Mean
    left: Float[np.ndarray, " sets"]
    by_depth: Mean
    by_layer: Mean
    by_branch: Mean
    verdicts: tuple[Verdict, ...]
    written: Mean | None = None
    """None where no fact is known, as what follows; and where attention's output is normed, which mixes its sources."""
    extraction: Extracted | None = None
    patched: Patched | None = None
    enriched: Enriched | None = None
    """None where the facts do not tell of attributes, too."""
    logit: Windows | None = None
    """Changes of the answer's logit; None of flows that were kept before there were any, as what follows."""
    answers_left: Windows | None = None
    """Shares of prompts whose answer is still the most likely token."""
    silenced: Silenced | None = None
    """None where it was not asked for, as what follows."""
    clock: Clocked | None = None

    @property
    def in_order(self) -> bool:
        """Whether windows of depths and of layers are the same."""
        return all(event.depth == event.layer for event in events(self.plan))

    @property
    def value(self) -> list[Any]:
        """As it is stored: numbers in lists, None in place of those that are not finite."""
        names = list(CLAIMS)
        verdicts = [
            [names.index(each.claim), each.mean, each.stderr, each.below, each.prompts] for each in self.verdicts
        ]
        extraction = [] if self.extraction is None else [getattr(self.extraction, f.name) for f in fields(Extracted)]
        enriched = [] if self.enriched is None else [number for mean in self.enriched.parts for number in mean]
        patched = [] if self.patched is None else [self.patched.donors, *self.patched.own, *self.patched.share]
        parts = [self.known, *self.everywhere, self.left, *self.by_depth, *self.by_layer, *self.by_branch, verdicts]
        more = [[mean for f in fields(Windows) for mean in getattr(each, f.name)] for each in self._measures]
        return nested([*parts, self.written or [], extraction, patched, enriched, *more, *self._asked_for])

    @property
    def _measures(self) -> list[Windows]:
        return [each for each in (self.logit, self.answers_left) if each is not None]

    @property
    def _asked_for(self) -> list[Any]:
        """Up to the last that there is."""
        found = [
            [] if each is None else [number for own in fields(each) for number in getattr(each, own.name)]
            for each in (self.silenced, self.clock)
        ]
        return found[: 2 if self.clock else 1 if self.silenced else 0]

    @classmethod
    def read(cls, plan: str, value: Any) -> Flow:
        """Of a stored `value`. Raises ValueError, TypeError or IndexError for another one."""
        known, *rest = value
        value, stderr, left, depth, depth_error, layer, layer_error, branch, branch_error, *others = rest
        verdicts, written, extraction, patched, enriched, *more = others
        paired = [list(map(_mean, own[::2], own[1::2])) for own in more]
        logit, left_in = (Windows(*own) for own in paired[:2]) if paired else (None, None)
        claims = list(CLAIMS)
        judged = [
            Verdict(claims[int(claim)], _number(mean), _number(stderr), float(below), int(prompts))
            for claim, mean, stderr, below, prompts in verdicts
        ]
        donors, *shares = patched or [()]
        return cls(
            Plan.parse(plan),
            np.array(known, bool),
            _mean(value, stderr),
            _array(left),
            _mean(depth, depth_error),
            _mean(layer, layer_error),
            _mean(branch, branch_error),
            tuple(judged),
            _mean(*written) if written else None,
            Extracted(*map(_array, extraction)) if extraction else None,
            Patched(tuple(map(int, donors)), _mean(*shares[:2]), _mean(*shares[2:])) if patched else None,
            Enriched(*map(_mean, enriched[::2], enriched[1::2])) if enriched else None,
            logit,
            left_in,
            Silenced(*paired[2]) if paired[2:] and paired[2] else None,
            Clocked(*paired[3]) if paired[3:] else None,
        )


@dataclass(frozen=True)
class FlowSetting:
    """What of a flow is the same under all plans: which facts, what precedes them, how wide windows are."""

    facts: str
    """A digest of them."""
    count: int
    first: str
    """The first prompt."""
    before: str
    bos: bool
    size: int
    extras: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class FlowRow:
    """A plan of the store, by its id, and how facts flow under it."""

    plan: int
    setting: FlowSetting
    flow: Flow


def stored_flows(connection: sqlite3.Connection, model: int) -> list[FlowRow]:
    """A model's, inside the caller's `reading`, in the order of settings and plans. Other forms are passed over."""
    rows = connection.execute(
        "SELECT plan, text, settings, value FROM analyses JOIN plans ON plans.id = plan WHERE model = ? AND name = ? "
        "ORDER BY settings, plan",
        (model, FLOW),
    )
    found = []
    for plan, text, settings, value in rows:
        known = json.loads(settings)
        if known.keys() == {field.name for field in fields(FlowSetting)}:
            try:
                found.append(FlowRow(plan, _setting(known), Flow.read(text, json.loads(value))))
            except (TypeError, ValueError, IndexError):  # of another version
                continue
    return found


def settings_of(setting: FlowSetting) -> dict[str, Any]:
    """As the store keeps them."""
    return asdict(setting)


def _setting(known: Mapping[str, Any]) -> FlowSetting:
    return FlowSetting(**{**known, "extras": tuple(known["extras"])})


def nested(value: Any) -> Any:
    """Arrays and tuples as lists, booleans as 0 and 1, None in place of numbers that are not finite."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [nested(each) for each in value]
    if isinstance(value, bool):
        return int(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _mean(value: Any, stderr: Any) -> Mean:
    return Mean(_array(value), _array(stderr))


def _array(value: Sequence[Any]) -> np.ndarray:
    return np.array(value, np.float64)  # None becomes NaN


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
