"""A task's requests and metrics in parts, beside `jaxpaint.tasks.load.evaluate` as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxpaint as jp
from convert import convert
from jaxpaint.engine.score import score
from jaxpaint.tasks.encoding import Bos, Encoding
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from jaxpaint.tasks.metrics import task_metrics
from jaxpaint.tasks.requests import TaskRequests, load_requests
from tests.helpers.tiny_folder import MAX_LENGTH, make_folder
from tests.helpers.tiny_tasks import SCORED, make_task

PLANS = [jp.Plan.parse(text) for text in ("0-4", "0 {1-3} 4", "0 4")]
ITERS = 2500


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> jp.Model:
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "model")
    return jp.load(convert(folder, folder.parent / "store"), dtype="float32")


def lm_of(model: jp.Model, plan: jp.Plan | None = None, bos: Bos = "auto") -> PlanLM:
    return PlanLM(model, plan or model.full_plan, bos=bos, batch_tokens=256)


def requests_of(model: jp.Model, task: str, *, bos: Bos = "auto", limit: float | None = None) -> TaskRequests:
    (requests,) = load_requests(Encoding.of(model, bos), load_tasks([task]), limit=limit)
    return requests


def scores(model: jp.Model, requests: TaskRequests, plans: list[jp.Plan]) -> tuple[np.ndarray, np.ndarray]:
    found = [score(model, requests.requests, plan, batch_tokens=256) for plan in plans]
    return np.array([each.loglikelihoods for each in found]), np.array([each.is_greedy for each in found])


@pytest.mark.parametrize("limit", [None, 0.4])
@pytest.mark.parametrize(
    ("name", "shots", "bos"),
    [(name, 0, "auto") for name in SCORED] + [("tiny_choice", 2, "on"), ("tiny_word", 1, "off")],
)
@pytest.mark.few(1)
def test_metrics_equal_lm_evals(name, shots, bos, limit, model, tmp_path):
    tasks = load_tasks([make_task(tmp_path, name, shots=shots)])
    (requests,) = load_requests(Encoding.of(model, bos), tasks, limit=limit)
    found = task_metrics(requests, *scores(model, requests, PLANS), bootstrap_iters=ITERS)
    for plan, ours in zip(PLANS, found, strict=True):
        whole = evaluate(lm_of(model, plan, bos), tasks, limit=limit, log_samples=True, bootstrap_iters=ITERS)
        expected = {key: value for key, value in whole["results"][name].items() if "," in key}
        mine = {f"{metric.metric},{metric.filter}": metric.value for metric in ours.metrics}
        mine |= {f"{metric.metric}_stderr,{metric.filter}": metric.stderr for metric in ours.metrics}
        assert mine.keys() == expected.keys()
        for key, value in expected.items():
            assert mine[key] == (None if value == "N/A" else pytest.approx(value, rel=1e-6)), (str(plan), key)
        for metric in ours.metrics:
            assert metric.higher_is_better == whole["higher_is_better"][name][metric.metric]
            by_document = {document: value for document, key, _, value in ours.documents if key == metric.metric}
            logged = {sample["doc_id"]: sample[metric.metric] for sample in whole["samples"][name]}
            logged = {key: value[0] if isinstance(value, tuple) else value for key, value in logged.items()}
            assert by_document == pytest.approx(logged, rel=1e-6)
        assert requests.documents == whole["n-samples"][name]["effective"]
    assert requests.version == str(whole["versions"][name]) == "3"
    assert requests.num_fewshot == whole["n-shot"][name] == shots
    assert limit or len(set(found)) > 1


def test_rolling_texts_have_windows(model, tmp_path):
    requests = requests_of(model, make_task(tmp_path, "tiny_text"))
    assert len(requests.requests) == len(requests.identities) > len(requests.instances)
    assert all(len(request.tokens) <= MAX_LENGTH for request in requests.requests)
    numbers: dict[int, list[int]] = {}
    for document, number, _ in requests.identities:
        numbers.setdefault(document, []).append(number)
    assert all(found == list(range(len(found))) for found in numbers.values())
    assert max(map(len, numbers.values())) > 1


@pytest.mark.parametrize("name", SCORED)
def test_more_documents_leave_the_identities_of_the_first(name, model, tmp_path):
    task = make_task(tmp_path, name, documents=10, shots=2 if name == "tiny_choice" else 0)
    few, more, all_of_them = (requests_of(model, task, limit=limit) for limit in (4, 7, None))
    assert few.identities == more.identities[: len(few.identities)] == all_of_them.identities[: len(few.identities)]
    assert (few.documents, more.documents, all_of_them.documents) == (4, 7, 10)
    assert few.requests == more.requests[: len(few.requests)]
    assert few.settings == more.settings == all_of_them.settings
    assert len(set(all_of_them.identities)) == len(all_of_them.identities)


def test_other_text_or_another_answer_is_another_content(model, tmp_path):
    task = make_task(tmp_path, "tiny_choice")
    before = requests_of(model, task).identities
    file = tmp_path / "tiny_choice.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["choices"][2] = "elsewhere"
    rows[3]["gold"] = 1
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = requests_of(model, task).identities
    changed = [(old[0], old[1]) for old, new in zip(before, after, strict=True) if old != new]
    assert changed == [(1, 2), (3, 0), (3, 1), (3, 2), (3, 3)]


def test_settings_say_what_changes_scores_and_not_where_files_lie(model, tmp_path):
    settings = requests_of(model, make_task(tmp_path / "here", "tiny_choice")).settings
    json.dumps(settings)
    assert requests_of(model, make_task(tmp_path / "there", "tiny_choice", documents=9)).settings == settings
    assert requests_of(model, make_task(tmp_path / "other", "tiny_choice", target_delimiter="")).settings != settings
    assert settings["max_length"] == MAX_LENGTH


@pytest.mark.parametrize(
    ("name", "chance", "metric"),
    [
        ("tiny_choice", (6 / 3 + 6 / 4) / 12, "acc_norm"),
        ("tiny_word", 0, "acc"),
        ("tiny_blank", 1 / 2, "acc"),
        ("tiny_text", 0, "word_perplexity"),
    ],
)
def test_chance_and_main_metric(name, chance, metric, model, tmp_path):
    requests = requests_of(model, make_task(tmp_path, name))
    assert requests.chance == pytest.approx(chance)
    assert requests.main_metric == metric


def test_a_plan_without_finite_scores_has_metrics_without_values(model, tmp_path):
    requests = requests_of(model, make_task(tmp_path, "tiny_word"))
    loglikelihoods, greedy = scores(model, requests, PLANS[:2])
    alone = task_metrics(requests, loglikelihoods[1:], greedy[1:], bootstrap_iters=100)
    loglikelihoods[0, 3] = np.nan
    lost, kept = task_metrics(requests, loglikelihoods, greedy, bootstrap_iters=100)
    assert kept.documents == alone[0].documents
    for ours, metric in zip(kept.metrics, alone[0].metrics, strict=True):
        assert (ours.value, ours.stderr) == pytest.approx((metric.value, metric.stderr))
    assert [metric.metric for metric in lost.metrics] == ["perplexity", "acc"]
    assert all(metric.value is None and metric.stderr is None for metric in lost.metrics)
    assert lost.documents == ()


def test_hopeless_scores_have_an_infinite_perplexity(model, tmp_path):
    requests = requests_of(model, make_task(tmp_path, "tiny_word"))
    shape = (1, len(requests.identities))
    (found,) = task_metrics(requests, np.full(shape, -800.0), np.zeros(shape, bool), bootstrap_iters=100)
    assert [metric.value for metric in found.metrics] == [np.inf, 0]


def test_the_task_is_left_as_it_was(model, tmp_path):
    path = make_task(tmp_path, "tiny_choice")
    tasks = load_tasks([path])
    (requests,) = load_requests(Encoding.of(model), tasks)
    first = evaluate(lm_of(model), tasks)["results"]
    found = task_metrics(requests, *scores(model, requests, PLANS[:1]))
    assert evaluate(lm_of(model), tasks)["results"] == first
    assert found[0].metrics[0].value == first["tiny_choice"]["acc,none"]
    assert Path(path).is_file()
