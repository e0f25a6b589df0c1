"""What a store's analyses of hidden states say, in words and arrays: by state or step, or between two states."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxpaint.plans.strategies import CUSTOM
from jaxpaint.report.evidence import DOES_NOT_HOLD, HOLDS, Z
from jaxpaint.report.measurements import Measurements
from jaxpaint.results.kinds import LEAST_R2
from jaxpaint.results.reading import VariantRow

CLOCK = "clock"
PAPER_START = 13 / 32  # the start layer of the paper's figure 15, as a share of the layers
MOST_PLANS = 6  # in a figure, the full model among them
NO_INTERVAL = "No interval: the store holds the mean over the texts alone, from before standard errors were kept."
MOST_CHARACTERS = 34  # of a plan's name
ROLES = ("last tokens", "other tokens")  # in the order of the clock's numbers


@dataclass(frozen=True)
class Quantity:
    """One number of an analysis by state or step: its place in the last axis, None where there is one alone."""

    words: str
    place: int | None = None
    scale: Literal["linear", "log", "symlog"] = "linear"


@dataclass(frozen=True)
class ByState:
    """An analysis that has numbers of each state along a plan, or of each step; `says` is what they are."""

    name: str
    title: str
    says: str
    quantities: tuple[Quantity, ...]
    over: Literal["state", "step"] = "state"

    @property
    def columns(self) -> int:
        """Of panels in its figure."""
        return 2 if len(self.quantities) > 2 else 1


@dataclass(frozen=True)
class OfPairs:
    """An analysis that has a number of each pair of a plan's states; stored `above` the diagonal alone, or whole."""

    name: str
    title: str
    says: str
    label: str
    above: bool = False


_OF_A_LENS = (
    Quantity("next token's log-probability", 0),
    Quantity("next token's rank", 1, "symlog"),
    Quantity("answer's log-probability", 2),
    Quantity("answer's rank", 3, "symlog"),
)
_ANSWER = "The answer is the full model's most likely token after the text, read at its last token. "
BY_STATE = (
    ByState(
        "variance",
        "Variance of hidden states",
        "The variance of a state's entries, mean over texts.",
        (Quantity("variance", scale="log"),),
    ),
    ByState(
        "block_influence",
        "Block Influence of each step",
        "One minus the mean cosine of a token's state before a step and after it, over all tokens (arXiv 2403.03853): "
        "0 where a step leaves every direction as it was.",
        (Quantity("Block Influence"),),
        over="step",
    ),
    ByState(
        "logit_lens",
        "Logit lens",
        "Each state read as if it were the last, through the final norm and the head: mean over all tokens with a next "
        f"one. {_ANSWER}Log-probabilities in nats, ranks from 0.",
        _OF_A_LENS,
    ),
    ByState(
        "ridge_lens",
        "Ridge lens",
        "Each state mapped to what the full model would make of it, by a ridge regression for the depth that the clock "
        f"reads off it, then read as the logit lens reads it. {_ANSWER}Texts held out of the fits alone.",
        _OF_A_LENS,
    ),
    ByState(
        "entropy",
        "Entropy of the logit lens",
        "Of what the logit lens predicts at each state, mean over all tokens.",
        (Quantity("entropy (nats)"),),
    ),
    ByState(
        "agreement",
        "Agreement with the full model",
        "The share of tokens at which the logit lens finds the token most likely that the full model finds in the end.",
        (Quantity("agreement"),),
    ),
    ByState(
        CLOCK,
        "The clock",
        "Which depth of the full model a state looks like, from 0 (its embeddings) to 1 (its last state), by ridge "
        "regression; texts held out of the fit alone. Dotted: one layer a step.",
        (Quantity("clock at last tokens", 0), Quantity("clock at other tokens", 1)),
    ),
)
OF_PAIRS = (
    OfPairs(
        "angular_distance",
        "Angular distance between hidden states",
        "The angle between two states of the last token as a share of half a turn, mean over texts (arXiv 2403.17887).",
        "angular distance",
        above=True,
    ),
    OfPairs(
        "cka",
        "Linear CKA of hidden states",
        "How alike two states are but for a rotation and a scale: 1 where they are the same in that sense; tokens of a "
        "text as samples, unbiased (arXiv 1905.00414, arXiv 2010.15327).",
        "linear CKA",
    ),
)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A quantity's values, and the lengths of their 95 % intervals to either side: None where the store has none."""

    value: np.ndarray
    half: np.ndarray | None


@dataclass(frozen=True)
class ChosenPlan:
    """A plan to be shown, by its column; `strategy` is the one that it stands for."""

    column: int
    strategy: str
    label: str


def numbers(measured: Measurements, name: str, column: int | None, place: int | None = None) -> Numbers | None:
    """Of one plan, by state or step; None where it was not analysed."""
    value, stderr = measured.analysis(name, column), measured.stderr(name, column)
    if value is None or (name == CLOCK and place not in told(measured, column)):
        return None
    taken = (slice(None),) if place is None else (slice(None), place)
    return Numbers(value[taken], None if stderr is None else Z * stderr[taken])


def told(measured: Measurements, column: int | None) -> dict[int, float]:
    """The places of the clock's numbers that can be trusted, with R² of their fit on texts that it had not seen."""
    r2 = measured.fit(CLOCK, CLOCK, column)
    return {place: value for place, value in enumerate(r2) if value >= LEAST_R2}


def matrix(measured: Measurements, analysis: OfPairs, column: int | None) -> Numbers | None:
    """Of one plan, [states, states]; None where it was not analysed."""
    found = measured.nested(analysis.name, column)
    if found is None:
        return None
    value, stderr = ((_whole(rows) if rows and analysis.above else rows) for rows in found)
    return Numbers(np.array(value, np.float64), None if stderr is None else Z * np.array(stderr, np.float64))


def _whole(rows: list[list[float | None]]) -> np.ndarray:
    """A symmetric matrix of what lies above its diagonal, which is zero."""
    whole = np.zeros((len(rows) + 1, len(rows) + 1))
    for number, row in enumerate(rows):
        whole[number, number + 1 :] = whole[number + 1 :, number] = np.array(row, np.float64)
    return whole


def chosen_plans(measured: Measurements, name: str) -> list[ChosenPlan]:
    """Of those analysed the full model, and of each strategy the one plan that starts nearest to the paper's."""
    study = measured.study
    analysed = {each.column for each in study.analyses if each.name == name}
    found: dict[str, ChosenPlan] = {}
    if study.full in analysed and study.full is not None:
        found["full"] = ChosenPlan(study.full, "full", "full model")
    own = [v for v in study.variants if v.column in analysed and v.column != study.full]
    for variant in sorted(own, key=lambda v: (v.strategy == CUSTOM, *_from_the_papers(v, measured.num_layers))):
        key = variant.label if variant.strategy == CUSTOM else variant.strategy
        found.setdefault(key, ChosenPlan(variant.column, variant.strategy, _short(variant.label)))
    return list(found.values())[:MOST_PLANS]


def _from_the_papers(variant: VariantRow, num_layers: int) -> tuple[float, ...]:
    start = -1 if variant.start is None else variant.start
    options = (variant.seed or 0, variant.iterations or 0, variant.times or 0, variant.layer or 0)
    return abs(start - PAPER_START * num_layers), *options


def _short(label: str) -> str:
    return label if len(label) <= MOST_CHARACTERS else label[: MOST_CHARACTERS - 1] + "…"


def about(measured: Measurements, name: str, column: int | None) -> str:
    """What texts an analysis was made on, and what its intervals are, in sentences."""
    found, texts = measured.nested(name, column), measured.analysed_texts(name, column)
    interval = f"Intervals: 95 % ({Z} standard errors over texts)."
    if found is not None and found[1] is None:
        interval = NO_INTERVAL
    if r2 := measured.fit(name, CLOCK, column):
        parts = [f"{value:.3f} at {role}" for value, role in zip(r2, ROLES, strict=True)]
        interval += f" The clock's R² on the full model's held-out texts: {' and '.join(parts)}."
        if refused := [role for value, role in zip(r2, ROLES, strict=True) if not value >= LEAST_R2]:
            interval += f" Below {LEAST_R2} it tells nothing: there is no clock at {' and '.join(refused)}."
    return f"{f'On {texts}. ' if texts else ''}{interval}"


def clock_words(measured: Measurements) -> str:
    """How well the clock tells the full model's own depths, and whether that is enough; empty where there is none."""
    r2 = measured.fit(CLOCK, CLOCK, measured.study.full)
    if not r2:
        return ""
    parts, fits = [], True
    for place, (value, role) in enumerate(zip(r2, ROLES, strict=True)):
        found = numbers(measured, CLOCK, measured.study.full, place)
        off = "no clock"
        if found is None:
            fits = False
        else:
            layers = measured.num_layers * np.abs(found.value - np.linspace(0, 1, len(found.value))).mean()
            off, fits = f"off by {layers:.2f} layers on average", fits and layers <= 1
        parts.append(f"held-out R² {value:.3f} at {role}, {off}")
    verdict = HOLDS if fits else DOES_NOT_HOLD
    return f"The clock tells the full model's depths to a layer ({verdict}): {'; '.join(parts)}."


def of_the_full_model(measured: Measurements) -> Iterator[tuple[ByState, list[tuple[Quantity, Numbers]]]]:
    """The analyses of the full model by state or step, each with its quantities."""
    for analysis in BY_STATE:
        found = [
            (each, numbers(measured, analysis.name, measured.study.full, each.place)) for each in analysis.quantities
        ]
        there = [(quantity, values) for quantity, values in found if values is not None]
        if there:
            yield analysis, there
