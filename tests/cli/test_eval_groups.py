"""jaxpaint eval with several plans and a group of tasks: its difference from the first plan, with a standard error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import mean, variance

import pytest

from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users", "own_datasets")

TASKS = {"tiny_choice": 9, "tiny_blank": 6}
GROUP = {
    "group": "own",
    "task": [*TASKS],
    "aggregate_metric_list": [
        {"metric": "acc", "weight_by_size": False},
        {"metric": "acc_norm", "weight_by_size": True},  # of the first task alone
    ],
}


@pytest.mark.slow
def test_a_groups_difference_is_of_its_members_documents(run, store, tmp_path: Path) -> None:
    for name, documents in TASKS.items():
        make_task(tmp_path, name, documents=documents)
    (tmp_path / "own.yaml").write_text(json.dumps(GROUP))
    asked = ("eval", "--model", store, "--tasks", "own", "--include-path", tmp_path, "--dtype", "float32")
    plans, output = ("--plan", "0-4", "--plan", "0 4"), tmp_path / "found.json"
    status, out, err = run(*asked, *plans, "--log-samples", "--output", output)
    assert status == 0, err
    first = json.loads(output.read_text())
    (other,) = first["others"]
    less = {
        task: [
            of_plan["acc"] - of_first["acc"]
            for of_plan, of_first in zip(other["samples"][task], first["samples"][task], strict=True)
        ]
        for task in TASKS
    }
    found = other["differences"]["own"]
    assert found["acc,none"] == pytest.approx(mean(map(mean, less.values())))
    error = math.sqrt(sum(variance(each) / len(each) / 4 for each in less.values()))
    assert error > 0
    assert found["acc_stderr,none"] == pytest.approx(error)
    for name in ("acc_norm,none", "acc_norm_stderr,none"):
        assert found[name] == other["differences"]["tiny_choice"][name]
    *_, row = out.split("own, ")[1].split("\n\n")[0].splitlines()
    assert row.count("±") == 2
