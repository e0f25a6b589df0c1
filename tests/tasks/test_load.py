"""Tasks through lm-eval, on files of invented items: nothing here needs a network."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.items import ITEMS, HashLM, gsm8k_item, hellaswag_item, winogrande_item
from tests.helpers.real_assets import DATA, needs_assets

datasets = pytest.importorskip("datasets")
lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api import metrics  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from jaxpaint.base.errors import UserError  # noqa: E402
from jaxpaint.tasks.load import evaluate, load_tasks, results_table  # noqa: E402
from jaxpaint.tasks.local_data import parse_data_option  # noqa: E402

STOCK = Path(lm_eval.__file__).parent / "tasks"


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def rows_file(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """One file of items per task, and one of other items to draw few-shot examples from."""
    made = {}
    for task, item in ITEMS.items():
        made[task] = rows_file(tmp_path / f"{task}.jsonl", [item(number) for number in range(12)])
        made[f"{task}:train"] = rows_file(
            tmp_path / f"{task}_train.jsonl", [item(number) for number in range(100, 130)]
        )
    return made


def local(files: dict[str, Path], *names: str) -> dict:
    return parse_data_option([f"{name}={files[name]}" for name in names])


@pytest.mark.parametrize(
    ("task", "num_fewshot"),
    [
        ("lambada_openai", None),
        ("arc_challenge", None),
        ("arc_challenge", 3),
        ("arc_easy", 1),
        ("hellaswag", None),
        ("hellaswag", 2),
        ("winogrande", None),
        ("winogrande", 2),
        ("gsm8k", None),
        ("gsm8k", 0),
    ],
)
@pytest.mark.few(1)
def test_results_and_prompts_equal_lm_evals_own(task, num_fewshot, files, tmp_path, no_network, monkeypatch):
    given = [task] if task == "lambada_openai" else [task, f"{task}:train"]
    ours_lm, theirs_lm = HashLM(), HashLM()
    tasks = load_tasks([task], data=local(files, *given), num_fewshot=num_fewshot)
    ours = evaluate(ours_lm, tasks, bootstrap_iters=200, log_samples=True)

    stock = next(path for path in STOCK.rglob("*.yaml") if f"\ntask: {task}\n" in f"\n{path.read_text()}")
    splits = {"train": str(files[f"{task}:train"]), "validation": str(files[task]), "test": str(files[task])}
    config = {
        "include": str(stock),
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": splits},
    }
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "task.yaml").write_text(json.dumps(config))
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    manager = TaskManager(include_defaults=False, include_path=folder)
    theirs = lm_eval.simple_evaluate(
        theirs_lm, tasks=[task], task_manager=manager, num_fewshot=num_fewshot, bootstrap_iters=200
    )

    assert ours_lm.requests
    assert ours_lm.requests == theirs_lm.requests
    assert ours["results"].keys() == theirs["results"].keys() == {task}
    for metric, value in theirs["results"][task].items():
        expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
        assert ours["results"][task][metric] == expected, metric
    for key in ("n-shot", "n-samples", "versions", "higher_is_better"):
        assert ours[key] == theirs[key]
    assert [sample["doc_hash"] for sample in ours["samples"][task]] == [
        sample["doc_hash"] for sample in theirs["samples"][task]
    ]


def test_several_tasks_at_once_and_the_table(files, no_network):
    names = ["arc_challenge", "hellaswag", "lambada_openai"]
    results = evaluate(HashLM(), load_tasks(names, data=local(files, *names)), limit=5, bootstrap_iters=0)
    assert results["n-samples"] == {name: {"original": 12, "effective": 5} for name in names}
    assert results["config"]["limit"] == 5
    assert results["config"]["fewshot_seed"] == 1234
    assert "samples" not in results
    table = results_table(results)
    assert all(name in table for name in names)
    assert f"{results['results']['hellaswag']['acc_norm,none']:.4f}" in table


def test_a_second_evaluation_sees_the_same_prompts(files):
    tasks = load_tasks(["arc_easy"], data=local(files, "arc_easy", "arc_easy:train"), num_fewshot=3)
    first, second = HashLM(), HashLM()
    assert evaluate(first, tasks)["results"] == evaluate(second, tasks)["results"]
    assert first.requests == second.requests


def test_parquet_and_named_splits(files, tmp_path, no_network):
    table = tmp_path / "items[1].parquet"
    datasets.Dataset.from_list([hellaswag_item(number) for number in range(12)]).to_parquet(table)
    parquet = load_tasks(["hellaswag"], data=parse_data_option([f"hellaswag:validation={table}"]))
    jsonl = load_tasks(["hellaswag"], data=local(files, "hellaswag"))
    assert evaluate(HashLM(), parquet)["results"] == evaluate(HashLM(), jsonl)["results"]


@pytest.mark.slow
@pytest.mark.parametrize("names", [["ai2_arc"], ["arc_eas[y]", "arc_challenge"]])
def test_tags_and_patterns(names, files, no_network):
    data = local(files, "arc_easy", "arc_challenge")
    assert sorted(load_tasks(names, data=data)["tasks"]) == ["arc_challenge", "arc_easy"]


@pytest.mark.slow
def test_groups_aggregate_their_tasks(files, own_folder, no_network):
    (own_folder / "group.yaml").write_text(
        "group: own_group\ntask: [arc_easy, own_task]\naggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    data = local(files, "arc_easy") | parse_data_option([f"own_task={own_folder / 'items.jsonl'}"])
    tasks = load_tasks(["own_group"], data=data, include_path=own_folder, trust=True)
    results = evaluate(HashLM(), tasks)
    scores = {name: results["results"][name]["acc,none"] for name in ("arc_easy", "own_task")}
    assert results["groups"]["own_group"]["acc,none"] == pytest.approx(
        (12 * scores["arc_easy"] + 9 * scores["own_task"]) / 21
    )
    assert results_table(results).count("own_group") == 2
    with pytest.raises(UserError, match="group of tasks"):
        load_tasks(["own_group"], data={"own_group": {None: files["arc_easy"]}}, include_path=own_folder, trust=True)


OWN_TASK = """
task: own_task
custom_dataset: !function own.forbidden
dataset_path: nobody/nothing
dataset_kwargs: {{trust_remote_code: true, revision: abc}}
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{question}}}}"
doc_to_choice: ["no", "yes"]
doc_to_target: label
num_fewshot: {num_fewshot}
metadata: {{version: 7}}
"""


@pytest.fixture
def own_folder(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text("def forbidden(**_):\n    raise AssertionError('the hub copy was loaded')\n")
    (folder / "own.yaml").write_text(OWN_TASK.format(num_fewshot=0))
    rows_file(folder / "items.jsonl", [{"question": f"Is {n} even?", "label": (n + 1) % 2} for n in range(9)])
    return folder


@pytest.mark.parametrize("by_path", [True, False])
def test_a_users_own_task(by_path, own_folder, no_network):
    data = parse_data_option([f"own_task={own_folder / 'items.jsonl'}"])
    name, include = (str(own_folder / "own.yaml"), None) if by_path else ("own_task", own_folder)
    tasks = load_tasks([name], data=data, include_path=include, num_fewshot=4, trust=True)
    results = evaluate(HashLM(), tasks)
    assert results["versions"] == {"own_task": 7}
    assert results["n-shot"] == {"own_task": 0}  # a task that sets 0 itself keeps 0


def test_data_that_does_not_fit_the_task(files, tmp_path):
    with pytest.raises(UserError, match="'gsm8k' is not among the tasks asked for: hellaswag"):
        load_tasks(["hellaswag"], data=local(files, "gsm8k"))
    with pytest.raises(UserError, match="has no split 'dev'; it uses 'train', 'validation'"):
        load_tasks(["hellaswag"], data={"hellaswag": {"dev": files["hellaswag"]}})
    with pytest.raises(UserError, match="'test' split of task 'gsm8k' twice"):
        load_tasks(["gsm8k"], data={"gsm8k": {None: files["gsm8k"], "test": files["gsm8k"]}})
    with pytest.raises(UserError, match=r"evaluated on its 'test' split.*add --data gsm8k:test=FILE"):
        load_tasks(["gsm8k"], data=local(files, "gsm8k:train"))
    with pytest.raises(UserError, match=r"takes its 5 few-shot examples .* add --data gsm8k:train=FILE"):
        load_tasks(["gsm8k"], data=local(files, "gsm8k"))
    with pytest.raises(UserError, match="--data arc_easy:train=FILE"):
        load_tasks(["arc_easy"], data=local(files, "arc_easy"), num_fewshot=2)
    with pytest.raises(UserError, match="Python code of its own"):
        load_tasks(["squadv2"], data={"squadv2": {None: files["gsm8k"]}})
    table = tmp_path / "train.parquet"
    datasets.Dataset.from_list([gsm8k_item(1)]).to_parquet(table)
    with pytest.raises(UserError, match="both JSON and Parquet"):
        load_tasks(["gsm8k"], data={"gsm8k": {None: files["gsm8k"], "train": table}})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("blank.jsonl", b"\n\n"),
        ("cut.jsonl", b'{"text": "a b"}\n{"text": \n'),
        ("prose.jsonl", b"Once upon a time\n"),
        ("numbers.jsonl", b"1\n2\n"),
        ("bad.parquet", b"PAR1 and nothing else"),
        ("binary.jsonl", bytes(range(256))),
    ],
)
def test_unreadable_files_are_named_in_one_line(name, content, tmp_path, capfd):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read .*{name}, the 'test' split of task 'lambada_openai': .") as told:
        load_tasks(["lambada_openai"], data=parse_data_option([f"lambada_openai={tmp_path / name}"]))
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_splits_of_other_columns_are_told_in_one_line(tmp_path, files):
    file = rows_file(tmp_path / "odd.jsonl", [{"other": 1}] * 3)
    with pytest.raises(UserError, match=r"cannot read .*odd\.jsonl.* together, .* 'gsm8k': their columns differ$"):
        load_tasks(["gsm8k"], data={"gsm8k": {None: files["gsm8k"], "train": file}})


@pytest.mark.parametrize("task", ["lambada_openai", "hellaswag", "arc_easy", "winogrande", "gsm8k"])
def test_a_missing_column_is_told_in_one_line(task, tmp_path, capfd):
    file = rows_file(tmp_path / "odd.jsonl", [{"other": "thing"}] * 3)
    with pytest.raises(UserError, match=rf"task '{task}' cannot use .*odd.jsonl: .* \(columns: other\)") as told:
        load_tasks([task], data=parse_data_option([f"{task}={file}"]), num_fewshot=0)
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_a_document_that_breaks_later_is_told_with_its_number(tmp_path):
    rows = [winogrande_item(number) for number in range(6)]
    rows[4]["sentence"] = "No blank in here."
    file = rows_file(tmp_path / "items.jsonl", rows)
    tasks = load_tasks(["winogrande"], data=parse_data_option([f"winogrande={file}"]))
    assert evaluate(HashLM(), tasks, limit=4)["n-samples"]["winogrande"]["effective"] == 4
    with pytest.raises(UserError, match=r"task 'winogrande', document 4 cannot use .*items.jsonl: ValueError"):
        evaluate(HashLM(), tasks)


def test_too_few_examples_and_bad_numbers(files, tmp_path):
    few = rows_file(tmp_path / "few.jsonl", [gsm8k_item(1)])
    data = {"gsm8k": {None: files["gsm8k"], "train": few}}
    with pytest.raises(UserError, match=r"task 'gsm8k'.*Sample larger than population"):
        evaluate(HashLM(), load_tasks(["gsm8k"], data=data))
    with pytest.raises(UserError, match="num_fewshot is -1"):
        load_tasks(["gsm8k"], data=data, num_fewshot=-1)
    tasks = load_tasks(["gsm8k"], data=data, num_fewshot=0)
    for limit in (0, -3):
        with pytest.raises(UserError, match=f"limit is {limit}"):
            evaluate(HashLM(), tasks, limit=limit)


def test_errors_of_the_model_pass_through(files):
    class Broken(HashLM):
        def loglikelihood(self, requests):
            raise KeyError("a bug in the model")

    tasks = load_tasks(["lambada_openai"], data=local(files, "lambada_openai"))
    with pytest.raises(KeyError, match="a bug in the model"):
        evaluate(Broken(), tasks)


def test_lm_evals_state_is_put_back(files, capfd):
    import lm_eval.api.task
    from tqdm import tqdm

    bootstrap = metrics.bootstrap_stderr
    tasks = load_tasks(["lambada_openai"], data=local(files, "lambada_openai"))
    evaluate(HashLM(), tasks, bootstrap_iters=10)
    assert metrics.bootstrap_stderr is bootstrap
    assert lm_eval.api.task.tqdm is tqdm
    assert not datasets.are_progress_bars_disabled()
    assert capfd.readouterr() == ("", "")


def in_python(code: str, *arguments: object, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_imports_nothing_heavy():
    code = "import sys, jaxpaint.tasks.load; print({'lm_eval', 'datasets', 'jax', 'torch'} & set(sys.modules))"
    assert in_python(code).strip() == "set()"


WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.split(".")[0] == "torch" else find_spec(name, *rest))
from lm_eval.api.model import LM
from jaxpaint.tasks.local_data import parse_data_option
from jaxpaint.tasks.load import evaluate, load_tasks, results_table

class Length(LM):
    def loglikelihood(self, requests):
        return [(-float(len(request.args[1])), True) for request in requests]
    loglikelihood_rolling = generate_until = None

names = ["hellaswag", "lambada_openai", "winogrande"]
tasks = load_tasks(names, data=parse_data_option([f"{n}={sys.argv[1]}/{n}.jsonl" for n in names]))
print(results_table(evaluate(Length(), tasks, bootstrap_iters=100)))
assert "torch" not in sys.modules
"""


def test_everything_works_without_torch(files, tmp_path):
    table = in_python(WITHOUT_TORCH, files["hellaswag"].parent, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert all(name in table for name in ("hellaswag", "lambada_openai", "winogrande"))


OFFLINE = """
from jaxpaint.base.errors import UserError
from jaxpaint.tasks.load import load_tasks
try:
    load_tasks(["arc_easy"])
except UserError as error:
    print(error)
"""


def test_no_network_says_how_to_work_offline(tmp_path):
    told = in_python(OFFLINE, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1").strip()
    assert "\n" not in told
    assert "'arc_easy'" in told
    assert "--data arc_easy=FILE" in told
    assert "HF_DATASETS_OFFLINE=1" in told


@needs_assets
def test_stock_tasks_on_real_files():
    files = {
        "lambada_openai": "lambada_openai",
        "hellaswag": "hellaswag",
        "arc_easy": "arc_easy",
        "arc_challenge": "arc_challenge",
        "winogrande": "winogrande",
        "gsm8k": "gsm8k_test",
        "gsm8k:train": "gsm8k_train",
    }
    data = parse_data_option([f"{target}={DATA / file}.jsonl" for target, file in files.items()])
    results = evaluate(HashLM(), load_tasks(list(data), data=data), limit=20, bootstrap_iters=0)
    assert {name: count["effective"] for name, count in results["n-samples"].items()} == dict.fromkeys(data, 20)
