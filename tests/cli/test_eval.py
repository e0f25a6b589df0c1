"""jaxpaint eval: what it prints, writes and keeps; its mistakes are in `test_cli_eval_mistakes`."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from jaxpaint.engine.head import ModelOutputError
from jaxpaint.engine.score import score
from jaxpaint.models import checkpoint
from jaxpaint.plans import strategies
from jaxpaint.tasks import harness
from tests.helpers.cli_fixtures import Terminal, in_process
from tests.helpers.tiny_folder import NUM_LAYERS

TOLERANCE = 1e-4
PLAN = "0 2 1 {3 4}*2"


pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

WITHOUT_TORCH = """
import sys
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = staticmethod(
    lambda name, *rest: None if name.split(".")[0] == "torch" else find_spec(name, *rest))
from jaxpaint.cli import main

status = main()
assert "torch" not in sys.modules
sys.exit(status)
"""


@pytest.fixture
def evaluate(run, files, tmp_path):
    """Runs `jaxpaint eval` on the local tasks: (exit status, output, error, the JSON or None)."""

    def command(model: object, *arguments: object, tasks: str = "lambada_openai,arc_challenge"):
        output = tmp_path / "results.json"
        output.unlink(missing_ok=True)
        data = [part for name in tasks.split(",") for part in ("--data", f"{name}={files / name}.jsonl")]
        fixed = ("eval", "--model", model, "--tasks", tasks, "--dtype", "float32", "--output", output)
        status, out, err = run(*fixed, *data, *arguments)
        return status, out, err, json.loads(output.read_text()) if output.exists() else None

    return command


def test_what_is_printed_and_written(evaluate, folder, store) -> None:
    status, out, err, results = evaluate(store, "--plan", PLAN, "--bos", "on", "--limit", 5, "--log-samples")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"plan {PLAN} (cost 7, depth 5 layers)"
    assert lines[1].startswith("float32, BOS on (added), ")
    assert lines[1].endswith(" tokens/s")
    assert all(line.startswith("|") for line in lines[2:] if line)
    # pytablewriter chooses the number of decimals by column.
    (row,) = ([cell.strip() for cell in line.split("|")] for line in lines if "acc_norm" in line)
    shown = float(row[row.index("acc_norm") + 2])
    assert shown == pytest.approx(results["results"]["arc_challenge"]["acc_norm,none"], abs=1e-3)

    names = {"lambada_openai", "arc_challenge"}
    assert results["results"].keys() == results["versions"].keys() == results["n-shot"].keys() == names
    assert {"acc,none", "acc_stderr,none", "acc_norm,none"} <= results["results"]["arc_challenge"].keys()
    assert {"acc,none", "perplexity,none"} <= results["results"]["lambada_openai"].keys()
    assert results["n-samples"] == {name: {"original": 8, "effective": 5} for name in names}
    assert results["n-shot"] == dict.fromkeys(names, 0)
    assert results["versions"] == dict.fromkeys(names, 1.0)
    assert results["higher_is_better"]["lambada_openai"] == {"perplexity": False, "acc": True}

    config, manifest = results["config"], checkpoint.read_manifest(store)
    assert config["plan"] == PLAN
    assert (config["plan_cost"], config["plan_depth"], config["model_num_layers"]) == (7, 5, NUM_LAYERS)
    assert (config["bos"], config["bos_token_added"], config["dtype"]) == ("on", True, "float32")
    assert config["model_source"] == str(folder)
    assert config["model_revision"] is None
    assert config["model_fingerprint"] == manifest["fingerprint"]
    assert config["limit"] == 5
    for name in ("jax", "flax", "lm_eval", "transformers", "datasets"):
        assert results["environment"]["versions"][name] == importlib.metadata.version(name)
    timing = results["timing"]
    assert 0 < timing["wall_seconds"] < 600
    assert timing["tokens_per_second"] == pytest.approx(timing["request_tokens"] / timing["wall_seconds"])
    assert "interrupted" not in results

    samples = results["samples"]["arc_challenge"]
    assert [len(sample["resps"]) for sample in samples] == [4] * 5
    assert all(np.isfinite(float(response[0][0])) for sample in samples for response in sample["resps"])


def test_settings_and_samples_only_on_request(evaluate, store) -> None:
    status, out, _, results = evaluate(store, tasks="arc_challenge")
    assert status == 0
    assert out.splitlines()[0] == "plan 0-4 (cost 5, depth 5 layers)"
    assert "BOS auto (not added)" in out
    assert "samples" not in results
    assert results["config"]["plan"] == "0-4"
    assert results["config"]["bos_token_added"] is False
    assert results["config"]["limit"] is None
    assert results["n-samples"]["arc_challenge"]["effective"] == 8


@pytest.mark.smoke
@pytest.mark.slow
def test_a_strategy_equals_its_plan(evaluate, store) -> None:
    plan = strategies.looped_parallel(NUM_LAYERS, 1, 2)
    named = ("--strategy", "looped-parallel", "--start", 1, "--iterations", 2)
    (*_, first), (*_, second), (*_, full) = (
        evaluate(store, *arguments, "--log-samples", tasks="arc_challenge")
        for arguments in (named, ("--plan", plan), ())
    )
    assert first["config"]["plan"] == second["config"]["plan"] == str(plan)
    assert answers(first, "arc_challenge") == answers(second, "arc_challenge")
    assert answers(first, "arc_challenge") != answers(full, "arc_challenge")


@pytest.mark.parametrize("bos", ["on", "off"])
@pytest.mark.few(1)
def test_scores_equal_lm_evals_with_the_layers_rearranged(bos, evaluate, folder, files, tmp_path) -> None:
    peer = HFLM(str(folder), dtype="float32", device="cpu", batch_size=4, add_bos_token=bos == "on")
    peer.model.model.layers = torch.nn.ModuleList([peer.model.model.layers[index] for index in (0, 3, 1, 1, 4)])
    peer.model.config.use_cache = False  # a cache would take the repeated layer's keys for earlier tokens
    names = ["lambada_openai", "arc_challenge"]
    theirs = lm_eval.simple_evaluate(
        peer, tasks=names, task_manager=local_tasks(names, files, tmp_path), bootstrap_iters=0, batch_size=4
    )
    # A store made of the folder in the cache, which the first of the tests to use it is told of, and few tokens in a
    # batch.
    status, _, err, ours = evaluate(folder, "--plan", "0 3 1*2 4", "--bos", bos, "--log-samples", "--batch-tokens", 128)
    assert status == 0
    assert not err or (err.startswith("model is converted, once for all") and err.count("\n") == 1)
    for name in names:
        for (value, greedy), (expected, expected_greedy) in zip(
            answers(ours, name), answers(theirs, name), strict=True
        ):
            assert value == pytest.approx(expected, abs=TOLERANCE)
            assert greedy == expected_greedy
        for metric in ("acc,none", "acc_norm,none", "perplexity,none"):
            if metric in theirs["results"][name]:
                assert ours["results"][name][metric] == pytest.approx(theirs["results"][name][metric], rel=1e-4)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished(evaluate, store, monkeypatch) -> None:
    score, calls = harness.score, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*arguments, **options)

    *_, whole = evaluate(store)
    monkeypatch.setattr(harness, "score", interrupted)
    status, out, err, results = evaluate(store)
    assert status == 130
    assert err == "jaxpaint: interrupted; not finished: arc_challenge\n"
    assert "lambada_openai" in out
    assert "arc_challenge" not in out
    assert results["interrupted"] == ["arc_challenge"]
    assert results["results"] == {"lambada_openai": whole["results"]["lambada_openai"]}
    assert results["config"] == whole["config"]


def test_a_task_that_fails_does_not_take_the_others(evaluate, store, monkeypatch) -> None:
    def fails_once(*arguments, scored=[], **options):  # noqa: B006
        scored.append(1)
        if len(scored) == 2:
            raise ModelOutputError("NaN or infinite logits")
        return score(*arguments, **options)

    monkeypatch.setattr(harness, "score", fails_once)
    status, out, err, results = evaluate(store)
    assert status == 2
    assert err == "jaxpaint: error: arc_challenge: NaN or infinite logits\n"
    assert "lambada_openai" in out
    assert list(results["results"]) == ["lambada_openai"]
    assert results["failed"] == {"arc_challenge": "NaN or infinite logits"}


def test_ctrl_c_before_anything_is_finished(evaluate, run, store, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(harness, "score", interrupted)
    status, out, err, results = evaluate(store)
    assert (status, out) == (130, "")
    assert err == "jaxpaint: interrupted; no task was finished\n"
    assert results is None  # nothing is written over the file of an earlier run
    monkeypatch.setattr("convert.store_for", interrupted)
    assert run("logits", "--model", store, "--text", "A") == (130, "", "jaxpaint: interrupted\n")


def test_a_disk_that_fills_up_does_not_take_the_scores(evaluate, store, monkeypatch, tmp_path) -> None:
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    status, out, err, results = evaluate(store, tasks="arc_challenge")
    assert status == 2
    assert "|arc_challenge|" in out
    assert err.startswith("jaxpaint: error: cannot write")
    assert err.endswith("No space left on device\n")
    assert results is None
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_shows_progress(evaluate, store, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    status, out, *_ = evaluate(store, tasks="arc_challenge")
    assert status == 0
    assert "\r" not in out
    assert "scoring" not in out
    last = terminal.getvalue().split("\r")[-1]
    assert last.startswith("scoring: 100%")
    assert "tokens/s" in last


@pytest.mark.slow
def test_in_a_process_of_its_own_without_torch(store, files, cache) -> None:
    arguments = ("--tasks", "arc_challenge", "--data", f"arc_challenge={files}/arc_challenge.jsonl", "--limit", 2)
    done = in_process(
        *("eval", "--model", store, *arguments),
        code=WITHOUT_TORCH,
        HF_DATASETS_CACHE=str(cache / "datasets"),
        JAX_PLATFORMS="cpu",
    )
    # No advice to install torch, and no bar: that is for a terminal, or for long work.
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("plan 0-4 (cost 5, depth 5 layers)\n")
    assert "|arc_challenge|" in done.stdout
    assert "\r" not in done.stdout


def answers(results: dict, task: str) -> list[tuple[float, bool]]:
    """Each request's log-likelihood and whether it was greedy, in order."""
    responses = [
        response[0]
        for sample in sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
        for response in sample["resps"]
    ]
    return [(float(value), str(greedy) == "True") for value, greedy in responses]


def local_tasks(names: list[str], files: Path, tmp_path: Path) -> TaskManager:
    """lm-eval's tasks on local files, by its own means."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    stock = Path(lm_eval.__file__).parent / "tasks"
    for name in names:
        original = next(path for path in stock.rglob("*.yaml") if f"\ntask: {name}\n" in f"\n{path.read_text()}")
        config = {
            "include": str(original),
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": dict.fromkeys(("train", "validation", "test"), str(files / f"{name}.jsonl"))
            },
        }
        (folder / f"{name}.yaml").write_text(json.dumps(config))
    return TaskManager(include_defaults=False, include_path=folder)
