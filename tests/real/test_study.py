"""The engine on the real model and real tasks: every score and metric equals that of the plan run alone.

JAXPAINT_EQUALITY=60 runs 40 plans on 60 documents a task, in more than half an hour; by default a sample.
"""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from jaxpaint.engine.model import load
from jaxpaint.plans import strategies
from jaxpaint.plans.plan import Plan
from jaxpaint.studies.run import run_study
from jaxpaint.studies.spec import StudySpec
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from jaxpaint.tasks.local_data import parse_data_option
from tests.helpers.real_assets import DATA, needs_assets

TASKS = ("lambada_openai", "hellaswag", "winogrande", "arc_challenge")
DOCUMENTS = int(os.environ.get("JAXPAINT_EQUALITY", "6"))
TOLERANCE = 1e-3

pytestmark = [pytest.mark.slow, needs_assets]


def plans_of_all_kinds() -> list[Plan]:
    """40 plans: every strategy at starts near both ends and in the middle, and nested groups of our own."""
    found = [variant.plan for variant in strategies.family("full", 30)]
    for name in ("skip", "middle-repeat", "reverse", "parallel", "parallel-pairs"):
        found += [variant.plan for variant in strategies.family(name, 30, starts=(3, 8, 12))]
    found += [variant.plan for variant in strategies.family("random", 30, starts=(6, 11), seeds=range(3))]
    found += [variant.plan for variant in strategies.family("looped-parallel", 30, starts=(7, 11), iterations=(1, 3))]
    found += [variant.plan for variant in strategies.family("block-repeat", 30, starts=(11,), times=(2, 3))]
    for name in ("skip-one", "switch"):
        found += [strategies.build(name, 30, layer=layer).plan for layer in (3, 14, 27)]
    own = (
        "0-9 {(10 11) (12 13) 14} 15-29",
        "0-12 sum{13 14 15} 16-29",
        "0-11 (12-14 {15 {16 17}})*2 18-29",
        "0-19 25-29",
        "0-9 {10-13 sum{14 15}}*2 16-29",
        "0-14 15*3 16-29",
    )
    return [*found, *map(Plan.parse, own)]


def _study(folder, store, tasks, plans, num_fewshot=None):
    data = tuple(f"{task}={DATA / f'{task}.jsonl'}" for task in tasks)
    spec = StudySpec(str(folder), store, tasks, dtype="float32", bos="off", data=data, limit=DOCUMENTS)
    return replace(spec, num_fewshot=num_fewshot, plans=tuple(map(str, plans)))


def _stored(store):
    """{plan: {task: log-likelihoods in order}}, {(plan, task, metric): value}."""
    scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with closing(sqlite3.connect(store)) as connection:
        for plan, task, value in connection.execute(
            "SELECT plan, task, loglikelihood FROM loglikelihoods ORDER BY plan, task, document, number"
        ):
            scores[plan][task].append(value)
        metrics = connection.execute("SELECT DISTINCT plan, task, metric, value FROM results").fetchall()
    return scores, {(plan, task, metric): value for plan, task, metric, value in metrics}


def _alone(model, plan, tasks):
    """The same from the plan run alone: {task: log-likelihoods}, {(task, metric): value}."""
    lm = PlanLM(model, plan, bos="off")
    results = evaluate(lm, tasks, limit=DOCUMENTS, log_samples=True, bootstrap_iters=0)
    scores = {
        task: [response[0] for sample in samples for response in _responses(sample)]
        for task, samples in results["samples"].items()
    }
    metrics = {
        (task, name.partition(",")[0]): value
        for task, values in results["results"].items()
        for name, value in values.items()
        if isinstance(value, float) and "stderr" not in name
    }
    return scores, metrics


def _responses(sample):
    return [response[0] for response in sample["resps"]]


def _assert_equal_alone(store, model, tasks, plans) -> None:
    scores, metrics = _stored(store)
    largest = 0.0
    for plan in plans:
        alone, alone_metrics = _alone(model, plan, tasks)
        for task, values in alone.items():
            difference = np.abs(np.array(scores[str(plan)][task]) - np.array(values)).max()
            assert difference < TOLERANCE, (str(plan), task, difference)
            largest = max(largest, float(difference))
        for (task, metric), value in alone_metrics.items():
            stored = metrics[str(plan), task, metric]
            assert stored == (pytest.approx(value, rel=1e-4) if metric == "perplexity" else value), (str(plan), metric)
    print(f"{len(plans)} plans: largest difference {largest:.1e}")


def test_every_score_equals_the_plans_alone(real_folder, tmp_path) -> None:
    plans = plans_of_all_kinds()
    assert len(set(plans)) == 40
    if DOCUMENTS < 60:
        plans = plans[::4]
    store = tmp_path / "study.sqlite"
    run_study(_study(real_folder, store, TASKS, plans))
    data = parse_data_option([f"{task}={DATA / f'{task}.jsonl'}" for task in TASKS])
    _assert_equal_alone(store, load(real_folder, dtype="float32"), load_tasks(TASKS, data=data), plans)


def test_few_shot_prompts_share_their_examples(real_folder, tmp_path) -> None:
    plans = plans_of_all_kinds()[:: 4 if DOCUMENTS >= 60 else 20]
    store = tmp_path / "study.sqlite"
    spec = _study(real_folder, store, ("arc_challenge",), plans, num_fewshot=5)
    examples = f"arc_challenge:train={DATA / 'arc_easy.jsonl'}"
    spec = replace(spec, data=(*spec.data, examples))
    run_study(spec)
    tasks = load_tasks(spec.tasks, data=parse_data_option(spec.data), num_fewshot=5)
    _assert_equal_alone(store, load(real_folder, dtype="float32"), tasks, plans)
