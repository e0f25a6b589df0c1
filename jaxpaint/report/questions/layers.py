"""Evidence on questions 1 to 3: what single layers and the middle as a whole are for."""

from __future__ import annotations

import math

import numpy as np

from jaxpaint.report.evidence import Evidence, above, difference, matched, of_texts, over, plain
from jaxpaint.report.measurements import Measurements

RETAINED = 0.8  # of the full model's score above chance: what "little loss" means here
ADVANTAGE = "cosine similarity of two middle states, beyond that of two as far apart with one outside the middle"
A_FEW = 6  # at most a sixth of the layers


def shared_space(measured: Measurements) -> list[Evidence]:
    """Question 1: similar middle states (figures 3 and 14), and neighbours that can be switched (figure 2)."""
    found: list[Evidence] = []
    full = measured.study.full
    similarity = measured.analysis("similarity", full)
    if similarity is not None and (found_pairs := _contrast(similarity)):
        within, advantage = found_pairs
        stderr, texts = measured.stderr("similarity", full), measured.analysed_count("similarity", full)
        for what, weights, decides in (
            (ADVANTAGE, advantage, True),
            ("mean cosine similarity of two middle states", within, False),
        ):
            value = float((weights * similarity)[weights != 0].sum())
            error = math.nan if stderr is None else float((abs(weights) * stderr)[weights != 0].sum())
            known = texts is not None and not math.isnan(error)
            found.append(
                of_texts(what, value, error, texts, decides=decides) if known else plain(what, value, decides=decides)
            )
    first, last = _middle_half(measured.num_layers)
    layers, values = measured.by_layer("switch")
    middle = (layers >= first) & (layers < last)
    if middle.any():
        what = "score kept on average when two neighbours of the middle half switch places"
        found.append(above(f"{what} (little loss: {RETAINED} or more)", values[:, middle].mean(axis=1), RETAINED))
    if (~middle).any():
        what = "score kept on average when two neighbours outside the middle half switch places"
        found.append(above(what, values[:, ~middle].mean(axis=1), RETAINED, decides=False))
    return found


def necessary(measured: Measurements) -> list[Evidence]:
    """Question 2: one middle layer left out, or a few (figure 4)."""
    found: list[Evidence] = []
    first, last = _middle_half(measured.num_layers)
    layers, values = measured.by_layer("skip-one")
    middle = (layers >= first) & (layers <= last)
    if middle.any():
        what = f"score kept on average without one layer of the middle half (little loss: {RETAINED} or more)"
        found.append(above(what, values[:, middle].mean(axis=1), RETAINED))
    skip = measured.curve("skip")
    few = [int(count) for count in skip.affected if 1 < count <= measured.num_layers / A_FEW]
    if few:
        what = f"score kept without {few[-1]} of {measured.num_layers} layers (little loss: {RETAINED} or more)"
        found.append(above(what, skip.at(few[-1:])[:, 0], RETAINED))
    if skip:
        count = int(skip.affected[np.argmin(np.abs(skip.affected - measured.num_layers / 2))])
        what = f"score kept without {count} of {measured.num_layers} layers"
        found.append(above(what, skip.at([count])[:, 0], RETAINED, decides=False))
    return found


def same_function(measured: Measurements) -> list[Evidence]:
    """Question 3: one middle layer in the place of all, against none (figure 5)."""
    curves = measured.curves("skip", "middle-repeat")
    means = matched(curves)
    if len(means) < 2:
        return []
    return [
        difference(f"advantage of skip over middle repeat, {over(curves)}", means["skip"] - means["middle-repeat"]),
        above(f"score under middle repeat, {over(curves)}", means["middle-repeat"], RETAINED, decides=False),
        above(f"score under skip, {over(curves)}", means["skip"], RETAINED, decides=False),
    ]


def _middle_half(num_layers: int) -> tuple[int, int]:
    """Its first and last layer."""
    return num_layers // 4, num_layers - num_layers // 4 - 1


def _contrast(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Weights [S, S] on pairs of states: of the mean similarity of two middle ones, and of how much it exceeds that of
    pairs equally far apart of which one is outside.

    States that are near each other in depth are alike in any model, so pairs are compared at equal distance. What is
    measured is the weights' sum over the similarities, so its standard error is at most theirs, added up with the
    weights' sizes (as if all went together): the same texts made them, and a store keeps no covariances.
    """
    states = len(similarity)
    first, last = _middle_half(states)
    middle = (np.arange(states) >= first) & (np.arange(states) <= last)
    advantages: list[np.ndarray] = []
    counts: list[np.ndarray] = []
    for distance in range(1, last - first + 1):
        pairs = np.diagonal(similarity, distance)
        both = middle[:-distance] & middle[distance:]
        one = middle[:-distance] ^ middle[distance:]
        if both.any() and one.any() and np.isfinite(pairs).all():
            advantages.append(np.diag(both / both.sum() - one / one.sum(), distance))
            counts.append(np.diag(both.astype(float), distance))
    if not advantages:
        return None
    within = np.sum(counts, axis=0)
    return within / within.sum(), np.mean(advantages, axis=0)
