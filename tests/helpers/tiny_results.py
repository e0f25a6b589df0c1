"""Small results stores without a model: two tasks of two requests per document, scores that follow from the plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxpaint.results.store import MetricRow, PlanRow, Store

NUM_LAYERS = 8
MODEL: dict[str, Any] = {
    "fingerprint": "abc123",
    "dtype": "float32",
    "source": "models/tiny",
    "revision": "main",
    "num_layers": NUM_LAYERS,
}
TASKS: dict[str, dict[str, Any]] = {
    "arc_easy": {
        "name": "arc_easy",
        "version": "1.0",
        "num_fewshot": 0,
        "bos": "auto",
        "settings": {"max_length": 64},
        "chance": 0.25,
        "main_metric": "acc_norm",
    },
    "lambada_openai": {
        "name": "lambada_openai",
        "version": "1.0",
        "num_fewshot": 5,
        "bos": "off",
        "settings": {},
        "chance": None,
        "main_metric": "acc",
    },
}
FULL = PlanRow("0-7", 8, 8, "full", NUM_LAYERS, "full", affected=0)
SKIP = PlanRow("0-2 5-7", 6, 6, "skip", NUM_LAYERS, "skip start=2", start=2, affected=3)
LOOPED = "looped-parallel"
LOOP = PlanRow("0-2 {3 4}*3 5-7", 12, 9, LOOPED, NUM_LAYERS, f"{LOOPED} start=2 iterations=3", start=2, iterations=3)
OWN = PlanRow("0 0 7", 3, 3, "custom", NUM_LAYERS, "0 0 7")
PLANS = (FULL, SKIP, LOOP, OWN)
ENVIRONMENT = {"device": "cpu", "versions": {"jax": "0.10.0"}}


def text_hash(task: str, document: int, number: int) -> str:
    return f"{task}/{document}/{number}"


def loglikelihood(plan: PlanRow, document: int, number: int) -> float:
    return -(plan.cost + document / 7 + number / 3)


def fill(
    store: Store,
    *,
    documents: Iterable[int] = range(4),
    plans: Sequence[PlanRow] = PLANS,
    tasks: Sequence[str] = tuple(TASKS),
    finish: bool = True,
    seconds: float = 1.0,
) -> list[int]:
    """Scores `documents` under every plan on every task, `seconds` per cell, and finishes the cells; returns them."""
    documents = list(documents)
    model = store.model(**MODEL)
    plan_ids = store.plans(plans)
    made = []
    for name in tasks:
        task = store.task(**TASKS[name])
        keys = [(document, number) for document in documents for number in range(2)]
        requests = store.requests(task, [(*key, text_hash(name, *key)) for key in keys])
        cells = store.cells(model, task, plan_ids)
        rows = [
            (cell, request, loglikelihood(plan, *key), key[1] == 0)
            for cell, plan in zip(cells, plans, strict=True)
            for request, key in zip(requests, keys, strict=True)
        ]
        store.add_scores(rows, dict.fromkeys(cells, seconds))
        if finish:
            for cell, plan in zip(cells, plans, strict=True):
                finish_cell(store, cell, name, plan, documents)
        made += cells
    return made


def finish_cell(store: Store, cell: int, task: str, plan: PlanRow, documents: Sequence[int]) -> None:
    """Metrics that tell plans and numbers of documents apart."""
    value = plan.cost / 16 + len(documents) / 1000
    metrics = [MetricRow("acc", "none", value, 0.0145, True)]
    if task == "arc_easy":
        metrics.append(MetricRow("acc_norm", "none", value + 0.1, 0.0145, True))
    else:
        metrics.append(MetricRow("perplexity", "none", 3.5 * plan.cost, float("nan"), False))
    store.finish(
        cell,
        documents=len(documents),
        status="finished",
        metrics=metrics,
        document_scores=[(document, "acc", "none", float(document % 2)) for document in documents],
        environment=ENVIRONMENT,
    )


def make_store(path: Path, **options: Any) -> Path:
    with Store.open(path, create=True) as store:
        fill(store, **options)
    return path


def contents(path: Path) -> dict[str, list[tuple]]:
    """What a store says, without its ids and times."""
    queries = {
        "results": "SELECT model, fingerprint, dtype, num_layers, task, version, num_fewshot, bos, settings, chance, "
        "main_metric, plan, cost, depth, strategy, label, start, seed, iterations, times, layer, affected, metric, "
        "filter, value, stderr, higher_is_better, documents, status FROM results",
        "scores": "SELECT fingerprint, dtype, task, num_fewshot, bos, plan, document, number, loglikelihood, is_greedy "
        "FROM loglikelihoods",
        "documents": "SELECT fingerprint, task, plan, document, metric, filter, value FROM document_results",
        "texts": "SELECT name, document, question, answer FROM document_texts JOIN tasks ON tasks.id = task",
        "analyses": "SELECT fingerprint, text, name, settings, value FROM analyses "
        "JOIN models m ON m.id = model JOIN plans p ON p.id = plan",
        "runs": "SELECT worker, started, seconds, executed, distinct_work, separate, command FROM runs",
        "environments": "SELECT DISTINCT description FROM cells JOIN environments e ON e.id = environment",
    }
    with Store.open(path, create=False) as store:
        return {name: sorted(store.connection.execute(query), key=repr) for name, query in queries.items()}
