"""A study's analyses: each once, whatever happens on the way, and the same to the last digit."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxpaint as jp
from convert import convert
from jaxpaint.analysis.states import analyse
from jaxpaint.base.errors import UserError
from jaxpaint.base.words import text_digest
from jaxpaint.results.store import Store
from jaxpaint.studies import analyses as study_analyses
from jaxpaint.studies import run
from jaxpaint.studies.early import require_fitting
from jaxpaint.studies.run import run_study
from jaxpaint.studies.spec import StudySpec
from tests.helpers.bert_models import tiny_bert
from tests.helpers.study_store import rows
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import make_task

ANALYSES = (
    "SELECT p.text, a.name, a.settings, a.value FROM analyses AS a JOIN plans AS p ON p.id = a.plan ORDER BY 1, 2"
)


pytestmark = pytest.mark.usefixtures("own_datasets")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "model")
    return convert(folder, folder.parent / "store")


@pytest.fixture
def analysing(model, tmp_path) -> StudySpec:
    """Two analyses of three plans on four texts."""
    return StudySpec(
        model=str(model),
        dtype="float32",
        store=tmp_path / "study.sqlite",
        strategies=("skip",),
        batch_tokens=128,
        analyses=("block_influence", "variance"),
        analysis_task=make_task(tmp_path, "tiny_word"),
        analysis_samples=4,
    )


@pytest.mark.slow
def test_analyses_are_kept_and_not_made_again(analysing, tmp_path, monkeypatch):
    spec = replace(analysing, analyses=("similarity", "variance", "block_influence", "angular_distance"))
    assert run_study(replace(spec, analysis_strategies=("full",))).analysed == 1
    assert run_study(spec).analysed == 2
    query = "SELECT p.text, a.name, a.settings, a.value FROM analyses AS a JOIN plans AS p ON p.id = a.plan"
    found = rows(spec.store, query)
    names = [each for name in spec.analyses for each in (name, f"{name}_stderr")]
    assert {(row["text"], row["name"]) for row in found} == {
        (plan, name) for plan in ("0-4", "0", "0 1 4") for name in names
    }
    model = jp.load(spec.model, dtype="float32")
    documents = [json.loads(line) for line in (tmp_path / "tiny_word.jsonl").read_text().splitlines()[:4]]
    texts = [model.tokenizer.encode(document["context"] + document["word"]) for document in documents]
    (expected,) = analyse(model, texts, [jp.Plan.parse("0 1 4")])
    values = {row["name"]: json.loads(row["value"]) for row in found if row["text"] == "0 1 4"}
    np.testing.assert_allclose(values["similarity"], expected.similarity, atol=1e-5)
    np.testing.assert_allclose(values["variance"], expected.variance, rtol=1e-4)
    np.testing.assert_allclose(values["block_influence"], expected.block_influence, atol=1e-5)
    np.testing.assert_allclose(values["similarity_stderr"], expected.similarity_stderr, atol=1e-5)
    assert [len(row) for row in values["angular_distance"]] == [3, 2, 1]
    np.testing.assert_allclose(values["angular_distance"][0], expected.angular_distance[0, 1:], atol=1e-5)
    monkeypatch.setattr(study_analyses, "analyse", None)
    assert run_study(spec).analysed == 0
    assert rows(spec.store, query) == found


@pytest.mark.slow
def test_analyses_go_on_where_they_were_killed(analysing, tmp_path, monkeypatch):
    """And are then those of a study that was not, to the last digit."""
    analysing = replace(analysing, analyses=("block_influence", "logit_lens", "cka", "clock", "ridge_lens"))
    assert run_study(replace(analysing, store=tmp_path / "whole.sqlite")).analysed == 3
    keep = Store.add_analysis
    for stop in (1, 16):
        written = []

        def killed(*arguments, stop=stop, written=written):
            if len(written) == stop:
                raise KeyboardInterrupt
            written.append(arguments)
            keep(*arguments)

        monkeypatch.setattr(Store, "add_analysis", killed)
        with pytest.raises(KeyboardInterrupt):
            run_study(analysing)
    monkeypatch.setattr(Store, "add_analysis", keep)
    before = rows(analysing.store, ANALYSES)
    assert run_study(analysing).analysed < 3
    after = rows(analysing.store, ANALYSES)
    assert all(row in after for row in before)
    assert after == rows(tmp_path / "whole.sqlite", ANALYSES)


def test_an_encoder_is_refused_before_anything_is_done(tmp_path):
    spec = StudySpec("m", tmp_path / "s.sqlite", analyses=("cka", "logit_lens"))
    require_fitting(replace(spec, analyses=("cka",)), tiny_bert().config)
    with pytest.raises(UserError, match="the analysis logit_lens needs a decoder"):
        require_fitting(spec, tiny_bert().config)


@pytest.mark.slow
def test_parts_of_analyses_travel(analysing, monkeypatch):
    """To the workers of a cluster: what is run is pickled."""
    jobs: list[Any] = []

    def elsewhere(self, asked):
        for number, job in enumerate(asked):
            jobs.append(job)
            yield number, pickle.loads(pickle.dumps(job))(self.model.loaded)

    analysing = replace(analysing, analyses=("clock", "ridge_lens"))
    run_study(replace(analysing, store=analysing.store.with_name("here.sqlite")))
    monkeypatch.setattr(run.Session, "_run", elsewhere)
    keep = study_analyses.run_analyses
    monkeypatch.setattr(run, "run_analyses", lambda *a, **how: keep(*a, **{**how, "is_local": False}))
    assert run_study(analysing).analysed == 3
    assert len(jobs) == 2  # the fit, and all plans
    assert rows(analysing.store, ANALYSES) == rows(analysing.store.with_name("here.sqlite"), ANALYSES)


@pytest.mark.slow
def test_only_the_analyses_that_are_missing_are_computed(analysing, monkeypatch):
    assert run_study(replace(analysing, analyses=("variance",))).analysed == 3
    asked = []
    compute = study_analyses.analyse

    def watched(*arguments, probes, **how):
        asked.append([probe.name for probe in probes])
        return compute(*arguments, probes=probes, **how)

    monkeypatch.setattr(study_analyses, "analyse", watched)
    assert run_study(analysing).analysed == 3
    assert asked == [["block_influence"]]


def test_an_old_analysis_without_an_interval_stays_as_it_is(analysing):
    run_study(analysing)
    with closing(sqlite3.connect(analysing.store)) as connection, connection:
        connection.execute("DELETE FROM analyses WHERE name LIKE '%_stderr'")
        connection.execute("DELETE FROM checksums WHERE part = 'analyses'")
    before = rows(analysing.store, ANALYSES)
    assert run_study(analysing).analysed == 0
    assert rows(analysing.store, ANALYSES) == before


def test_of_texts_to_be_written_the_prompts_are_analysed(analysing, tmp_path):
    task = make_task(tmp_path, "tiny_write")
    assert run_study(replace(analysing, analysis_task=task, strategies=(), analyses=("variance",))).analysed == 1
    documents = (tmp_path / "tiny_write.jsonl").read_text().splitlines()
    prompts = [json.loads(document)["context"] for document in documents[: analysing.analysis_samples]]
    settings = {row["settings"] for row in rows(analysing.store, "SELECT settings FROM analyses")}
    assert [json.loads(each)["texts"] for each in settings] == [text_digest("\0".join(prompts))]


def test_analyses_have_a_progress_of_their_own(analysing):
    totals: list[int] = []
    done: list[tuple[int, str]] = []

    def progress(total: int, phase: str, later: float) -> Callable[[int, str], None]:
        totals.append(total)
        return lambda tokens, note: done.append((tokens, note))

    run_study(analysing, progress=progress)
    assert totals == [sum(tokens for tokens, _ in done)]
    assert done[0][1] == "0 of 3 plans analysed"
    assert done[-1] == (0, "3 of 3 plans analysed")


def test_each_phase_tells_what_comes_after_it(analysing, tmp_path):
    told: list[tuple[int, str, float]] = []

    def progress(total: int, phase: str, later: float) -> Callable[[int, str], None]:
        told.append((total, phase, later))
        return lambda tokens, note: None

    task = make_task(tmp_path, "tiny_word", documents=4)
    run_study(replace(analysing, tasks=(task,), store=tmp_path / "both.sqlite"), progress=progress)
    (scoring, analyses) = told
    assert scoring == (scoring[0], "scoring (1 of 2)", analyses[0])
    assert analyses == (analyses[0], "analyses (2 of 2)", 0)
    assert min(scoring[0], analyses[0]) > 0
