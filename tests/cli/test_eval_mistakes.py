"""jaxpaint eval: status 2 and one line that names the cause."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file, save_file

from convert import store_for
from tests.helpers.cli_fixtures import in_process, scoring

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


def test_an_unknown_task(refused, store) -> None:
    refused(
        *("eval", "--model", store, "--tasks", "lambada_opena"),
        expected=("unknown task 'lambada_opena'", "near names:", "lambada_openai"),
    )
    refused("eval", "--model", store, "--tasks", ",", expected=("no tasks given",))


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ("alone", "'alone' is a member of itself: 'alone' > 'alone'"),
        ("outer", "'outer' is a member of itself: 'outer' > 'inner' > 'outer'"),
        ("written", "'written' is a member of itself: 'written' > 'written'"),
        ("anchored", "'anchored' is nested too deeply"),
        ("FOLDER/alone.yaml", "'alone' is a member of itself"),
    ],
)
def test_a_group_of_tasks_within_itself(refused, store, tmp_path, tasks, expected) -> None:
    for name, members in (
        ("alone", "[alone]"),
        ("outer", "[arc_easy, {group: inner, num_fewshot: 2}]"),
        ("inner", "[outer]"),
        ("written", "[{group: within, task: [written]}]"),
        ("anchored", "&all [{group: within, task: *all}]"),
    ):
        (tmp_path / f"{name}.yaml").write_text(f"group: {name}\ntask: {members}\n")
    asked = ("--tasks", tasks.replace("FOLDER", str(tmp_path)), "--include-path", tmp_path)
    refused("eval", "--model", store, *asked, expected=(f"the group of tasks {expected}",))


@pytest.mark.parametrize("spelt", ["[{}]", "[{{group: {}}}]"])
def test_groups_of_tasks_that_multiply(refused, store, tmp_path, monkeypatch, spelt) -> None:
    """Each of five groups lists the next one ten times: 100,000 times the last one's task."""
    built: list[object] = []
    monkeypatch.setattr("lm_eval.tasks._factory.ConfigurableTask", lambda **given: built.append(given))
    for level in range(5):
        members = [spelt.format(f"level{level + 1}")[1:-1] if level < 4 else "arc_easy"] * 10
        (tmp_path / f"{level}.yaml").write_text(f"group: level{level}\ntask: [{', '.join(members)}]\n")
    asked = ("eval", "--model", store, "--include-path", tmp_path)
    expected = ("the group of tasks 'level0' stands for 100,000 tasks", "at most 10,000")
    refused(*asked, "--tasks", "level0", expected=expected)
    refused(*asked, "--tasks", tmp_path / "0.yaml", expected=expected)
    assert not built


def test_a_dataset_without_a_network(store, tmp_path) -> None:
    done = in_process(
        *("eval", "--model", store, "--tasks", "arc_easy"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HOME=str(tmp_path),
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "'arc_easy'" in line
    assert "--data arc_easy=FILE" in line


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.slow
def test_weights_that_are_not_finite_give_no_score(refused, copy, files, tmp_path, value) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    store_for(copy)
    output = tmp_path / "results.json"
    expected = ("NaN or infinite logits under plan",)
    refused(*scoring(copy, files), "--output", output, expected=(*expected, "0-4", "no score was made"))
    refused("logits", "--model", copy, "--text", "She put the kettle", expected=expected)
    assert not output.exists()


def test_data(refused, store, files, tmp_path) -> None:
    arc, odd = files / "arc_challenge.jsonl", tmp_path / "odd.jsonl"
    odd.write_text('{"other": "thing"}\n')
    (tmp_path / "prose.jsonl").write_text("Once upon a time\n")
    (tmp_path / "table.txt").write_text("a\n1\n")
    for given, expected in (
        ("arc_challenge", ("expected TASK=FILE",)),
        (f"arc_challenge={tmp_path}/absent.jsonl", ("there is no file", "absent.jsonl")),
        (f"arc_challenge={tmp_path}/table.txt", ("unknown kind of file '.txt'",)),
        (f"arc_challenge={tmp_path}/prose.jsonl", ("cannot read", "prose.jsonl")),
        (f"arc_challenge={odd}", ("'arc_challenge' cannot use", "columns: other")),
        (f"arc_challenge:dev={arc}", ("has no split 'dev'", "'test'")),
        (f"hellaswag={arc}", ("'hellaswag' is not among the tasks asked for",)),
    ):
        refused("eval", "--model", store, "--tasks", "arc_challenge", "--data", given, expected=expected)
    refused(*scoring(store, files), "--data", f"arc_challenge={arc}", expected=("twice",))
    refused(*scoring(store, files), "--num-fewshot", 2, expected=("--data arc_challenge:train=FILE",))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--strategy", "skip"], ("skip needs a start layer", "0-1", "5 layers")),
        (["--strategy", "skip", "--start", 2], ("start 2 is out of range",)),
        (["--strategy", "skip", "--start", 1, "--seed", 3], ("skip does not take seed",)),
        (["--strategy", "random", "--start", 1], ("random needs a seed",)),
        (["--strategy", "revers", "--start", 1], ("did you mean reverse",)),
        (["--strategy", "", "--start", 1], ("unknown strategy ''",)),
        (["--strategy", "skip", "--start", 1, "--plan", "0"], ("not both",)),
        (["--times", 3], ("--times", "--strategy")),  # --seed alone is lm-eval's
        (["--plan", "0", "--start", 0, "--times", 2], ("--start, --times", "--strategy")),
        (["--limit", 0], ("limit is 0",)),
        (["--num-fewshot", -1], ("num-fewshot is -1",)),
        (["--batch-tokens", 0], ("--batch-tokens is 0",)),
        (["--log-samples"], ("--log-samples needs --output",)),
        (["--tensor-parallel", 0], ("--tensor-parallel is 0",)),
        (["--layer-parallel", 0], ("--layer-parallel is 0",)),
        (["--limit", "many"], ("--limit", "'many'", "jaxpaint eval --help")),
        (["--dtype", "int8"], ("--dtype", "'int8'", "bfloat16")),
        (["--bos", "maybe"], ("--bos", "'maybe'", "auto")),
        (["--nonsense"], ("unrecognized arguments: --nonsense",)),
    ],
)
def test_options(refused, store, files, options, expected) -> None:
    refused(*scoring(store, files), *options, expected=expected)


def test_an_output_that_cannot_be_written_is_told_first(refused, files, tmp_path) -> None:
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "absent" / "results.json", tmp_path / "file" / "results.json", tmp_path):
        # Before the model is looked for.
        refused(*scoring("no/such/folder", files), "--output", output, expected=("--output", str(output)))
    assert (tmp_path / "file").read_text() == "kept"
