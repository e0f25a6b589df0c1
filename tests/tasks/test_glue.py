"""GLUE's tasks: metrics by their formulas, and data that is right or says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.glue import PAPER, TASKS, glue_task, load_examples, task_metrics


def _write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


RTE = [{"sentence1": "It rains.", "sentence2": "It is wet.", "label": 0, "idx": 0}]


class TestMetrics:
    predictions, labels = np.array([1, 1, 0, 1, 0, 0, 1]), np.array([1, 0, 0, 1, 1, 0, 1])

    def test_classes(self) -> None:
        """Three hits, two of zeros; one false alarm, one miss."""
        f1 = task_metrics(glue_task("mrpc"), self.predictions, self.labels)
        assert f1["accuracy"] == pytest.approx(5 / 7)
        assert f1["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
        assert f1["score"] == pytest.approx((5 / 7 + 3 / 4) / 2)
        matthews = task_metrics(glue_task("cola"), self.predictions, self.labels)
        assert matthews["score"] == pytest.approx((3 * 2 - 1 * 1) / np.sqrt(4 * 4 * 3 * 3))
        assert task_metrics(glue_task("rte"), self.predictions, self.labels)["score"] == pytest.approx(5 / 7)

    def test_numbers(self) -> None:
        predictions, labels = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.5, 1.0, 5.0, 4.9])
        found = task_metrics(glue_task("stsb"), predictions, labels)
        assert found["pearson"] == pytest.approx(np.corrcoef(predictions, labels)[0, 1])
        ranks = np.array([1, 2, 4, 3]), np.array([1, 2, 4, 3])
        assert found["spearmanr"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
        assert found["score"] == pytest.approx((found["pearson"] + found["spearmanr"]) / 2)

    @pytest.mark.parametrize("name", TASKS)
    @pytest.mark.filterwarnings("error")
    def test_predictions_that_are_all_the_same(self, name: str) -> None:
        labels = np.array([0, 1, 1, 0, 1])
        found = task_metrics(glue_task(name), np.zeros(5, int), labels)
        assert all(np.isfinite(list(found.values())))
        if "accuracy" not in found:
            assert found["score"] == 0


def test_the_papers_tasks_are_all_but_two() -> None:
    assert set(TASKS) - set(PAPER) == {"mnli", "qqp"}


@pytest.mark.parametrize(("name", "named"), [("sst-2", "did you mean sst2"), ("RTE", "mean rte"), ("boolq", "no task")])
def test_unknown_tasks(name: str, named: str) -> None:
    with pytest.raises(UserError, match=named):
        glue_task(name)


@pytest.mark.parametrize(("name", "scored"), [("mnli", "validation_matched"), ("sst2", "validation")])
def test_what_is_read_from_the_hub(name: str, scored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    task, asked = glue_task(name), []

    def recorded(*where: str, split: str) -> datasets.Dataset:
        asked.append((*where, split))
        return datasets.Dataset.from_list([{**dict.fromkeys(task.columns, "It rains."), "label": 0}])

    monkeypatch.setattr(datasets, "load_dataset", recorded)
    for split in ("train", task.validation_split):
        assert len(load_examples(task, split).labels) == 1
    assert asked == [("nyu-mll/glue", name, "train"), ("nyu-mll/glue", name, scored)]


class TestExamples:
    def test_local_files(self, tmp_path: Path) -> None:
        rows = [{**RTE[0], "idx": i, "label": i % 2} for i in range(5)]
        found = load_examples(glue_task("rte"), "train", _write(tmp_path / "rte [1].jsonl", rows), limit=3)
        assert found.texts == (("It rains.", "It is wet."),) * 3
        assert found.labels.tolist() == [0, 1, 0]
        assert found.labels.dtype == np.int32

    def test_numbers(self, tmp_path: Path) -> None:
        found = load_examples(glue_task("stsb"), "train", _write(tmp_path / "f.jsonl", [{**RTE[0], "label": 3.8}]))
        assert found.labels.tolist() == [pytest.approx(3.8)]
        assert found.labels.dtype == np.float32

    @pytest.mark.parametrize(
        ("task", "change", "named"),
        [
            ("rte", {"label": 2}, "row 2: label 2 is not one of 0 to 1"),
            ("rte", {"label": 0.5}, "row 2: label 0.5 is not one of 0 to 1"),
            ("rte", {"label": -1}, "GLUE hides the labels"),
            ("rte", {"label": "yes"}, "label"),
            ("rte", {"label": None}, "label None"),
            ("stsb", {"label": 5.5}, "label 5.5 is not a number from 0 to 5"),
            ("rte", {"sentence2": None}, "row 2: sentence2 is None"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, task: str, change: dict[str, Any], named: str) -> None:
        file = _write(tmp_path / "bad.jsonl", [RTE[0], {**RTE[0], **change}])
        with pytest.raises(UserError, match=named):
            load_examples(glue_task(task), "validation", file)

    def test_whole_numbers_written_as_fractions(self, tmp_path: Path) -> None:
        file = _write(tmp_path / "rte.jsonl", [{**RTE[0], "label": 1.0}])
        assert load_examples(glue_task("rte"), "train", file).labels.tolist() == [1]

    def test_labels_that_nothing_correlates_with(self, tmp_path: Path) -> None:
        file = _write(tmp_path / "stsb.jsonl", [{**RTE[0], "label": 2.5}] * 3)
        assert len(load_examples(glue_task("stsb"), "train", file)) == 3
        with pytest.raises(
            UserError, match=r"the labels of 3 examples are all 2\.5, and stsb is scored by correlations"
        ):
            load_examples(glue_task("stsb"), "validation", file)

    def test_another_encoding(self, tmp_path: Path) -> None:
        (tmp_path / "rte.jsonl").write_bytes('{"sentence1": "café", "sentence2": "", "label": 0}\n'.encode("latin-1"))
        with pytest.raises(UserError, match=r"cannot read .*rte\.jsonl: it is not UTF-8 text$"):
            load_examples(glue_task("rte"), "train", tmp_path / "rte.jsonl")

    def test_a_missing_column(self, tmp_path: Path) -> None:
        file = _write(tmp_path / "rte.jsonl", RTE)
        with pytest.raises(UserError, match="lacks the column sentence of cola; it has sentence1, sentence2, label"):
            load_examples(glue_task("cola"), "train", file)

    @pytest.mark.parametrize("text", ["", "\n", "not json\n"])
    def test_a_file_that_cannot_be_read(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "rte.jsonl").write_text(text)
        with pytest.raises(UserError, match=r"cannot read .*rte\.jsonl"):
            load_examples(glue_task("rte"), "train", tmp_path / "rte.jsonl")

    def test_no_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import datasets

        def unreachable(*arguments: Any, **options: Any) -> None:
            raise ConnectionError("no route")

        monkeypatch.setattr(datasets, "load_dataset", unreachable)
        monkeypatch.setattr("jaxpaint.tasks.reach.unreachable", lambda endpoint: None)  # the hub answers, and then not
        with pytest.raises(UserError, match="no route; without a network give --data rte:train=FILE"):
            load_examples(glue_task("rte"), "train")
