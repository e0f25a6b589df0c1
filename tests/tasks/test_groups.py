"""Groups of one's own, of tasks that come along: loaded without lm-eval's whole index."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from jaxpaint.results.groups import Group, GroupMetric
from jaxpaint.tasks.groups import groups_of
from jaxpaint.tasks.load import load_tasks

GROUP = """
group: own
task: [painter_work, facts]
aggregate_metric_list: [{metric: acc}]
metadata: {version: 2}
"""
WITHIN = """
group: facts
task: [painter_facts]
aggregate_metric_list: {metric: acc_norm, filter_list: none, weight_by_size: false}
"""


@pytest.mark.usefixtures("own_datasets")
def test_a_group_of_bundled_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = TaskManager.__init__

    def refusing(self, *given, include_defaults: bool = True, **others) -> None:
        assert not include_defaults, "the whole index takes long"
        made(self, *given, include_defaults=False, **others)

    monkeypatch.setattr(TaskManager, "__init__", refusing)
    for name, text in {"own": GROUP, "facts": WITHIN}.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    tasks = load_tasks(["own"], include_path=tmp_path)
    assert [len(task.eval_docs) for task in tasks["tasks"].values()] == [200, 96]
    by_size, by_task = GroupMetric("acc", True, None), GroupMetric("acc_norm", False, ("none",))
    assert groups_of(tasks) == (
        Group("own", "2", ("painter_work", "facts"), ("painter_work", "painter_facts"), (by_size,)),
        Group("facts", "N/A", ("painter_facts",), ("painter_facts",), (by_task,)),
    )
