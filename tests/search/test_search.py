"""Searches of a tiny model: whatever ends them they have one outcome, and held-out documents have the last word."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.engine import score as sweep
from jaxpaint.plans.plan import Plan
from jaxpaint.results.damage import reading
from jaxpaint.results.search import FRONT, SearchResult, stored_searches, verdict
from jaxpaint.search.budget import Budget
from jaxpaint.search.documents import of_documents, split
from jaxpaint.search.objective import LAPSE, answer_scores
from jaxpaint.search.run import run_search
from jaxpaint.search.spec import SearchSpec
from jaxpaint.studies.run import open_session, run_study
from jaxpaint.studies.spec import StudySpec
from tests.helpers.study_store import rows, scores
from tests.helpers.tiny_tasks import make_task

DOCUMENTS = 24


pytestmark = pytest.mark.usefixtures("own_datasets")


@pytest.fixture
def spec(store, tmp_path) -> SearchSpec:
    """Of five layers three, on two tasks and a third that only confirms."""
    names = ("tiny_choice", "tiny_word", "tiny_blank")
    tasks = tuple(make_task(tmp_path, name, documents=DOCUMENTS) for name in names)
    study = StudySpec(
        model=str(store), dtype="float32", store=tmp_path / "search.sqlite", tasks=tasks, batch_tokens=256
    )
    methods = ("greedy", "halving", "evolution", "blocks", "random")
    return SearchSpec(study, Budget.parse("cost=3"), methods, (tasks[-1],), plans=18, finalists=4)


def search(spec: SearchSpec) -> SearchResult:
    return run_search(spec, tell=lambda line: None)


def stored(spec: SearchSpec) -> list[SearchResult]:
    with reading(spec.study.store) as connection:
        return stored_searches(connection, 1)


def assert_same_outcome(found: SearchResult, expected: SearchResult) -> None:
    """But for layers that were begun when a process ended and ran again, and for float32's rounding, which a plan that
    is scored beside others may have another."""
    ours, theirs = (
        jax.tree_util.tree_flatten_with_path(asdict(replace(each, executed=0, separate=0)))
        for each in (found, expected)
    )
    assert ours[1] == theirs[1]
    for (path, value), (_, other) in zip(ours[0], theirs[0], strict=True):
        assert value == (pytest.approx(other, abs=1e-5) if isinstance(other, float) else other), path


@pytest.mark.slow
def test_an_ended_search_goes_on_to_the_same_front(spec, tmp_path, monkeypatch) -> None:
    expected = search(spec)
    assert stored(spec) == [expected]
    engine = sweep.sweep
    left = 0

    def ended(*arguments, **options):
        nonlocal left
        for found in engine(*arguments, **options):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            yield found

    monkeypatch.setattr(sweep, "sweep", ended)
    again = replace(spec, study=replace(spec.study, store=tmp_path / "again.sqlite"))
    ends = 0
    while True:
        left = 20 * (1 + ends)
        try:
            found = search(again)
            break
        except KeyboardInterrupt:
            ends += 1
    assert ends > 2
    assert_same_outcome(found, expected)
    assert scores(again.study.store).keys() == scores(spec.study.store).keys()
    left = 0  # all is in the store
    assert_same_outcome(search(again), expected)


@pytest.mark.slow
def test_the_search_never_sees_what_is_held_out(spec, monkeypatch) -> None:
    """Of plans that are neither on the front nor beside it no held-out document has a score."""
    result = search(spec)
    with open_session(spec.study, tell=print) as session:
        splits = {each.name: split(each, spec.seed, spec.held_out) for each in session.requests[:2]}
        named = [each.name for each in session.requests]
    confirmed = {each.plan for each in result.found}
    seen: dict[str, set[int]] = {name: set() for name in named}
    for plan, task, document, _ in scores(spec.study.store):
        if plan not in confirmed:
            seen[task].add(document)
    assert seen == {name: set(splits[name].search) if name in splits else set() for name in named}
    for each in splits.values():
        assert sorted(each.search + each.held_out) == list(range(DOCUMENTS))


@pytest.mark.smoke
def test_budget_front_and_numbers(spec) -> None:
    result = search(spec)
    winner = Plan.parse(result.winner)
    assert winner.cost <= 3 == result.limit
    fitting = {(cost, score) for cost, _, score in result.looked if cost <= 3}
    assert result.best.search.value == pytest.approx(max(score for _, score in fitting), abs=1e-5)
    front = [each for each in result.found if each.role == FRONT]
    assert len(front) <= 4
    assert result.best in front
    assert {name for name, _ in result.leads} <= {"the full model", "skip of the middle", "the best of 18 random plans"}
    assert result.separate > 2 * result.executed
    assert result.compared >= 18
    assert (result.setting.documents, result.setting.held_out) == (DOCUMENTS, 2 * DOCUMENTS)
    for each in front:
        assert each.shrinkage.stderr >= each.search.stderr
    assert any("winner" in line for line in verdict(result))


def test_scores_of_right_answers(spec) -> None:
    """Against a naive loop, of a task that chooses and one that completes; and of a part of the documents."""
    with open_session(spec.study, tell=print) as session:
        choice, word, blank = session.requests
    random = np.random.default_rng(0)
    for task in (choice, word, blank):
        values = random.normal(-9, 4, (3, len(task.identities)))
        values[2, 0] = np.nan
        expected = np.zeros((3, DOCUMENTS))
        for document in range(DOCUMENTS):
            own = [place for place, (number, _, _) in enumerate(task.identities) if number == document]
            doc = task.instances[own[0]].doc
            gold = {"tiny_choice": lambda d: d["gold"], "tiny_blank": lambda d: 1}.get(task.name)
            if gold is None:
                expected[:, document] = values[:, own[0]]
            else:
                chances = np.exp(values[:, own])
                chance = chances[:, gold(doc)] / chances.sum(axis=1)
                expected[:, document] = np.log((1 - LAPSE) * chance + LAPSE / len(own))
        expected[2, 0] = -np.inf
        np.testing.assert_allclose(answer_scores(task, values), expected, rtol=1e-9)
        part = of_documents(task, (3, 9))
        assert part.documents == 2
        assert {document for document, _, _ in part.identities} == {3, 9}
        places = [place for place, (number, _, _) in enumerate(task.identities) if number in (3, 9)]
        np.testing.assert_allclose(answer_scores(part, values[:2, places]), expected[:2, [3, 9]], rtol=1e-9)


def labelled(folder: Path, answers: dict[int, int]) -> str:
    """Questions of three choices whose right answers are given."""
    task = make_task(folder, "tiny_choice", documents=len(answers))
    file = folder / "tiny_choice.jsonl"
    documents = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text(
        "".join(
            json.dumps({**each, "choices": each["choices"][:3], "gold": answers[n]}) + "\n"
            for n, each in enumerate(documents)
        )
    )
    return task


def chosen_by(model: Path, plan: str, folder: Path, documents: int) -> dict[int, int]:
    """What a plan finds most likely."""
    task = labelled(folder, dict.fromkeys(range(documents), 0))
    store = folder / "answers.sqlite"
    run_study(StudySpec(model=str(model), dtype="float32", store=store, tasks=(task,), plans=(plan,)))
    found = {key[2:]: value for key, (value, _) in scores(store).items() if key[0] == plan}
    return {document: max(range(3), key=lambda n: found[document, n]) for document in range(documents)}


def of_answers(spec: SearchSpec, folder: Path, answers: dict[int, int], budget: str, *methods: str) -> SearchResult:
    study = replace(spec.study, tasks=(labelled(folder, answers),), store=folder / "search.sqlite")
    return search(replace(spec, study=study, methods=methods, held_out_tasks=(), budget=Budget.parse(budget), plans=40))


@pytest.mark.slow
def test_a_planted_plan_wins_and_is_confirmed(spec, store, tmp_path) -> None:
    (folder := tmp_path / "planted").mkdir()
    answers = chosen_by(store, "0 2 4", folder, 80)
    result = of_answers(spec, folder, answers, "cost=3", "beam")
    assert result.winner == "0 2 4"
    assert result.best.against is not None
    assert result.best.against.value > 0
    assert any(line.startswith("confirmed: better than skip of the middle") for line in verdict(result))


@pytest.mark.slow
def test_the_plan_that_others_are_held_against_may_be_of_the_front(spec, store, tmp_path) -> None:
    (folder := tmp_path / "planted").mkdir()
    answers = chosen_by(store, "0 1 4", folder, 80)
    result = of_answers(spec, folder, answers, "cost=3", "beam")
    assert result.winner == "0 1 4"
    assert result.reference is not None
    assert (result.reference.plan, result.reference.name, result.reference.role) == (
        "0 1 4",
        "skip of the middle",
        FRONT,
    )
    assert any(" than the full model on held-out documents" in line for line in verdict(result))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.few(1)
def test_luck_is_shown_as_luck(spec, tmp_path, seed: int) -> None:
    """Right answers are drawn at random: whatever wins is chosen for luck alone, and nothing is confirmed."""
    (folder := tmp_path / "noise").mkdir()
    random = np.random.default_rng(seed)
    result = of_answers(spec, folder, dict(enumerate(random.integers(0, 3, 60).tolist())), "cost=3", "random", "beam")
    assert result.best.search.value > 0
    assert result.best.shrinkage.value > 0
    told = verdict(result)
    assert not any(line.startswith("confirmed") for line in told), told
    assert any(line.startswith(("not confirmed", "no difference", "worse")) for line in told)


@pytest.mark.slow
def test_repeats_above_the_full_model(spec) -> None:
    result = search(replace(spec, budget=Budget.parse("cost=1.4"), methods=("greedy", "blocks")))
    assert result.limit == 7
    assert Plan.parse(result.winner).cost <= 7
    assert result.reference is None
    assert all(each.against is None for each in result.found)


@pytest.mark.slow
def test_what_cannot_be_searched(spec, tmp_path) -> None:
    writes = make_task(tmp_path / "writes", "tiny_write")
    with pytest.raises(UserError, match="task tiny_write has the model write its answers"):
        search(replace(spec, study=replace(spec.study, tasks=(writes,)), held_out_tasks=()))
    with pytest.raises(UserError, match="has 6 documents, which leaves 3 to search on and 3 held out; each needs 4"):
        search(replace(spec, study=replace(spec.study, limit=6)))
    with pytest.raises(UserError, match="unknown method 'greed': did you mean greedy"):
        replace(spec, methods=("greed",))
    with pytest.raises(UserError, match="no task to search on"):
        replace(spec, held_out_tasks=spec.study.tasks)
    with pytest.raises(UserError, match="--held-out-tasks: tiny_none is no single task"):
        search(replace(spec, held_out_tasks=("tiny_none",)))
    few = make_task(tmp_path / "few", "tiny_blank", documents=3)
    with pytest.raises(UserError, match="task tiny_blank has 3 documents to confirm on; 4 are needed"):
        search(replace(spec, study=replace(spec.study, tasks=(*spec.study.tasks[:-1], few)), held_out_tasks=(few,)))
    assert not list(rows(spec.study.store, "SELECT * FROM analyses"))
