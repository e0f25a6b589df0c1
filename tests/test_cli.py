"""The command line, as people meet it: what it prints and writes, and one clear line for every mistake."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import datasets
import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file, save_file
from tiny_folder import NUM_LAYERS, make_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxpaint
from jaxpaint import checkpoint, cli, evaluation, harness, strategies
from jaxpaint.score import ModelOutputError, score

COMMANDS = ("convert", "export", "eval", "logits", "plan")
NOUNS = ["kettle", "lantern", "harbour", "ladder", "violin", "orchard", "saddle", "compass"]
TOLERANCE = 1e-4


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def nothing_of_the_users(cache, monkeypatch):
    """No caches of the user's, no network, numbers that do not depend on the device."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def store(folder) -> Path:
    from convert import convert

    return convert(folder, folder.parent / "store")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with `lambada_openai.jsonl` and `arc_challenge.jsonl`, 8 documents each."""
    path = tmp_path_factory.mktemp("data")
    lambada = [{"text": f"{n}: she put the {NOUNS[n]} where she had found the {NOUNS[n - 3]}"} for n in range(8)]
    arc = [
        {
            "id": str(n),
            "question": f"Which is number {n}?",
            "choices": {"text": [NOUNS[(n + k) % 8] for k in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(8)
    ]
    for name, rows in (("lambada_openai", lambada), ("arc_challenge", arc)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(capfd):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return (status, *capfd.readouterr())

    return command


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


@pytest.fixture
def refused(run):
    """Asserts that the command ends with status 2 and one line that holds all of `expected`; returns the line."""

    def command(*arguments: object, expected: tuple[str, ...] = ()) -> str:
        status, out, err = run(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("jaxpaint")
        assert not [part for part in expected if part not in err], err
        return err.strip()

    return command


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


def in_process(
    *arguments: object, code: str = "import sys; from jaxpaint.cli import main; sys.exit(main())", **environment: str
) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        timeout=120,
    )


class TestHelp:
    def test_it_comes_at_once(self) -> None:
        """The best of a few, because other work may be running on the machine."""
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            done = in_process("--help")
            seconds.append(time.perf_counter() - start)
            assert done.returncode == 0
            assert done.stderr == ""
            assert all(f"  {name}  " in done.stdout for name in COMMANDS)
        assert min(seconds) < 1

    @pytest.mark.parametrize("command", ["", *COMMANDS])
    def test_it_fits_the_screen_and_teaches(self, command, run, monkeypatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        status, out, err = run(*command.split(), "--help")
        assert (status, err) == (0, "")
        assert [line for line in out.splitlines() if len(line) > 80] == []
        assert f"jaxpaint {command}" in out.split("\n\n", 2)[2]  # an example

    def test_version(self, run) -> None:
        assert run("--version") == (0, f"jaxpaint {jaxpaint.__version__}\n", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class TestConvertAndExport:
    def test_convert(self, run, folder, tmp_path) -> None:
        status, out, err = run("convert", folder, tmp_path / "store")
        assert (status, out, err) == (0, f"converted {folder} into {tmp_path / 'store'}\n", "")
        manifest = checkpoint.read_manifest(tmp_path / "store")
        assert manifest["dtype"] == "float32"
        assert jaxpaint.load(tmp_path / "store", dtype="float32").num_layers == NUM_LAYERS

    def test_convert_to_another_dtype_and_over_a_store(self, run, refused, folder, tmp_path) -> None:
        assert run("convert", folder, tmp_path / "store")[0] == 0
        refused("convert", folder, tmp_path / "store", expected=("exists already",))
        assert run("convert", folder, tmp_path / "store", "--overwrite", "--dtype", "bfloat16")[0] == 0
        assert checkpoint.read_manifest(tmp_path / "store")["dtype"] == "bfloat16"

    def test_a_terminal_shows_progress(self, run, folder, tmp_path, monkeypatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
        for arguments in (
            ("convert", folder, tmp_path / "store"),
            ("logits", "--model", folder, "--text", "A"),  # converts on first use
            ("export", tmp_path / "store", tmp_path / "short", "--plan", "0-2"),
        ):
            terminal.truncate(0)
            status, out, _ = run(*arguments)
            assert status == 0
            assert "\r" not in out
            assert "writing" in terminal.getvalue()
            assert "B/s" in terminal.getvalue()

    def test_export(self, run, folder, store, tmp_path) -> None:
        status, out, err = run("export", store, tmp_path / "short", "--plan", "0 3 2 4*2")
        assert (status, out, err) == (0, f"exported 0 3 2 4*2 (5 layers) into {tmp_path / 'short'}\n", "")
        original = AutoModelForCausalLM.from_pretrained(folder)
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "short")
        assert exported.config.num_hidden_layers == 5
        for new, old in enumerate([0, 3, 2, 4, 4]):
            for (name, ours), theirs in zip(
                exported.model.layers[new].named_parameters(), original.model.layers[old].parameters(), strict=True
            ):
                assert torch.equal(ours, theirs), name
        text = "She put the kettle"
        encoded = [AutoTokenizer.from_pretrained(path).encode(text) for path in (folder, tmp_path / "short")]
        assert encoded[0] == encoded[1]

    def test_a_folder_is_exported_by_way_of_the_cache(self, run, folder, tmp_path) -> None:
        assert run("export", folder, tmp_path / "short", "--plan", "0-3")[0] == 0
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "short").config.num_hidden_layers == 4

    def test_a_parallel_plan_is_not_exported(self, refused, store, tmp_path) -> None:
        refused("export", store, tmp_path / "no", "--plan", "0 {1 2}", expected=("only series plans", "{1 2}"))
        assert not (tmp_path / "no").exists()


class TestPlan:
    def test_it_draws_and_counts(self, run) -> None:
        status, out, err = run("plan", "0-8 {9-22}*3 23-31", "--layers", 32)
        assert (status, err) == (0, "")
        plan = jaxpaint.Plan.parse("0-8 {9-22}*3 23-31")
        assert out.startswith(plan.draw())
        assert "plan    0-8 {9-22}*3 23-31\n" in out
        assert "cost    60 layer applications (1.88 of the full model's)\n" in out
        assert "depth   21 layers" in out
        assert "layers  32 of 32 used\n" in out

    def test_a_strategy(self, run) -> None:
        spelled = run("plan", "0-8 {9-22}*3 23-31", "--layers", 32)
        named = run("plan", "--strategy", "looped-parallel", "--start", 8, "--layers", 32)
        assert named[0] == 0
        assert "plan    0-8 {9-23}*3 24-31\n" in named[1]
        assert named[1] != spelled[1]
        skip = run("plan", "--strategy", "skip", "--start", 1, "--layers", 5)[1]
        assert "plan    0 1 4\n" in skip
        assert "cost    3 layer" in skip
        assert "layers  3 of 5 used" in skip

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--layers", 5], ("give a plan", "--strategy NAME")),
            (["0", "--layers", 0], ("--layers is 0", "at least 1")),
            (["0-5", "--layers", 5], ("layer 5", "the model has 5 layers")),
            (["0", "--strategy", "skip", "--start", 1, "--layers", 5], ("not both",)),
            (["--strategy", "skip", "--layers", 5], ("strategy skip needs a start layer", "0-1")),
            (["--strategy", "skip", "--start", 2, "--layers", 5], ("start 2 is out of range", "0-1")),
            (["--strategy", "skp", "--layers", 5], ("unknown strategy 'skp'", "did you mean skip")),
            (["0-4", "--seed", 3, "--layers", 5], ("--seed", "--strategy")),
        ],
    )
    def test_mistakes(self, refused, arguments, expected) -> None:
        refused("plan", *arguments, expected=expected)


class TestLogits:
    TEXT = "She put the kettle back where she had"

    def torch_logits(self, folder: Path, layers: Sequence[int]) -> torch.Tensor:
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        network.model.layers = torch.nn.ModuleList([network.model.layers[index] for index in layers])
        tokens = AutoTokenizer.from_pretrained(folder).encode(self.TEXT, return_tensors="pt")
        with torch.no_grad():
            return network(tokens, use_cache=False).logits[0, -1]

    @pytest.mark.parametrize(
        ("options", "plan"),
        [([], "0-4"), (["--plan", "0 2*2 4"], "0 2*2 4"), (["--strategy", "skip-one", "--layer", 3], "0-2 4")],
    )
    def test_the_top_tokens_are_torchs(self, run, folder, options, plan) -> None:
        fixed = ("logits", "--model", folder, "--dtype", "float32", "--text", self.TEXT, "--top", 4)
        status, out, err = run(*fixed, *options)
        assert (status, err) == (0, "")
        head, _, *lines = out.splitlines()
        layers = jaxpaint.Plan.parse(plan).sequence()
        assert head == f"plan {plan} (cost {len(layers)}, depth {len(layers)} layers)"
        logits = self.torch_logits(folder, layers)
        best = torch.topk(logits, 4)
        assert [int(line.rsplit("(", 1)[1].rstrip(")")) for line in lines] == best.indices.tolist()
        assert [float(line.split()[0]) for line in lines] == pytest.approx(best.values.tolist(), abs=1e-3)
        chances = torch.softmax(logits, -1)[best.indices].tolist()
        assert [float(line.split()[1]) for line in lines] == pytest.approx(chances, abs=1e-4)

    def test_mistakes(self, refused, store) -> None:
        common = ("logits", "--model", store)
        refused(*common, "--text", "", expected=("the text is empty",))
        refused(*common, "--text", "A", "--top", 0, expected=("0 tokens to show",))
        refused(*common, "--text", "A " * 100, expected=("tokens; the model's context holds 64",))


class TestEval:
    PLAN = "0 2 1 {3 4}*2"

    def test_what_is_printed_and_written(self, evaluate, folder, store) -> None:
        status, out, err, results = evaluate(store, "--plan", self.PLAN, "--bos", "on", "--limit", 5, "--log-samples")
        assert (status, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == f"plan {self.PLAN} (cost 7, depth 5 layers)"
        assert lines[1].startswith("float32, BOS on (added), ")
        assert lines[1].endswith(" tokens/s")
        assert all(line.startswith("|") for line in lines[2:] if line)
        assert f"{results['results']['arc_challenge']['acc_norm,none']:.4f}" in out

        names = {"lambada_openai", "arc_challenge"}
        assert results["results"].keys() == results["versions"].keys() == results["n-shot"].keys() == names
        assert {"acc,none", "acc_stderr,none", "acc_norm,none"} <= results["results"]["arc_challenge"].keys()
        assert {"acc,none", "perplexity,none"} <= results["results"]["lambada_openai"].keys()
        assert results["n-samples"] == {name: {"original": 8, "effective": 5} for name in names}
        assert results["n-shot"] == dict.fromkeys(names, 0)
        assert results["versions"] == dict.fromkeys(names, 1.0)
        assert results["higher_is_better"]["lambada_openai"] == {"perplexity": False, "acc": True}

        config, manifest = results["config"], checkpoint.read_manifest(store)
        assert config["plan"] == self.PLAN
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

    def test_settings_and_samples_only_on_request(self, evaluate, store) -> None:
        status, out, _, results = evaluate(store, tasks="arc_challenge")
        assert status == 0
        assert out.splitlines()[0] == "plan 0-4 (cost 5, depth 5 layers)"
        assert "BOS auto (not added)" in out
        assert "samples" not in results
        assert results["config"]["plan"] == "0-4"
        assert results["config"]["bos_token_added"] is False
        assert results["config"]["limit"] is None
        assert results["n-samples"]["arc_challenge"]["effective"] == 8

    def test_a_strategy_equals_its_plan(self, evaluate, store) -> None:
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
    def test_scores_equal_lm_evals_with_the_layers_rearranged(self, bos, evaluate, folder, files, tmp_path) -> None:
        peer = HFLM(str(folder), dtype="float32", device="cpu", batch_size=4, add_bos_token=bos == "on")
        peer.model.model.layers = torch.nn.ModuleList([peer.model.model.layers[index] for index in (0, 3, 1, 1, 4)])
        peer.model.config.use_cache = False  # a cache would take the repeated layer's keys for earlier tokens
        names = ["lambada_openai", "arc_challenge"]
        theirs = lm_eval.simple_evaluate(
            peer, tasks=names, task_manager=local_tasks(names, files, tmp_path), bootstrap_iters=0, batch_size=4
        )
        # A store made of the folder in the cache, and few tokens in a batch.
        status, _, err, ours = evaluate(
            folder, "--plan", "0 3 1*2 4", "--bos", bos, "--log-samples", "--batch-tokens", 128
        )
        assert (status, err) == (0, "")
        for name in names:
            for (value, greedy), (expected, expected_greedy) in zip(
                answers(ours, name), answers(theirs, name), strict=True
            ):
                assert value == pytest.approx(expected, abs=TOLERANCE)
                assert greedy == expected_greedy
            for metric in ("acc,none", "acc_norm,none", "perplexity,none"):
                if metric in theirs["results"][name]:
                    assert ours["results"][name][metric] == pytest.approx(theirs["results"][name][metric], rel=1e-4)

    def test_ctrl_c_keeps_what_is_finished(self, evaluate, store, monkeypatch) -> None:
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

    def test_a_task_that_fails_does_not_take_the_others(self, evaluate, store, monkeypatch) -> None:
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

    def test_ctrl_c_before_anything_is_finished(self, evaluate, run, store, monkeypatch) -> None:
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(harness, "score", interrupted)
        status, out, err, results = evaluate(store)
        assert (status, out) == (130, "")
        assert err == "jaxpaint: interrupted; no task was finished\n"
        assert results is None  # nothing is written over the file of an earlier run
        monkeypatch.setattr("convert.store_for", interrupted)
        assert run("logits", "--model", store, "--text", "A") == (130, "", "jaxpaint: interrupted\n")

    def test_a_disk_that_fills_up_does_not_take_the_scores(self, evaluate, store, monkeypatch, tmp_path) -> None:
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(evaluation.os, "replace", full)
        status, out, err, results = evaluate(store, tasks="arc_challenge")
        assert status == 2
        assert "|arc_challenge|" in out
        assert err.startswith("jaxpaint: error: cannot write")
        assert err.endswith("No space left on device\n")
        assert results is None
        assert list(tmp_path.iterdir()) == []

    def test_a_terminal_shows_progress(self, evaluate, store, monkeypatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        status, out, *_ = evaluate(store, tasks="arc_challenge")
        assert status == 0
        assert "\r" not in out
        assert "scoring" not in out
        last = terminal.getvalue().split("\r")[-1]
        assert last.startswith("scoring: 100%")
        assert "tokens/s" in last

    def test_in_a_process_of_its_own_without_torch(self, store, files, cache) -> None:
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


class TestBadInput:
    """Status 2 and one line that names the cause."""

    @pytest.fixture
    def copy(self, folder, tmp_path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy"))

    def scoring(self, model: object, files: Path) -> tuple[object, ...]:
        data = ("--data", f"arc_challenge={files / 'arc_challenge.jsonl'}")
        return ("eval", "--model", model, "--tasks", "arc_challenge", *data)

    @pytest.mark.parametrize("model", ["no/such/folder", "nothing", "/no/such/folder"])
    def test_unknown_folder(self, refused, files, tmp_path, model, monkeypatch) -> None:
        monkeypatch.chdir(tmp_path)
        for command in (
            self.scoring(model, files),
            ("logits", "--model", model, "--text", "A"),
            ("convert", model, "store"),
            ("export", model, "short", "--plan", "0"),
        ):
            refused(*command, expected=(f"no folder {model}",))
        assert list(tmp_path.iterdir()) == []

    def test_no_network(self, tmp_path, files) -> None:
        for command in (self.scoring("owner/name", files), ("convert", "owner/name", str(tmp_path / "store"))):
            done = in_process(*command, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "home"))
            assert done.returncode == 2
            assert done.stdout == ""
            (line,) = done.stderr.splitlines()
            assert line.startswith("jaxpaint: error: no folder owner/name here")
            assert "to work offline" in line
            assert "HF_HUB_OFFLINE=1" in line

    @pytest.mark.parametrize("kept", [0, 4, 100, -1000])
    def test_truncated_safetensors(self, refused, copy, files, tmp_path, kept) -> None:
        file = copy / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        refused(*self.scoring(copy, files), expected=("model.safetensors",))
        refused("convert", copy, tmp_path / "store", expected=("model.safetensors",))
        assert not (tmp_path / "store").exists()

    def test_a_damaged_store(self, refused, store, files, tmp_path) -> None:
        damaged = tmp_path / "damaged"
        shutil.copytree(store, damaged)
        largest = max((damaged / "parameters").rglob("*"), key=lambda file: file.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:-10])
        refused(*self.scoring(damaged, files), expected=("is damaged", str(damaged)))
        (damaged / "manifest.json").unlink()
        refused(*self.scoring(damaged, files), expected=("not a converted store", str(damaged)))

    def test_a_missing_tokenizer(self, run, refused, copy, files, tmp_path) -> None:
        for file in copy.glob("tokenizer*"):
            file.unlink()
        status, _, err = run("convert", copy, tmp_path / "store")
        assert status == 0
        assert err.strip().endswith("has no tokenizer: the store will take token ids only")
        for command in (
            self.scoring(tmp_path / "store", files),
            ("logits", "--model", tmp_path / "store", "--text", "A"),
        ):
            refused(*command, expected=("has no tokenizer", str(copy)))

    def test_an_unreadable_tokenizer(self, refused, copy, files) -> None:
        (copy / "tokenizer.json").write_text("{}")
        refused(*self.scoring(copy, files), expected=("tokenizer", "cannot be loaded"))

    @pytest.mark.parametrize("command", ["eval", "logits", "export", "plan"])
    @pytest.mark.parametrize("plan", ["0-3 {1", "", "0 x 4", "{}"])
    def test_a_plan_that_does_not_parse(self, run, store, tmp_path, command, plan) -> None:
        where = tmp_path / "never made"
        arguments = {
            # Told before the model is looked for.
            "eval": ("--model", "no/such/folder", "--tasks", "arc_challenge", "--plan", plan),
            "logits": ("--model", "no/such/folder", "--text", "A", "--plan", plan),
            "export": (store, where, "--plan", plan),
            "plan": (plan, "--layers", 5),
        }[command]
        status, out, err = run(command, *arguments)
        assert (status, out) == (2, "")
        assert "Traceback" not in err
        first, *pointing = err.splitlines()
        assert first.startswith("jaxpaint: error: plan, column ")
        assert "expected" in first
        if plan:
            text, caret = pointing
            assert plan in text
            assert caret.strip() == "^"
            assert caret.index("^") - text.index(plan) == int(first.split("column ")[1].split(":")[0]) - 1
        assert not where.exists()

    @pytest.mark.parametrize("plan", ["0-5", "0 {1 17}", "99"])
    def test_a_layer_the_model_lacks(self, refused, store, files, tmp_path, plan) -> None:
        count = f"the model has {NUM_LAYERS} layers"
        layer = plan.strip("}").replace("-", " ").split()[-1]
        for command in (self.scoring(store, files), ("logits", "--model", store, "--text", "A")):
            refused(*command, "--plan", plan, expected=(f"layer {layer}", count))
        refused("export", store, tmp_path / "short", "--plan", plan, expected=(f"layer {layer}", count))

    def test_an_unknown_task(self, refused, store) -> None:
        refused(
            *("eval", "--model", store, "--tasks", "lambada_opena"),
            expected=("unknown task 'lambada_opena'", "near names:", "lambada_openai"),
        )
        refused("eval", "--model", store, "--tasks", ",", expected=("no tasks given",))

    def test_a_dataset_without_a_network(self, store, tmp_path) -> None:
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
    def test_weights_that_are_not_finite_give_no_score(self, refused, copy, files, tmp_path, value) -> None:
        tensors = load_file(copy / "model.safetensors")
        tensors["model.layers.2.mlp.up_proj.weight"][3, 4] = value
        save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
        output = tmp_path / "results.json"
        expected = ("NaN or infinite logits under plan",)
        refused(*self.scoring(copy, files), "--output", output, expected=(*expected, "0-4", "no score was made"))
        refused("logits", "--model", copy, "--text", "She put the kettle", expected=expected)
        assert not output.exists()

    def test_data(self, refused, store, files, tmp_path) -> None:
        arc, odd = files / "arc_challenge.jsonl", tmp_path / "odd.jsonl"
        odd.write_text('{"other": "thing"}\n')
        (tmp_path / "prose.jsonl").write_text("Once upon a time\n")
        (tmp_path / "table.csv").write_text("a\n1\n")
        for given, expected in (
            ("arc_challenge", ("expected TASK=FILE",)),
            (f"arc_challenge={tmp_path}/absent.jsonl", ("there is no file", "absent.jsonl")),
            (f"arc_challenge={tmp_path}/table.csv", ("unknown kind of file '.csv'",)),
            (f"arc_challenge={tmp_path}/prose.jsonl", ("cannot read", "prose.jsonl")),
            (f"arc_challenge={odd}", ("'arc_challenge' cannot use", "columns: other")),
            (f"arc_challenge:dev={arc}", ("has no split 'dev'", "'test'")),
            (f"hellaswag={arc}", ("'hellaswag' is not among the tasks asked for",)),
        ):
            refused("eval", "--model", store, "--tasks", "arc_challenge", "--data", given, expected=expected)
        refused(*self.scoring(store, files), "--data", f"arc_challenge={arc}", expected=("twice",))
        refused(*self.scoring(store, files), "--num-fewshot", 2, expected=("--data arc_challenge:train=FILE",))

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
            (["--seed", 3], ("--seed", "--strategy")),
            (["--plan", "0", "--start", 0, "--times", 2], ("--start, --times", "--strategy")),
            (["--limit", 0], ("limit is 0",)),
            (["--num-fewshot", -1], ("num_fewshot is -1",)),
            (["--batch-tokens", 0], ("--batch-tokens is 0",)),
            (["--log-samples"], ("--log-samples needs --output",)),
            (["--tensor-parallel", 0], ("groups of 0",)),
            (["--limit", "many"], ("--limit", "'many'", "jaxpaint eval --help")),
            (["--dtype", "int8"], ("--dtype", "'int8'", "bfloat16")),
            (["--bos", "maybe"], ("--bos", "'maybe'", "auto")),
            (["--nonsense"], ("unrecognized arguments: --nonsense",)),
        ],
    )
    def test_options(self, refused, store, files, options, expected) -> None:
        refused(*self.scoring(store, files), *options, expected=expected)

    def test_arguments_that_are_missing(self, refused) -> None:
        refused(expected=("COMMAND", "--help"))
        refused("paint", expected=("'paint'", "convert", "--help"))
        refused("eval", "--tasks", "arc_challenge", expected=("--model",))
        refused("eval", "--model", "m", expected=("--tasks",))
        refused("convert", "only-one", expected=("DST",))
        refused("export", "store", "short", expected=("--plan",))
        refused("plan", "0", expected=("--layers",))

    def test_an_output_that_cannot_be_written_is_told_first(self, refused, files, tmp_path) -> None:
        (tmp_path / "file").write_text("kept")
        for output in (tmp_path / "absent" / "results.json", tmp_path / "file" / "results.json", tmp_path):
            # Before the model is looked for.
            refused(*self.scoring("no/such/folder", files), "--output", output, expected=("--output", str(output)))
        assert (tmp_path / "file").read_text() == "kept"

    def test_a_destination_that_cannot_be_made(self, refused, folder, store, tmp_path) -> None:
        (tmp_path / "file").write_text("kept")
        refused("convert", folder, tmp_path / "file" / "store", expected=("cannot write", "file"))
        refused("export", store, tmp_path / "file" / "short", "--plan", "0", expected=("cannot write", "file"))

    def test_generative_tasks(self, refused, store, tmp_path) -> None:
        data = tmp_path / "gsm8k.jsonl"
        data.write_text(json.dumps({"question": "What is 1 and 1?", "answer": "2\n#### 2"}) + "\n")
        refused(
            *("eval", "--model", store, "--tasks", "gsm8k", "--num-fewshot", 0, "--data", f"gsm8k={data}"),
            expected=("does not generate", "gsm8k"),
        )

    @pytest.mark.parametrize("unbuffered", ["", "1"])
    def test_a_reader_that_has_seen_enough(self, unbuffered) -> None:
        code = "import sys; from jaxpaint.cli import main; sys.exit(main(['plan', '0-31', '--layers', '32']))"
        read, write = os.pipe()
        os.close(read)
        with contextlib.closing(os.fdopen(write, "w")) as closed:
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=Path(__file__).parents[1],
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                stdout=closed,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
            )
        assert (done.returncode, done.stderr) == (0, "")
