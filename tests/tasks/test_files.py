"""Names: where a stock task is found, and what is told of those that name none."""

from pathlib import Path

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.files import find_task_files
from jaxpaint.tasks.load import load_tasks

STOCK = Path(lm_eval.__file__).parent / "tasks"


def test_a_stock_task_is_found_where_lm_eval_finds_it():
    # By its folder's name, in a folder of another name, as a Python class inside a group's file.
    found = find_task_files(["hellaswag", "cola", "scrolls_qasper", "ai2_arc", "no_such_task"])
    assert found == {
        "hellaswag": STOCK / "hellaswag/hellaswag.yaml",
        "cola": STOCK / "glue/cola/default.yaml",
        "scrolls_qasper": STOCK / "scrolls/scrolls_qasper.yaml",
    }


@pytest.mark.slow
def test_every_stock_task_is_found_where_lm_eval_finds_it():
    index = TaskManager().task_index
    tasks = {name: entry.yaml_path for name, entry in index.items() if entry.kind.name in ("TASK", "PY_TASK")}
    assert len(tasks) > 10_000
    assert find_task_files([*tasks, "no_such_task"]) == tasks


def test_bad_task_names(tmp_path):
    with pytest.raises(UserError, match=r"^unknown task 'helaswag'; near names: hellaswag.*$"):
        load_tasks(["helaswag"])
    with pytest.raises(UserError, match="unknown task 'qqxxqqxx'"):
        load_tasks(["qqxxqqxx"])
    with pytest.raises(UserError, match="no tasks"):
        load_tasks([])
    with pytest.raises(UserError, match=r"missing.yaml cannot be read: No such file"):
        load_tasks([str(tmp_path / "missing.yaml")])
    (tmp_path / "bad.yaml").write_text("task: [unclosed\n")
    with pytest.raises(UserError, match=r"cannot read the task file .*bad.yaml"):
        load_tasks([str(tmp_path / "bad.yaml")])
    with pytest.raises(UserError, match="not a folder"):
        load_tasks(["hellaswag"], include_path=tmp_path / "absent")
