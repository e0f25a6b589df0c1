"""The best plan per document: counts of answers made by hand, what luck gives against permutations, and the command."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpaint.results.per_document import PerDocument, per_document
from tests.helpers.tiny_tasks import make_task


def _right(marks: str) -> dict[int, bool]:
    return {document: mark == "1" for document, mark in enumerate(marks)}


def test_counts_by_hand() -> None:
    full = _right("11110000")
    plans = [(4, _right("10001100")), (4, _right("01001000")), (9, _right("11110010"))]
    found = per_document(full, plans, 6, 0.25)
    assert found == PerDocument(
        documents=8,
        plans=3,
        wrong=4,
        rescued=3,  # documents 4, 5 and 6
        shorter=2,  # documents 0 and 1; the third plan costs more
        best=5 / 8,
        anywhere=pytest.approx(1 - 5 / 8 * 6 / 8 * 3 / 8),
        guessed=pytest.approx(1 - 0.75**3),
    )
    assert (found.full, found.oracle) == (0.5, 7 / 8)


def test_what_luck_gives_is_the_mean_over_permutations() -> None:
    drawn = np.random.default_rng(0)
    full, others = drawn.random(40) < 0.6, drawn.random((5, 40)) < [[0.1], [0.2], [0.3], [0.05], [0.4]]
    found = per_document(dict(enumerate(full.tolist())), [(1, dict(enumerate(p.tolist()))) for p in others], 2, None)
    assert found is not None
    assert found.guessed is None
    shares = [drawn.permuted(others, axis=1)[:, ~full].any(axis=0).mean() for _ in range(4000)]
    assert found.anywhere == pytest.approx(np.mean(shares), abs=4 * np.std(shares) / np.sqrt(4000))


def test_plans_of_fewer_documents_do_not_count() -> None:
    full, whole = _right("1010"), _right("0110")
    alone = per_document(full, [(1, whole)], 4, None)
    assert per_document(full, [(1, whole), (1, {3: True})], 4, None) == alone
    assert alone is not None
    assert (alone.plans, alone.rescued) == (1, 1)
    more = {**whole, 4: True, 5: True}  # its score is of the full model's documents alone
    assert per_document(full, [(1, more)], 4, None) == alone
    assert per_document(full, [(1, {3: True})], 4, None) is None
    assert per_document({}, [], 4, None) is None


def test_a_full_model_that_is_never_wrong() -> None:
    found = per_document(_right("11"), [(1, _right("01"))], 4, 0.5)
    assert found is not None
    assert (found.wrong, found.rescued, found.oracle) == (0, 0, 1.0)


def test_the_command(run, store, tmp_path) -> None:
    tasks = ",".join(make_task(tmp_path, name) for name in ("tiny_choice", "tiny_word"))
    file = tmp_path / "study.sqlite"
    asked = ("--limit", 8, "--dtype", "float32", "--store", file)
    assert run("study", "--model", store, "--tasks", tasks, "--strategies", "skip-one,reverse", *asked)[0] == 0
    status, out, err = run("results", file, "--per-document")
    assert (status, err) == (0, "")
    row = next(line for line in out.splitlines() if line.startswith("tiny_choice")).split()
    assert row[:3] == ["tiny_choice,", "n=8", "7"]
    full, best, oracle, rescued, _, wrong = row[3:9]
    assert float(oracle) == pytest.approx(float(full) + int(rescued) / 8, abs=6e-4)
    assert float(full) <= float(best) <= float(oracle)
    assert int(wrong) == round(8 * (1 - float(full)))

    from jaxpaint.report.data import read_store  # another reader of the same documents

    (study,) = read_store(file)
    scores = next(each for each in study.results if each.task.name == "tiny_choice").per_document
    own = scores[study.full] == 1
    assert int(rescued) == int((~own & (np.delete(scores, study.full, axis=0) == 1).any(axis=0)).sum())

    status, _, err = run("results", file, "--per-document", "--format", "csv")
    assert (status, "leave --format and all other options away" in err) == (2, True)


def test_a_store_without_another_plan(run, store, tmp_path) -> None:
    file = tmp_path / "study.sqlite"
    task = make_task(tmp_path, "tiny_choice")
    assert run("study", "--model", store, "--tasks", task, "--limit", 2, "--store", file)[0] == 0
    assert run("results", file, "--per-document")[1].startswith("no task's documents are right or wrong")
