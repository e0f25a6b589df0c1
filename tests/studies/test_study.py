"""A study and its store: every score once, whatever happens on the way."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.engine import head, source, walk
from jaxpaint.engine import score as sweep
from jaxpaint.results.store import Store, merge
from jaxpaint.studies import cells as study_cells
from jaxpaint.studies import loop, run, scoring
from jaxpaint.studies.run import open_session, run_study
from jaxpaint.studies.spec import StudySpec
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from tests.helpers.study_store import assert_equal_stores, metrics, rows, scores, statuses
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import SCORED, make_task

BATCH_TOKENS = 128


pytestmark = pytest.mark.usefixtures("own_datasets")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "model")
    return convert(folder, folder.parent / "store")


@pytest.fixture
def spec(model, tmp_path) -> StudySpec:
    """Seven plans on two tasks, in several batches."""
    return StudySpec(
        model=str(model),
        dtype="float32",
        store=tmp_path / "study.sqlite",
        tasks=(make_task(tmp_path, "tiny_choice"), make_task(tmp_path, "tiny_word")),
        strategies=("skip", "parallel", "looped-parallel"),
        batch_tokens=BATCH_TOKENS,
    )


@pytest.fixture(scope="module")
def undisturbed(model, tmp_path_factory) -> Callable[[StudySpec], Path]:
    """The store of an equal study that nothing disturbed."""
    known: dict[StudySpec, Path] = {}

    def store(spec: StudySpec) -> Path:
        key = replace(spec, store=Path(), tasks=tuple(Path(task).name for task in spec.tasks))
        if key not in known:
            known[key] = tmp_path_factory.mktemp("undisturbed") / "study.sqlite"
            run_study(replace(spec, store=known[key]))
        return known[key]

    return store


def watched(monkeypatch, before: Callable[[int, sweep.Batch], None] = lambda number, batch: None) -> list[int]:
    """The numbers of scores that the engine computes, one for each of its steps; `before` is called before each."""
    computed: list[int] = []
    engine = sweep.sweep

    def watched_sweep(model, batches, plans, **options):
        for found in engine(model, batches, plans, **options):
            before(len(computed), found.batch)
            computed.append(len(found.plans) * len(found.batch.requests))
            yield found

    monkeypatch.setattr(sweep, "sweep", watched_sweep)
    return computed


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.few(1)
def test_scores_and_metrics_equal_those_of_each_plan_alone(name, spec, tmp_path):
    task = make_task(tmp_path, name, documents=7)
    spec = replace(spec, tasks=(task,))
    summary = run_study(spec)
    assert (summary.plans, summary.cells, summary.finished, summary.not_finite) == (7, 7, 7, 0)
    model = jp.load(spec.model, dtype="float32")
    tasks = load_tasks([task])
    found, by_document = metrics(spec.store), scores(spec.store)
    for plan in ("0 1 4", "0 {1-4}*3"):
        results = evaluate(PlanLM(model, jp.Plan.parse(plan)), tasks, log_samples=True)
        for key, value in results["results"][name].items():
            metric, _, filter = key.partition(",")
            if filter and value != "N/A":
                what = "stderr" if metric.endswith("_stderr") else "value"
                ours = found[plan, name, metric.removesuffix("_stderr"), filter][what == "stderr"]
                assert ours == pytest.approx(value, rel=1e-3), (plan, key)
        for sample in results["samples"][name]:
            mine = [value for key, value in sorted(by_document.items()) if key[:3] == (plan, name, sample["doc_id"])]
            if name == "tiny_text":
                assert sum(value for value, _ in mine) == pytest.approx(sample["resps"][0][0], abs=1e-4)
            else:
                assert mine == [(pytest.approx(value, abs=1e-4), greedy) for ((value, greedy),) in sample["resps"]]


def test_a_second_run_computes_nothing(spec, monkeypatch):
    computed = watched(monkeypatch)
    first = run_study(spec)
    assert sum(computed) == first.work.scores == len(scores(spec.store))
    assert first.work.distinct <= first.work.executed < first.work.separate
    before = scores(spec.store), metrics(spec.store), rows(spec.store, "SELECT * FROM runs")
    assert [(row["executed"], row["distinct_work"], row["separate"]) for row in before[2]] == [
        (first.work.executed, first.work.distinct, first.work.separate)
    ]
    monkeypatch.setattr(sweep, "sweep", None)
    monkeypatch.setattr(study_cells, "task_metrics", None)
    second = run_study(spec)
    assert second.work == scoring.Work()
    assert (second.plans, second.cells, second.finished) == (7, 14, 14)
    assert (scores(spec.store), metrics(spec.store), rows(spec.store, "SELECT * FROM runs")) == before


@pytest.mark.slow
def test_a_session_scores_as_often_as_it_is_asked(spec, undisturbed):
    told: list[str] = []
    with run.open_session(spec, tell=told.append) as opened:
        variants = spec.variants(opened.model.num_layers)
        some, again, all = (opened.score(each) for each in (variants[:3], variants[:3], variants))
    assert (some.cells, again.cells, all.cells) == (6, 6, 14)
    assert again.work == scoring.Work()
    assert some.work.scores + all.work.scores == len(scores(spec.store))
    assert len(rows(spec.store, "SELECT * FROM runs")) == 2
    assert_equal_stores(spec.store, undisturbed(spec))


@pytest.mark.slow
def test_more_plans_tasks_and_documents_compute_what_is_missing(spec, tmp_path, undisturbed):
    small = replace(spec, tasks=spec.tasks[:1], strategies=("skip",), limit=3)
    whole = replace(spec, tasks=(*spec.tasks, make_task(tmp_path, "tiny_blank")), limit=5)
    of_choice, of_word, of_blank = (3 + 4 + 3, 4 + 3), 5, 2 * 5  # in documents 0 to 2, 3 and 4
    steps = [
        (small, 3 * of_choice[0]),
        (replace(small, strategies=("skip", "parallel")), 2 * of_choice[0]),
        (replace(small, strategies=spec.strategies, limit=5), 2 * of_choice[0] + 7 * of_choice[1]),
        (replace(small, limit=2), 0),
        (replace(whole, strategies=("skip",)), 3 * (of_word + of_blank)),
        (whole, 4 * (of_word + of_blank)),
    ]
    before: dict = {}
    for step, missing in steps:
        summary = run_study(step)
        after = scores(spec.store)
        assert summary.work.scores == missing == len(after) - len(before)
        assert all(after[key] == value for key, value in before.items())
        before = after
    assert_equal_stores(spec.store, undisturbed(whole))


def test_an_interruption_keeps_what_was_computed(spec, monkeypatch, undisturbed):
    def interrupt(number: int, _batch) -> None:
        if number == 9:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        computed = watched(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_study(spec)
    kept = scores(spec.store)
    assert len(kept) == sum(computed) > 0
    assert "running" in {status for status, _ in statuses(spec.store).values()}
    assert not rows(spec.store, "SELECT * FROM claims")
    summary = run_study(spec)
    assert summary.work.scores == len(scores(spec.store)) - len(kept)
    assert_equal_stores(spec.store, undisturbed(spec))


@pytest.mark.slow
def test_a_store_that_cannot_be_written_is_told_and_loses_nothing(spec, monkeypatch, undisturbed):
    written = []
    add_scores = Store.add_scores

    def full_disk(self, scores, seconds):
        if len(written) == 2:
            raise UserError("no space left")
        scores = list(scores)
        add_scores(self, scores, seconds)
        written.append(len(scores))

    monkeypatch.setattr(loop, "WRITE_SECONDS", 0)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_scores", full_disk)
        with pytest.raises(UserError, match="no space left"):
            run_study(spec)
    assert len(scores(spec.store)) == sum(written)
    assert not rows(spec.store, "SELECT * FROM claims")
    assert run_study(spec).work.scores == len(scores(undisturbed(spec))) - sum(written)
    assert_equal_stores(spec.store, undisturbed(spec))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.slow
def test_out_of_memory_halves_batches(late, spec, monkeypatch, undisturbed):
    """`late`: only after some plans of a batch, whose scores are kept."""
    most = BATCH_TOKENS // 2

    def exhausted(number: int, batch) -> None:
        if batch.tokens.size > most and (number > 3 or not late):
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    told: list[str] = []
    computed = watched(monkeypatch, exhausted)
    summary = run_study(spec, tell=told.append)
    assert len(told) == 1
    assert told[0].endswith(f"--batch-tokens {most}")
    assert sum(computed) == summary.work.scores == len(scores(spec.store))
    assert_equal_stores(spec.store, undisturbed(spec))


def test_out_of_memory_with_the_smallest_batches_is_told(spec, monkeypatch):
    def exhausted(*_) -> None:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")

    watched(monkeypatch, exhausted)
    with pytest.raises(UserError, match=r"out of memory.* 64 tokens cannot be made smaller"):
        run_study(spec, tell=lambda line: None)
    assert not rows(spec.store, "SELECT * FROM claims")


def test_another_error_of_the_engine_is_not_taken_for_that(spec, monkeypatch):
    def broken(*_) -> None:
        raise RuntimeError("INTERNAL: a bug")

    watched(monkeypatch, broken)
    with pytest.raises(RuntimeError, match="INTERNAL"):
        run_study(spec)


def test_a_plan_that_is_not_finite_stops_no_other(spec, monkeypatch, undisturbed):
    def load(*arguments, **options):
        """A model whose layer 2 gives NaN."""
        model = jp.load(*arguments, **options)
        state = jax.tree.map_with_path(
            lambda path, leaf: leaf.at[2].set(jnp.nan) if "blocks" in str(path) else leaf, model.state
        )
        return replace(model, state=state)

    monkeypatch.setattr(source, "load", load)
    summary = run_study(spec)
    expected, found = scores(undisturbed(spec)), scores(spec.store)
    assert expected.keys() == found.keys()
    finite = {"0", "0 1 4"}
    for key, (value, _) in expected.items():
        assert found[key][0] == (pytest.approx(value, abs=1e-4) if key[0] in finite else None)
    assert {plan for (plan, _), (status, _) in statuses(spec.store).items() if status == "finished"} == finite
    assert (summary.finished, summary.not_finite, summary.cells) == (4, 10, 14)
    for key, (value, stderr) in metrics(spec.store).items():
        assert (value is None and stderr is None) == (key[0] not in finite)
    assert metrics(spec.store).keys() == metrics(undisturbed(spec)).keys()
    assert run_study(spec).work.scores == 0


@pytest.mark.slow
def test_two_workers_divide_the_work(spec, monkeypatch, undisturbed):
    """The second one comes while the first computes a batch, does all others, and waits for that one."""
    waits, told = threading.Event(), []
    summaries: list[run.StudySummary] = []

    def tell(line: str) -> None:
        told.append(line)
        waits.set()

    second = threading.Thread(target=lambda: summaries.append(run_study(spec, tell=tell)))

    def begin_second(number: int, _batch) -> None:
        if number == 0 and not second.ident:
            second.start()
            assert waits.wait(timeout=120)

    monkeypatch.setattr(loop, "WAIT_SECONDS", 0.05)
    computed = watched(monkeypatch, begin_second)
    summaries.append(run_study(spec))
    second.join(timeout=120)
    assert told == ["waiting for what another process computes of this study"]
    assert sum(computed) == sum(each.work.scores for each in summaries) == len(scores(spec.store))
    assert all(each.work.scores > 0 for each in summaries)
    assert all((each.finished, each.cells) == (14, 14) for each in summaries)
    assert len({row["worker"] for row in rows(spec.store, "SELECT worker FROM runs")}) == 2
    assert_equal_stores(spec.store, undisturbed(spec))


@pytest.mark.slow
def test_workers_with_other_batches_share_requests_and_no_score(spec, monkeypatch, undisturbed):
    """The second one packs differently, so most of its batches are claimed in part."""
    waits = threading.Event()
    other = replace(spec, batch_tokens=3 * BATCH_TOKENS, strategies=("skip", "parallel", "reverse"))
    second = threading.Thread(target=lambda: run_study(other, tell=lambda line: waits.set()))

    def begin_second(number: int, _batch) -> None:
        if number == 0 and not second.ident:
            second.start()
            assert waits.wait(timeout=120)

    monkeypatch.setattr(loop, "WAIT_SECONDS", 0.05)
    computed = watched(monkeypatch, begin_second)
    run_study(spec)
    second.join(timeout=120)
    whole = replace(spec, strategies=("skip", "parallel", "looped-parallel", "reverse"))
    assert sum(computed) == len(scores(spec.store)) == len(scores(undisturbed(whole)))
    assert_equal_stores(spec.store, undisturbed(whole))


@pytest.mark.slow
def test_a_study_of_many_plans_has_few_executables(spec, monkeypatch):
    """At most 4 for a batch shape, and at most 6 shapes, whatever the number of plans."""
    shapes = set()
    watched(monkeypatch, lambda number, batch: shapes.add((batch.tokens.shape, batch.lookback, batch.scored.shape)))
    executables = (walk._embed_stream, walk.segment, head._at_scored)
    for executable in executables:
        executable.clear_cache()
    names = ("skip", "reverse", "random", "parallel", "looped-parallel", "block-repeat", "skip-one", "switch")
    summary = run_study(replace(spec, strategies=names, loops=tuple(range(1, 29)), plans=("0 {1 {2 (3 4)*2}} 4",)))
    assert summary.plans >= 80
    assert 1 <= len(shapes) <= 6
    assert summary.work.distinct <= summary.work.executed < summary.work.separate / 20
    assert sum(executable.executables() for executable in executables) <= 4 * len(shapes)


@pytest.mark.slow
def test_shards_merge_into_the_whole(spec, tmp_path, undisturbed):
    stores = [tmp_path / "first.sqlite", tmp_path / "second.sqlite"]
    summaries = [run_study(replace(spec, store=store, shard=(i + 1, 2))) for i, store in enumerate(stores)]
    assert all(summary.plans for summary in summaries)
    assert sum(summary.plans for summary in summaries) == 7
    merge(spec.store, stores)
    assert_equal_stores(spec.store, undisturbed(spec))
    assert run_study(spec).work.scores == 0


def test_other_texts_are_refused(spec, tmp_path):
    run_study(replace(spec, strategies=()))
    file = tmp_path / "tiny_word.jsonl"
    file.write_text(file.read_text().replace("she put", "he put"))
    with pytest.raises(UserError, match="tiny_word, document 0, request 0 has another text"):
        run_study(spec)


@pytest.mark.slow
def test_progress_counts_every_token_under_every_plan(spec):
    totals: list[int] = []
    done: list[tuple[int, str]] = []

    def progress(total: int, phase: str, later: float) -> Callable[[int, str], None]:
        totals.append(total)
        return lambda tokens, note: done.append((tokens, note))

    run_study(spec, progress=progress)
    assert totals == [sum(tokens for tokens, _ in done)]
    assert done[0][1] == "0 of 14 results"
    run_study(replace(spec, strategies=(*spec.strategies, "reverse")), progress=progress)
    assert re.match(r"\d+ of 18 results, best on tiny_(word|choice): [a-z]+", done[-1][1])


@pytest.mark.slow
def test_where_the_store_has_all_no_weights_are_read(spec, monkeypatch) -> None:
    """Nor is room for them needed: a rerun costs seconds, however large the model is."""
    run_study(spec)
    before = scores(spec.store)

    def refuse(*arguments: object, **how: object) -> None:
        raise UserError("the weights are read")

    monkeypatch.setattr("jaxpaint.models.checkpoint.restore", refuse)
    again = run_study(spec)
    assert (again.finished, again.work.executed) == (again.cells, 0)
    assert scores(spec.store) == before
    with pytest.raises(UserError, match="the weights are read"):
        run_study(replace(spec, strategies=(*spec.strategies, "reverse")))
    assert scores(spec.store) == before


@pytest.mark.slow
def test_a_model_that_is_replaced_before_its_weights_are_read(spec, model, tmp_path) -> None:
    shutil.copytree(model, copy := tmp_path / "copy")
    own = replace(spec, model=str(copy))
    run_study(own)
    before = scores(spec.store)
    with open_session(replace(own, strategies=(*spec.strategies, "reverse")), tell=print) as session:
        shutil.rmtree(copy)
        convert(make_folder(tmp_path / "other", adds_bos=True), copy)
        with pytest.raises(UserError, match="was replaced meanwhile; try again"):
            session.score(session.spec.shard_variants(session.model.num_layers, {}))
    assert scores(spec.store) == before
