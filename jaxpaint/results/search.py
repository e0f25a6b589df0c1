"""What a search for plans found: its front, and what held-out documents say of it. As it is kept, and read again."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from jaxpaint.results.kinds import SEARCH

LEVEL = 0.05
Z = 1.959964  # half of a 95 % interval in standard errors
FULL, FRONT, REFERENCE = "full", "front", "reference"


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error over documents, each task counting the same."""

    value: float
    stderr: float

    @property
    def low(self) -> float:
        return self.value - Z * self.stderr

    @property
    def high(self) -> float:
        return self.value + Z * self.stderr

    @property
    def p(self) -> float:
        """Two-sided, of no difference from 0, by the normal distribution; 1 where nothing differs."""
        if not self.stderr > 0:
            return 1.0 if self.value == 0 or not math.isfinite(self.value) or math.isnan(self.stderr) else 0.0
        return math.erfc(abs(self.value) / self.stderr / math.sqrt(2))

    def __str__(self) -> str:
        return f"{self.value:+.3f} ± {self.stderr:.3f}"


@dataclass(frozen=True)
class Found:
    """A plan of the front, or one beside it (`role`): `name` is what it is where it is no find of the search.

    `search` and `held_out` are its score less the full model's on the search's documents and on the held-out ones, in
    nats of the right answer; `metric` is that of the tasks' main metrics, held out. `against` is the held-out score
    less that of the reference plan at the same budget, None where there is no such plan, or this is it. `shrinkage` is
    how much less it scores held out than in the search, against the full model. `p` is that of `against`, or without a
    reference of `held_out`, after Holm over all plans of the front. `latency` is how many seconds a call under the plan
    took, of a search within a latency (whose `SearchSetting.budget` says which).
    """

    plan: str
    role: str
    name: str
    cost: float
    depth: float
    search: Estimate
    held_out: Estimate
    metric: Estimate
    against: Estimate | None
    shrinkage: Estimate
    p: float
    latency: float | None = None


@dataclass(frozen=True)
class SearchSetting:
    """Which search it was; another one of equal settings takes its place.

    `budget` names, of a latency, what it is of: the machine and the sizes.
    """

    tasks: tuple[str, ...]
    held_out_tasks: tuple[str, ...]
    methods: tuple[str, ...]
    budget: str
    documents: int
    held_out: int
    plans: int
    width: int
    seed: int


@dataclass(frozen=True)
class SearchResult:
    """A search's outcome. `found` has the full model, the front by cost, and the reference plans; `winner` is the text
    of the plan within the budget with the best score on the search's documents, of `compared` plans.

    `luck` is the winner's lead over the reference (or the full model) on the search's documents: what it looks like,
    before it is said that it was chosen for that. `leads` are its held-out score less that of the full model and of
    each reference plan, by their names, document by document. `looked` are cost, depth and score of every plan that was
    scored on all of the search's documents. `executed` layer applications x positions did for the store what would have
    taken `separate` plan by plan and answer by answer.
    """

    setting: SearchSetting
    limit: float
    winner: str
    compared: int
    luck: Estimate
    leads: tuple[tuple[str, Estimate], ...]
    found: tuple[Found, ...]
    looked: tuple[tuple[float, float, float], ...]
    executed: int
    separate: int

    @property
    def best(self) -> Found:
        """The winner."""
        return next(each for each in self.found if each.plan == self.winner)

    @property
    def finalists(self) -> int:
        """How many plans of the front were compared on held-out documents."""
        return sum(each.role == FRONT for each in self.found)

    @property
    def reference(self) -> Found | None:
        """The plan at the same budget that the others are held against; it may be of the front itself."""
        if all(each.against is None for each in self.found):
            return None
        return next(each for each in self.found if each.against is None)

    @property
    def value(self) -> list[Any]:
        """As it is stored; the setting is its key."""
        rest = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "setting"}
        rest |= {"luck": asdict(self.luck), "leads": [[name, asdict(lead)] for name, lead in self.leads]}
        rest |= {"found": [asdict(each) for each in self.found]}
        return [_plain(rest)]

    @classmethod
    def read(cls, settings: Mapping[str, Any], value: Any) -> SearchResult:
        """Of what is stored. Raises ValueError, KeyError or TypeError for another form."""
        (rest,) = value
        setting: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items()}
        found = tuple(_found(each) for each in rest["found"])
        looked = tuple((cost, depth, -math.inf if score is None else score) for cost, depth, score in rest["looked"])
        leads = tuple((name, _estimate(lead)) for name, lead in rest["leads"])
        own = {"luck": _estimate(rest["luck"]), "leads": leads, "found": found, "looked": looked}
        return cls(SearchSetting(**setting), **(rest | own))


def verdict(result: SearchResult) -> list[str]:
    """What the held-out documents say of the winner, in sentences."""
    best, reference = result.best, result.reference
    lead = best.held_out if best.against is None else best.against
    of = reference.name if reference is not None and best.against is not None else "the full model"
    told = [
        f"winner: {best.plan} (cost {best.cost}, depth {best.depth}), chosen from {result.compared:,} plans on "
        f"{result.setting.documents} documents",
        f"against the full model, nats of the right answer: {best.search} there, {best.held_out} on "
        f"{result.setting.held_out} held-out documents; {best.shrinkage} of it was the choice's",
    ]
    if best.latency is not None:
        told.append(_latency(result, best.latency))
    if lead.value > 0 and best.p < LEVEL:
        told.append(f"confirmed: better than {of} on held-out documents by {lead}, {_p(result, best)}")
    elif lead.value < 0 and best.p < LEVEL:
        told.append(f"worse than {of} on held-out documents: {lead}, {_p(result, best)}")
    elif result.luck.value > 0 and result.luck.p < LEVEL:
        told.append(
            f"not confirmed: its lead over {of} in the search, {result.luck}, looks significant "
            f"(p {result.luck.p:.2g}) but is that of the best of {result.compared:,} plans; on held-out documents it "
            f"is {lead}, {_p(result, best)}: luck"
        )
    else:
        told.append(f"no difference from {of} is shown on held-out documents: {lead}, {_p(result, best)}")
    others = [f"{name} {lead}" for name, lead in result.leads[1:] if name != of]
    if others:
        told.append(f"beside others on held-out documents, winner less plan: {', '.join(others)}")
    return told


def _latency(result: SearchResult, seconds: float) -> str:
    full = next(each.latency for each in result.found if each.role == FULL)
    share = f", {seconds / full:.2f} of the full model's" if full else ""
    over = seconds / result.limit - 1
    beyond = f": {100 * over:.1f} % over the budget, as every finalist is" if over > 0 else ""
    return f"measured: {1000 * seconds:.4g} ms a call{share}{beyond}"


def _p(result: SearchResult, found: Found) -> str:
    return f"p {found.p:.2g} after Holm over {result.finalists} finalists"


def holm(ps: Sequence[float]) -> list[float]:
    """Each p after Holm's correction (Scandinavian Journal of Statistics, 1979) for so many tests."""
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        largest = max(largest, min(1.0, ps[place] * (len(ps) - rank)))
        adjusted[place] = largest
    return adjusted


def stored_searches(connection: sqlite3.Connection, model: int) -> list[SearchResult]:
    """A model's, inside the caller's `reading`, in the order of their settings. Other forms are passed over."""
    rows = connection.execute(
        "SELECT settings, value FROM analyses WHERE model = ? AND name = ? ORDER BY settings", (model, SEARCH)
    ).fetchall()
    found = []
    for settings, value in rows:
        try:
            found.append(SearchResult.read(json.loads(settings), json.loads(value)))
        except (TypeError, ValueError, KeyError):
            continue
    return found


def _found(values: Mapping[str, Any]) -> Found:
    estimates = {
        name: _estimate(values[name])
        for name in ("search", "held_out", "metric", "against", "shrinkage")
        if values[name] is not None
    }
    return Found(**(dict(values) | estimates))


def _estimate(values: Mapping[str, float | None]) -> Estimate:
    """None stands for what is not finite, and a plan whose logits are not scores -inf."""
    value, stderr = values["value"], values["stderr"]
    return Estimate(-math.inf if value is None else value, math.nan if stderr is None else stderr)


def _plain(value: Any) -> Any:
    """For JSON: lists, and None in place of numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
