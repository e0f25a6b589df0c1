"""Documents whose choices or right answer make no sense are refused by number, not scored as answered wrongly."""

import json
from pathlib import Path

import pytest
import yaml

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.asking import USUAL, Asking
from jaxpaint.tasks.load import build_instances, evaluate, load_tasks
from tests.helpers.items import HashLM
from tests.helpers.tiny_tasks import make_task

CHOICE = {"question": "q", "choices": ["a", "b", "c"], "gold": 1}


def task_of(folder: Path, name: str, *rows: dict, asking: Asking = USUAL, **changes: object):
    """The loaded task `name` over the rows given."""
    file = Path(make_task(folder, name))
    config = yaml.safe_load(file.read_text()) | changes
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config["dataset_kwargs"] = {"data_files": {config["test_split"]: str(folder / "rows.jsonl")}}
    file.write_text(json.dumps(config))
    return load_tasks([str(file)], asking=asking)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"gold": 3}, "its right answer is choice 3, and its 3 choices are 0 to 2"),
        ({"gold": -1}, "choice -1"),
        ({"gold": None}, "right answer is None"),
        ({"choices": []}, r"choices are \[\]"),
        ({"choices": ["a", ""]}, "one of its choices is ''"),
        ({"choices": ["a", None, "c"]}, "one of its choices is None"),
    ],
)
def test_choices_and_labels(tmp_path, wrong, why):
    tasks = task_of(tmp_path, "tiny_choice", CHOICE, CHOICE, {**CHOICE, **wrong}, CHOICE)
    with pytest.raises(UserError, match=rf"task 'tiny_choice', document 2: .*{why}"):
        build_instances(tasks)
    with pytest.raises(UserError, match=rf"document 2: .*{why}"):
        evaluate(HashLM(), tasks, bootstrap_iters=0)
    build_instances(tasks, limit=2)  # what is not asked for is not read


@pytest.mark.parametrize(("gold", "good"), [("b", True), ("x", False), ("0.5", False), ("1", False)])
def test_a_right_answer_in_words_is_one_of_the_choices(tmp_path, gold, good):
    tasks = task_of(tmp_path, "tiny_choice", {**CHOICE, "gold": gold})
    if good:
        build_instances(tasks)
    else:
        with pytest.raises(UserError, match=f"its right answer '{gold}' is none of its choices"):
            build_instances(tasks)


def test_a_text_in_place_of_choices_is_not_read_by_its_letters(tmp_path):
    with pytest.raises(UserError, match="its choices are 'abc', not a list of texts"):
        build_instances(task_of(tmp_path, "tiny_choice", {**CHOICE, "choices": "abc"}))


@pytest.mark.parametrize(("gold", "good"), [([0, 2], True), ([0, 3], False), ([], False)])
def test_several_right_answers(tmp_path, gold, good):
    tasks = task_of(tmp_path, "tiny_choice", {**CHOICE, "gold": gold})
    if good:
        build_instances(tasks)
    else:
        with pytest.raises(UserError, match="document 0: "):
            build_instances(tasks)


@pytest.mark.parametrize(
    ("name", "row", "column"),
    [("tiny_word", {"context": "a", "word": " b"}, "word"), ("tiny_write", {"context": "a", "word": " b"}, "word")],
)
def test_a_text_to_predict_is_there(tmp_path, name, row, column):
    tasks = task_of(tmp_path, name, row, {**row, column: None}, doc_to_target=column)
    with pytest.raises(UserError, match=r"document 1: .*None"):
        build_instances(tasks)


def test_of_chosen_documents_the_number_is_the_documents_own(tmp_path):
    asking = Asking(samples={"tiny_choice": [1, 3]})
    tasks = task_of(tmp_path, "tiny_choice", CHOICE, CHOICE, CHOICE, {**CHOICE, "gold": 7}, asking=asking)
    with pytest.raises(UserError, match="document 3: its right answer is choice 7"):
        build_instances(tasks, asking=asking)
