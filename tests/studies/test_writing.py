"""A study of tasks that generate: every text once, whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.results.store import merge
from jaxpaint.studies import loop
from jaxpaint.studies.run import run_study
from jaxpaint.studies.spec import StudySpec
from jaxpaint.tasks import encoding
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from tests.helpers.study_store import metrics, rows, statuses
from tests.helpers.tiny_tasks import make_task
from tests.studies.test_study import model  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_datasets")


@pytest.fixture
def spec(model, tmp_path) -> StudySpec:  # noqa: F811
    return StudySpec(
        model=str(model),
        dtype="float32",
        store=tmp_path / "study.sqlite",
        tasks=(make_task(tmp_path, "tiny_write"), make_task(tmp_path, "tiny_choice", documents=3)),
        strategies=("skip", "parallel", "looped-parallel"),
    )


def texts(store: Path) -> dict[tuple[str, int], str | None]:
    return {(row["plan"], row["document"]): row["text"] for row in rows(store, "SELECT * FROM generations")}


@pytest.mark.parametrize("kv", ["exact", "mean"])
@pytest.mark.slow
def test_texts_and_metrics_equal_those_of_each_plan_alone(kv, spec):
    summary = run_study(replace(spec, kv=kv))
    assert summary.written == 12 * summary.plans
    assert summary.finished == summary.cells == 2 * summary.plans
    found, stored = metrics(spec.store), texts(spec.store)
    loaded = jp.load(spec.model, dtype="float32")
    assert len({plan for plan, _ in stored}) == summary.plans == 7
    for plan in ("0 1 4", "0 {1-4}*3"):
        lm = PlanLM(loaded, jp.Plan.parse(plan), kv=kv)
        alone = evaluate(lm, load_tasks(spec.tasks[:1]), log_samples=True)
        for sample in alone["samples"]["tiny_write"]:
            assert stored[plan, sample["doc_id"]] == sample["resps"][0][0]
        for name in ("whole", "letter"):
            value, stderr = found[plan, "tiny_write", "exact_match", name]
            assert value == alone["results"]["tiny_write"][f"exact_match,{name}"]
            assert stderr == pytest.approx(alone["results"]["tiny_write"][f"exact_match_stderr,{name}"])
    assert len(set(stored.values())) > 5


@pytest.mark.slow
def test_a_second_run_writes_nothing_and_more_documents_write_what_is_missing(spec):
    run_study(replace(spec, limit=5))
    first = texts(spec.store)
    assert run_study(replace(spec, limit=5)).written == 0
    more = run_study(spec)
    assert more.written == 7 * more.plans
    assert first.items() <= texts(spec.store).items()
    assert {documents for _, documents in statuses(spec.store).values()} == {12, 3}


@pytest.mark.slow
def test_an_interruption_keeps_what_was_written(spec, monkeypatch, tmp_path):
    whole = replace(spec, store=tmp_path / "whole.sqlite")
    run_study(whole)
    monkeypatch.setattr(loop, "WRITE_SECONDS", 0.0)
    original, left = encoding.generate, [20]

    def interrupted(*arguments, **options):
        for found in original(*arguments, **options):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            yield found

    monkeypatch.setattr(encoding, "generate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_study(spec)
    assert len(texts(spec.store)) == 20
    left[0] = 10**6
    assert run_study(spec).written == len(texts(whole.store)) - 20
    assert texts(spec.store) == texts(whole.store)
    assert metrics(spec.store) == metrics(whole.store)
    assert not rows(spec.store, "SELECT * FROM claims")


@pytest.mark.slow
def test_caches_are_kept_apart(spec):
    run_study(spec)
    run_study(replace(spec, kv="mean"))
    settings = {row["settings"] for row in rows(spec.store, "SELECT settings FROM tasks WHERE name = 'tiny_write'")}
    assert sorted('"kv":"mean"' in each for each in settings) == [False, True]
    assert len(rows(spec.store, "SELECT * FROM generations")) == 2 * len(texts(spec.store))


@pytest.mark.slow
def test_out_of_memory_goes_on_with_less(spec, monkeypatch, tmp_path):
    run_study(replace(spec, store=tmp_path / "whole.sqlite"))
    original, sizes = encoding.generate, []

    def tight(*arguments, cache_bytes, **options):
        sizes.append(cache_bytes)
        if cache_bytes > 1 << 28:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return original(*arguments, cache_bytes=cache_bytes, **options)

    monkeypatch.setattr(encoding, "generate", tight)
    said: list[str] = []
    run_study(spec, tell=said.append)
    assert texts(spec.store) == texts(tmp_path / "whole.sqlite")
    assert sizes[-1] <= 1 << 28 < sizes[0]
    assert "the device is out of memory; going on with a cache of" in said[0]


@pytest.mark.slow
def test_a_plan_that_is_not_finite_stops_no_other(spec, monkeypatch):
    original = encoding.generate

    def broken(*arguments, **options):
        for found in original(*arguments, **options):
            yield replace(found, ending="not finite") if found.plan == 1 else found

    monkeypatch.setattr(encoding, "generate", broken)
    summary = run_study(spec)
    assert summary.not_finite == 1
    lost = [key for key, (status, _) in statuses(spec.store).items() if status == "not finite"]
    assert len(lost) == 1
    assert all(value is None for key, value in texts(spec.store).items() if key[0] == lost[0][0])
    assert all(value is not None for key, value in texts(spec.store).items() if key[0] != lost[0][0])


@pytest.mark.slow
def test_stores_merge_with_their_texts(spec, tmp_path):
    run_study(spec)
    halves = [tmp_path / f"half{number}.sqlite" for number in (1, 2)]
    for number, half in enumerate(halves, 1):
        run_study(replace(spec, store=half, shard=(number, 2)))
    joined = tmp_path / "joined.sqlite"
    merge(joined, halves)
    assert texts(joined) == texts(spec.store)
    assert metrics(joined) == metrics(spec.store)


def test_a_plan_without_a_mean_cache_is_told_before_any_work(spec):
    with pytest.raises(UserError, match="single layers only"):
        run_study(replace(spec, kv="mean", plans=("0 {(1 2) 3} 4",)))
    assert not spec.store.exists()
