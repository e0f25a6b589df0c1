"""The answers to the paper's questions, for data made to support, to refute, or to leave them open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.plans.strategies import Variant, family
from jaxpaint.report.data import read_store
from jaxpaint.report.findings import Answer, answers
from jaxpaint.report.measurements import Measurements
from tests.helpers.report_store import FakeModel, FakeTask, add_analysis, write_store

LAYERS = 16
FULL = 0.8
Kept = Callable[[Variant], float | None]


def kept(**share: float) -> Kept:
    """The share of the full model's score that each strategy keeps, whatever its options."""
    return lambda variant: {"full": 1.0, **share}[variant.strategy.replace("-", "_")]


def accuracy(share: Kept) -> Kept:
    def of(variant: Variant) -> float | None:
        value = 1.0 if variant.affected == 1 and variant.start is not None else share(variant)
        return None if value is None else FULL * value

    return of


def ask(
    number: int, path: Path, strategies: str, *shares: Kept, names=("lambada_openai",), documents=400, loops=(3,)
) -> Answer:
    plans = [
        v for name in ("full", *strategies.split()) for v in family(name, LAYERS, seeds=range(2), iterations=loops)
    ]
    shares = shares * len(names) if len(shares) == 1 else shares
    tasks = [FakeTask(n, accuracy(s), documents=documents) for n, s in zip(names, shares, strict=True)]
    (study,) = read_store(write_store(path / "store", FakeModel(plans, tasks, LAYERS)))
    return answers(Measurements.of(study))[number - 1]


def test_without_data_every_answer_says_what_is_needed(tmp_path: Path) -> None:
    for number in range(1, 9):
        answer = ask(number, tmp_path, "", kept())
        assert answer.verdict == "open"
        assert answer.text.startswith("Not enough data: this takes ")
        (tmp_path / "store").unlink()


@pytest.mark.parametrize(("share", "verdict"), [(0.95, "holds"), (0.5, "does not hold"), (0.8, "open")])
def test_question_1_by_switching_neighbours(tmp_path: Path, share: float, verdict: str) -> None:
    answer = ask(1, tmp_path, "switch", kept(switch=share))
    assert answer.verdict == verdict
    assert answer.evidence[0].value == pytest.approx(share, abs=0.002)
    assert answer.evidence[0].low < share < answer.evidence[0].high


def test_question_1_the_first_and_last_layers_do_not_decide(tmp_path: Path) -> None:
    answer = ask(1, tmp_path, "switch", lambda v: 0.1 if v.layer in (0, 1, 14) else 0.95)
    assert answer.verdict == "holds"
    assert answer.evidence[1].value < 0.8
    assert answer.evidence[1].verdict is None


@pytest.mark.parametrize("block", [True, False])
def test_question_1_by_similarity(tmp_path: Path, block: bool) -> None:
    depth = np.arange(LAYERS + 1)
    similarity = np.exp(-0.05 * abs(depth[:, None] - depth))  # fades with distance, the same everywhere
    if block:
        outside = (depth < 3) | (depth > 13)
        similarity[outside[:, None] ^ outside] *= 0.3
    plans = family("full", LAYERS)
    store = write_store(tmp_path / "s", FakeModel(plans, [FakeTask("t", lambda v: 0.5)], LAYERS))
    add_analysis(store, plans[0], "similarity", similarity)
    answer = answers(Measurements.of(read_store(store)[0]))[0]
    assert answer.verdict == ("holds" if block else "does not hold")
    assert np.isnan(answer.evidence[0].low)
    assert "without an interval" in answer.text


def test_question_2_one_way_to_drop_layers_is_enough(tmp_path: Path) -> None:
    assert ask(2, tmp_path, "skip-one skip", kept(skip_one=0.95, skip=0.3)).verdict == "holds"


def test_question_2_refuted(tmp_path: Path) -> None:
    assert ask(2, tmp_path, "skip-one", kept(skip_one=0.4)).verdict == "does not hold"


@pytest.mark.parametrize(
    ("repeat", "verdict"),
    [(0.2, "holds"), (0.7, "does not hold"), (0.5, "does not hold"), (0.49, "open")],
)
def test_question_3(tmp_path: Path, repeat: float, verdict: str) -> None:
    shares = kept(skip=0.5, middle_repeat=repeat)
    if repeat == 0.49:  # a small difference whose documents are few and disagree
        plans = [v for name in ("full", "skip", "middle-repeat") for v in family(name, LAYERS)]
        task = FakeTask("t", accuracy(shares), documents=30, exact=False)
        (study,) = read_store(write_store(tmp_path / "s", FakeModel(plans, [task], LAYERS)))
        answer = answers(Measurements.of(study))[2]
    else:
        answer = ask(3, tmp_path, "skip middle-repeat", shares)
        assert answer.evidence[0].value == pytest.approx(0.5 - repeat, abs=0.005)
    assert answer.verdict == verdict


@pytest.mark.parametrize(
    ("random", "reverse", "verdict"),
    [(0.7, 0.4, "holds"), (0.4, 0.7, "holds in part"), (1.0, 1.0, "does not hold")],
)
def test_question_4(tmp_path: Path, random: float, reverse: float, verdict: str) -> None:
    answer = ask(4, tmp_path, "random reverse", kept(random=random, reverse=reverse))
    assert answer.verdict == verdict
    assert [e.value for e in answer.evidence[:2]] == pytest.approx([1 - random, random - reverse], abs=0.005)


def test_question_4_takes_both_orders(tmp_path: Path) -> None:
    answer = ask(4, tmp_path, "random", kept(random=0.5))
    assert answer.verdict == "open"
    assert "takes the strategies random and reverse" in answer.text


@pytest.mark.parametrize(
    ("parallel", "skip", "verdict"), [(0.8, 0.3, "holds"), (0.3, 0.1, "holds in part"), (0.2, 0.6, "does not hold")]
)
def test_question_5(tmp_path: Path, parallel: float, skip: float, verdict: str) -> None:
    answer = ask(5, tmp_path, "parallel skip", kept(parallel=parallel, skip=skip))
    assert answer.verdict == verdict
    assert "GSM8K" in answer.text


@pytest.mark.parametrize(("semantic", "reasoning", "verdict"), [(0.8, 0.4, "holds"), (0.4, 0.8, "does not hold")])
def test_question_6(tmp_path: Path, semantic: float, reasoning: float, verdict: str) -> None:
    shares = (kept(random=semantic), kept(random=reasoning))
    answer = ask(6, tmp_path, "random", *shares, names=("lambada_openai", "gsm8k"))
    assert answer.verdict == verdict
    assert answer.evidence[0].value == pytest.approx(semantic - reasoning, abs=0.005)
    assert "Arithmetic" not in answer.text


def test_question_6_of_the_tasks_of_painter_16(tmp_path: Path) -> None:
    shares = (kept(random=0.9), kept(random=0.1), kept(random=0.1))
    answer = ask(6, tmp_path, "random", *shares, names=("painter_places", "painter_arithmetic", "painter_facts"))
    assert answer.verdict == "holds"
    assert answer.evidence[0].value == pytest.approx(0.8, abs=0.005)
    assert "(painter_places)" in answer.text
    assert "(painter_arithmetic)" in answer.text  # recalling facts is no reasoning


def test_question_6_takes_both_kinds_of_task(tmp_path: Path) -> None:
    answer = ask(6, tmp_path, "random", kept(random=0.5), names=("lambada_openai", "hellaswag"))
    assert answer.verdict == "open"


def iterations_keep(best: Callable[[int], float]) -> Kept:
    def share(variant: Variant) -> float:
        if variant.strategy == "full":
            return 1.0
        return 0.7 - 0.03 * abs((variant.iterations or 1) - best(variant.affected or 0))

    return share


def test_question_7_supported_where_the_best_grows(tmp_path: Path) -> None:
    loops = range(1, 9)
    answer = ask(7, tmp_path, "parallel looped-parallel", iterations_keep(lambda m: m / 2), documents=800, loops=loops)
    gain, growth, ratio = answer.evidence
    assert answer.verdict == "holds"
    expected = np.mean([0.03 * (abs(1 - m / 2) - abs(3 - m / 2)) for m in range(3, 16, 2)])  # three against one
    assert gain.value == pytest.approx(expected, abs=0.005)
    assert growth.value == pytest.approx(0.5, abs=0.05)
    assert ratio.value == pytest.approx(0.5, abs=0.05)


def test_question_7_mixed_where_the_best_is_the_same(tmp_path: Path) -> None:
    loops = range(1, 9)
    answer = ask(7, tmp_path, "parallel looped-parallel", iterations_keep(lambda m: 4), documents=800, loops=loops)
    assert [item.verdict for item in answer.evidence[:2]] == ["holds", "does not hold"]
    assert answer.verdict == "holds in part"


def test_question_7_refuted(tmp_path: Path) -> None:
    answer = ask(7, tmp_path, "parallel looped-parallel", kept(parallel=0.6, looped_parallel=0.4))
    assert answer.verdict == "does not hold"


PAPERS_ORDER = {
    "random": 0.7,
    "looped_parallel": 0.75,
    "parallel": 0.5,
    "reverse": 0.4,
    "skip": 0.3,
    "middle_repeat": 0.1,
}


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"parallel": 0.9}, "holds in part"),
        ({"parallel": 0.9, "middle_repeat": 0.35}, "does not hold"),
    ],
)
def test_question_8(tmp_path: Path, changed: dict[str, float], verdict: str) -> None:
    strategies = "skip middle-repeat reverse random parallel looped-parallel"
    answer = ask(8, tmp_path, strategies, kept(**(PAPERS_ORDER | changed)))
    assert answer.verdict == verdict
    if not changed:
        assert "looped parallel ×3 (0.75), random order (0.70), parallel (0.50), reverse (0.40)" in answer.text
        assert [item.value for item in answer.evidence[:2]] == pytest.approx([0.2, 0.2], abs=0.005)


def test_question_8_ranks_what_there_is(tmp_path: Path) -> None:
    answer = ask(8, tmp_path, "skip reverse", kept(skip=0.3, reverse=0.6))
    assert answer.verdict == "open"
    assert "From least harm to most: reverse (0.60), skip (0.30)." in answer.text


def test_no_answer_where_the_full_model_guesses(tmp_path: Path) -> None:
    plans = [v for name in ("full", "skip", "middle-repeat") for v in family(name, LAYERS)]
    task = FakeTask("winogrande", lambda v: 0.5 if v.strategy == "full" else 0.1, chance=0.5)
    (study,) = read_store(write_store(tmp_path / "s", FakeModel(plans, [task], LAYERS)))
    for answer in answers(Measurements.of(study)):
        assert answer.verdict == "open"
        assert "not clearly above chance" in answer.text
