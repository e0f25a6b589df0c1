"""Where an answer is open: how many more documents would tell; and the interval of question 1's similarities."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.plans.strategies import family
from jaxpaint.report.data import read_store
from jaxpaint.report.evidence import DOES_NOT_HOLD, HOLDS, OPEN, Evidence, above, any_holds, combine, times_to_tell
from jaxpaint.report.findings import Answer, answers
from jaxpaint.report.measurements import Measurements
from jaxpaint.report.summary import summary
from tests.helpers.report_store import FakeModel, FakeTask, add_analysis, write_store

LAYERS = 16
DEPTH = np.arange(LAYERS + 1)
OUTSIDE = (DEPTH < 3) | (DEPTH > 13)
BLOCK = np.where(OUTSIDE[:, None] ^ OUTSIDE, 0.3, 1.0) * np.exp(-0.05 * abs(DEPTH[:, None] - DEPTH))


def of_similarity(path: Path, similarity: np.ndarray, stderr: np.ndarray | None, texts: int = 100) -> Answer:
    full = family("full", LAYERS)
    write_store(path, FakeModel(full, [FakeTask("t", lambda v: 0.5)], LAYERS))
    if stderr is not None:
        add_analysis(path, full[0], "similarity_stderr", stderr, samples=texts)
    add_analysis(path, full[0], "similarity", similarity, samples=texts)
    found = answers(Measurements.of(read_store(path)[0]))[0]
    path.unlink()
    return found


def test_question_1_has_an_interval(tmp_path: Path) -> None:
    """Of weights whose sizes add up to 2, one for the middle and one for the pairs beside it."""
    answer = of_similarity(tmp_path / "s", BLOCK, np.full_like(BLOCK, 0.01))
    item = answer.evidence[0]
    assert (answer.verdict, item.verdict) == (HOLDS, HOLDS)
    assert item.value == of_similarity(tmp_path / "s", BLOCK, None).evidence[0].value > 0.1
    assert (item.high - item.value, item.value - item.low) == pytest.approx([1.96 * 2 * 0.01] * 2)
    assert "95 % interval" in answer.text


def test_its_interval_is_no_narrower_than_that_of_the_texts_own_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    common = random.normal(0, 0.05, (8, 1, 1))  # of a text, in all its pairs
    texts = BLOCK + common + random.normal(0, 0.05, (8, *BLOCK.shape))
    errors = texts.std(axis=0, ddof=1) / math.sqrt(8)
    item = of_similarity(tmp_path / "s", texts.mean(axis=0), errors, 8).evidence[0]
    own = [of_similarity(tmp_path / "s", text, None).evidence[0].value for text in texts]
    assert item.value == pytest.approx(np.mean(own))
    assert item.high - item.value >= 1.96 * np.std(own, ddof=1) / math.sqrt(8)


def test_question_1_says_how_many_more_texts_would_tell(tmp_path: Path) -> None:
    stderr = np.full_like(BLOCK, 0.2)
    answer = of_similarity(tmp_path / "s", BLOCK, stderr)
    item = answer.evidence[0]
    assert (answer.verdict, item.then) == (OPEN, HOLDS)
    assert item.times == pytest.approx((1.96 * 2 * 0.2 / item.value) ** 2)
    more = 100 * (item.times - 1)
    assert f" more texts ({item.times:.1f} times those here) would tell" in answer.lead
    (told,) = (int(word.replace(",", "")) for word in answer.lead.split() if word.replace(",", "").isdigit())
    assert more <= told <= 1.1 * more + 1
    for share, verdict in ((0.98, OPEN), (1.02, HOLDS)):  # texts by which a standard error shrinks
        less = stderr / math.sqrt(share * item.times)
        assert of_similarity(tmp_path / "s", BLOCK, less).verdict == verdict


def test_a_similarity_that_is_nowhere_more_is_refuted(tmp_path: Path) -> None:
    same = np.exp(-0.05 * abs(DEPTH[:, None] - DEPTH))
    assert of_similarity(tmp_path / "s", same, np.full_like(same, 0.004)).verdict == DOES_NOT_HOLD
    answer = of_similarity(tmp_path / "s", same, np.full_like(same, 0.02))
    assert (answer.verdict, answer.evidence[0].then) == (OPEN, DOES_NOT_HOLD)
    assert answer.evidence[0].times == pytest.approx((1.96 * 2 * 0.02 / 0.02) ** 2)


def test_documents_in_the_words_of_the_terminal(tmp_path: Path) -> None:
    """30 documents that disagree about a small difference."""
    shares = {"full": 0.8, "skip": 0.4, "middle-repeat": 0.392}
    plans = [v for name in shares for v in family(name, LAYERS)]
    task = FakeTask(
        "t", lambda v: 0.8 if v.affected == 1 and v.start is not None else shares[v.strategy], documents=30, exact=False
    )
    measured = Measurements.of(read_store(write_store(tmp_path / "s", FakeModel(plans, [task], LAYERS)))[0])
    found = answers(measured)
    answer = found[2]
    assert answer.verdict == OPEN
    (item,) = (item for item in answer.evidence if item.verdict == OPEN)
    assert item.times > 1
    assert f" more documents ({item.times:.1f} times those here) would tell, were the numbers to" in answer.lead
    assert answer.lead in " ".join(summary("t", measured, found).split())


def spread(value: float, half: float) -> np.ndarray:
    return np.array([value, *np.linspace(value - half, value + half, 2001)])


@pytest.mark.parametrize(
    ("judge", "values", "expected"),
    [
        (combine, [(0.2, 0.4)], 4 * 0.95**2),
        (combine, [(0.2, 0.4), (0.2, 0.6)], 9 * 0.95**2),  # all have to be settled
        (any_holds, [(0.2, 0.4), (0.2, 0.6)], 4 * 0.95**2),  # one is enough
        (any_holds, [(-0.2, 0.4), (0.2, 0.6)], 9 * 0.95**2),  # but not one that is refuted
        (combine, [(0.2, 0.4), (-0.2, 0.1)], 4 * 0.95**2),  # then in part
        (combine, [(0.0, 0.4)], math.inf),
    ],
)
def test_how_many_times_the_documents(judge, values, expected: float) -> None:
    evidence: list[Evidence] = [above("", spread(*each), 0.0) for each in values]
    assert times_to_tell(evidence, judge) == pytest.approx(expected)
