"""Scores of groups of tasks: what lm-eval itself makes of the same model's answers, in a study's table and store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import jaxpaint as jp
from convert import convert
from jaxpaint.results.damage import reading
from jaxpaint.results.selection import Selection
from jaxpaint.results.tables import results_rows, results_text
from jaxpaint.studies.estimate import describe
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("own_datasets")
PLAN = "0 1 4"
TASKS = {"tiny_choice": 11, "tiny_blank": 7, "tiny_word": 5}
ACCURACY = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
MEMBERS = ["tiny_word", "tiny_choice", "tiny_blank"]  # of OUTER, in its order
INNER = {
    "group": "inner",
    "task": ["tiny_choice", "tiny_blank"],
    "aggregate_metric_list": [
        {"metric": "acc", "weight_by_size": False},
        {"metric": "acc_norm", "weight_by_size": True},
    ],
}
OUTER = {"group": "outer", "task": ["tiny_word", "inner"], "aggregate_metric_list": [{"metric": "acc"}]}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with tasks, a group of two of them, and a group of that and the third."""
    for name, documents in TASKS.items():
        make_task(tmp_path / "tasks", name, documents=documents, **(ACCURACY if name == "tiny_word" else {}))
    for group in (INNER, OUTER):
        (tmp_path / "tasks" / f"{group['group']}.yaml").write_text(json.dumps(group))
    return tmp_path / "tasks"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "model")
    return convert(folder, folder.parent / "store")


def by_document(store: Path, task: str, plan: str) -> np.ndarray:
    query = "SELECT value FROM document_results WHERE task = ? AND plan = ? AND metric = 'acc' ORDER BY document"
    with reading(store) as connection:
        return np.array(connection.execute(query, (task, plan)).fetchall())[:, 0]


@pytest.mark.slow
def test_a_study_has_lm_evals_scores_of_groups(model: Path, tasks: Path, tmp_path: Path) -> None:
    loaded, store = jp.load(model, dtype="float32"), tmp_path / "study.sqlite"
    study = jp.study(loaded, PLAN, tasks="outer", include_path=tasks, store=store, progress=False)
    assert (study.summary.cells, study.summary.finished) == (6, 6)
    rows = {(row["plan"], row["task"], row["metric"]): row for row in results_rows(store, Selection(diff=True))}
    alone = loaded.evaluate("outer", PLAN, include_path=tasks, progress=False)
    found = alone.results  # by lm-eval's own evaluate
    assert alone["inner"] == found["groups"]["inner"]["acc_norm,none"]
    assert {*alone.frame()["task"]} == {"outer", "inner", *TASKS}
    for group, metrics in {"outer": ("acc",), "inner": ("acc", "acc_norm")}.items():
        assert [key[2] for key in rows if key[:2] == (PLAN, group)] == [*metrics]
        for metric in metrics:
            row = rows[PLAN, group, metric]
            assert row["value"] == pytest.approx(found["groups"][group][f"{metric},none"], rel=1e-12)
            assert row["stderr"] == pytest.approx(found["groups"][group][f"{metric}_stderr,none"], rel=1e-12)
            assert row["documents"] == found["groups"][group]["sample_len"]
    assert json.loads(results_text(store, "lm-eval"))[1]["group_subtasks"] == found["group_subtasks"]

    # The difference from the full model: Σ w d, with the standard error sqrt(Σ w² s² / n).
    less = {name: by_document(store, name, PLAN) - by_document(store, name, "0-4") for name in TASKS}
    sizes = np.array([len(each) for each in less.values()])
    for group, shares in {"outer": sizes / sizes.sum(), "inner": np.array([0.5, 0.5, 0])}.items():
        variances = np.array([each.var(ddof=1) for each in less.values()]) / sizes
        row = rows[PLAN, group, "acc"]
        assert row["difference"] == pytest.approx(shares @ [each.mean() for each in less.values()])
        assert row["difference_stderr"] == pytest.approx(np.sqrt(shares**2 @ variances))

    frame = study.frame().set_index(["task", "plan"])
    assert list(dict.fromkeys(frame.index.get_level_values("task"))) == ["outer", "inner", *MEMBERS]
    outer = rows[PLAN, "outer", "acc"]
    for column in ("value", "stderr", "difference", "difference_stderr", "documents"):
        assert frame.loc[("outer", PLAN), column] == pytest.approx(outer[column])

    # A dry run counts members, and them once.
    lines = {line.name or line.text.split(":")[0]: line for line in describe(study.spec, Path(study.spec.model))}
    assert [name for name in lines if name in ("tasks", *TASKS)] == ["tasks", "tiny_choice", "tiny_blank"]
    with reading(store) as connection:
        (requests,) = connection.execute("SELECT count(*) FROM requests").fetchone()
    assert lines["tokens"].numbers["requests"] == requests
    assert lines["store"].numbers["finished_plans"] == 2
