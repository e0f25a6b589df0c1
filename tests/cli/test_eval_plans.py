"""jaxpaint eval with several plans: scored in one pass, beside the first on the same documents."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file, save_file

from convert import store_for
from jaxpaint.tasks import harness
from tests.helpers.cli_fixtures import scoring
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

PLANS = ("0-4", "0 1 3 4", "0 {1 2} 3 4")


def given(*plans: str) -> list[str]:
    return [word for plan in plans for word in ("--plan", plan)]


def numbers(metrics: dict) -> dict:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}


@pytest.mark.slow
def test_each_plan_has_what_it_has_alone(run, store, files, tmp_path, monkeypatch) -> None:
    swept = []

    def sweep(model, batches, plans, **how):
        swept.append(len(plans))
        return original(model, batches, plans, **how)

    original = harness.sweep
    monkeypatch.setattr(harness, "sweep", sweep)
    data = [f"--data={name}={files / name}.jsonl" for name in ("lambada_openai", "arc_challenge")]
    writes = make_task(tmp_path, "tiny_write")
    tasks = f"arc_challenge,lambada_openai,{writes}"
    asked = ("eval", "--model", store, "--tasks", tasks, *data, "--limit", 5, "--dtype", "float32", "--json")
    status, out, err = run(*asked, *given(*PLANS))
    assert status == 0, err
    assert swept == [3, 3]  # each of the two that are scored once, all plans together
    document = json.loads(out)
    together = [document, *document["others"]]
    assert [each["config"]["plan"] for each in together] == list(PLANS)
    assert "differences" not in document
    assert not [each for each in together if "samples" in each]
    kept = ("--log-samples", f"--output={tmp_path / 'own.json'}")
    alone = [json.loads(run(*asked, *kept, *given(plan))[1]) for plan in PLANS[:2]]
    for ours, own in zip(together, alone, strict=False):
        assert ours.keys() - {"differences", "others"} == own.keys() - {"samples"}
        assert {name: ours[name] for name in ("n-samples", "versions", "config")} == {
            name: own[name] for name in ("n-samples", "versions", "config")
        }
        for task, metrics in own["results"].items():
            assert ours["results"][task].keys() == metrics.keys()
            assert numbers(ours["results"][task]) == pytest.approx(numbers(metrics), rel=1e-4, abs=1e-5)
    assert alone[0]["results"]["lambada_openai"] != alone[1]["results"]["lambada_openai"]

    for ours, own in zip(together[1:], alone[1:], strict=False):
        for task, metric in (("arc_challenge", "acc_norm"), ("lambada_openai", "acc"), ("tiny_write", "exact_match")):
            name = next(key.split(",")[1] for key in ours["results"][task] if key.startswith(f"{metric},"))
            each = [
                sample[metric] - first[metric]
                for sample, first in zip(own["samples"][task], alone[0]["samples"][task], strict=True)
                if sample["filter"] == name
            ]
            mean = sum(each) / len(each)
            error = math.sqrt(sum((value - mean) ** 2 for value in each) / (len(each) - 1) / len(each))
            less = ours["differences"][task]
            assert less[f"{metric},{name}"] == pytest.approx(mean, abs=1e-9)
            assert less[f"{metric}_stderr,{name}"] == pytest.approx(error, abs=1e-9)
        # A perplexity is no mean over documents.
        less = ours["differences"]["lambada_openai"]
        change = (
            own["results"]["lambada_openai"]["perplexity,none"]
            - alone[0]["results"]["lambada_openai"]["perplexity,none"]
        )
        assert less["perplexity,none"] == pytest.approx(change, rel=1e-3)
        assert less["perplexity_stderr,none"] == "N/A"


def test_the_table_has_a_line_for_each_task_and_plan(run, store, files) -> None:
    status, out, err = run(*scoring(store, files), "--dtype", "float32", *given(*PLANS))
    assert (status, err) == (0, "")
    first, blank, head, *rows, _, legend = out.splitlines()
    assert first.startswith("3 plans together, float32, BOS auto (not added), ")
    assert blank == ""
    assert head.split() == ["arc_challenge,", "acc_norm", "cost", "score", "less", "the", "first"]
    assert [row.split("  ")[0] for row in rows] == list(PLANS)
    assert rows[0].rstrip() == rows[0]
    assert "±" in rows[0]
    assert rows[1].split()[4] == "4"  # its cost
    assert [row.count("±") for row in rows] == [1, 2, 2]
    assert legend == "less the first: on the same documents, ± the standard error of that"
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.slow
def test_a_plan_that_fails_does_not_stop_the_others(run, copy, files) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = math.nan
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    store_for(copy)
    status, out, err = run(*scoring(copy, files), "--json", *given("0-4", "0 1", "0 1 3"))
    assert status == 2
    (line,) = [line for line in err.splitlines() if line.startswith("jaxpaint: error")]
    assert "NaN or infinite logits under plan 0-4" in line
    document = json.loads(out)
    assert document["failed"].keys() == {"arc_challenge"}
    assert "results" not in document
    for each in document["others"]:
        assert "acc_norm,none" in each["results"]["arc_challenge"]
        assert each["differences"] == {}  # from nothing


def test_mistakes(refused, store, files, tmp_path) -> None:
    asked = (*scoring(store, files), *given("0-4", "0 1"))
    refused(*asked, "--output-path", tmp_path, expected=("take one plan's results; --output FILE has those of all",))
    refused(*asked, "--strategy", "skip", "--start", 1, expected=("not both",))
    refused(*asked, "--plan", "0 9", expected=("layer 9",))
