"""jaxpaint eval --output-path and its like: lm-eval's own files, and what its other loggers are given."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from tests.helpers.cli_fixtures import scoring

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def asked(store, files):
    return (*scoring(store, files), "--dtype", "float32", "--limit", 3)


def test_the_files_are_lm_evals(run, asked, store, tmp_path) -> None:
    told = run(*asked, "--log-samples", "--output-path", tmp_path / "out", "--output", tmp_path / "own.json")
    assert told[0] == 0, told[2]
    (folder,) = (tmp_path / "out").iterdir()
    (results,) = folder.glob("results_*.json")
    (samples,) = folder.glob("samples_arc_challenge_*.jsonl")
    assert f"wrote {results} and the samples beside it" in told[2]
    found, own = json.loads(results.read_text()), json.loads((tmp_path / "own.json").read_text())
    assert found["results"] == own["results"]
    assert "samples" not in found
    assert (found["model_source"], found["model_name"]) == ("jaxpaint", str(store))
    assert found["task_hashes"].keys() == {"arc_challenge"}
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert [row["doc_id"] for row in rows] == [0, 1, 2]
    assert [row["acc"] for row in rows] == [each["acc"] for each in own["samples"]["arc_challenge"]]
    # As datasets reads them: texts, arguments by name.
    assert rows[0]["arguments"]["gen_args_0"]["arg_1"].strip()


def test_only_predicted(run, asked, tmp_path) -> None:
    status, out, err = run(
        *asked, "--predict-only", "--output_path", tmp_path, "--write_out", "--show_config", "--json"
    )
    assert status == 0, err
    document = json.loads(out)
    assert not [key for key in document["results"]["arc_challenge"] if key.startswith("acc")]
    assert len(document["samples"]["arc_challenge"]) == 3
    assert "context prompt (starting on next line)" in err
    assert "Which is number 0?" in err
    shown = next(json.loads(line) for line in err.splitlines() if line.startswith("{"))
    assert shown == {name: value for name, value in document.items() if name != "samples"}
    (samples,) = tmp_path.rglob("samples_*.jsonl")
    assert len(samples.read_text().splitlines()) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_a_tracker_gets_the_results(run, asked, monkeypatch, fails) -> None:
    import lm_eval.loggers

    seen: list[object] = []

    class Logger:
        def __init__(self, given) -> None:
            seen.append(given)

        def post_init(self, results) -> None:
            if fails:
                raise ConnectionError("no network")
            seen.append(results["results"])

        def log_eval_result(self) -> None:
            seen.append("results")

        def log_eval_samples(self, samples) -> None:
            seen.append(len(samples["arc_challenge"]))

        def finish(self) -> None:
            seen.append("end")

    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(__spec__=SimpleNamespace()))
    monkeypatch.setattr(lm_eval.loggers, "TrackioLogger", Logger)
    status, out, err = run(*asked, "--trackio-args", "project=plans,step=3", "--log-samples", "--json")
    assert status == 0
    if fails:
        assert "Logger failed: no network" in err
        assert seen == [{"project": "plans", "step": 3}]
    else:
        assert seen == [{"project": "plans", "step": 3}, json.loads(out)["results"], "results", 3, "end"]


def _logged(folder: Path) -> Iterator[Any]:
    """The values in TensorBoard's files: records of a length, a checksum, an event and one more checksum."""
    for file in folder.iterdir():
        content = file.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            yield from Event.FromString(content[12 : 12 + length]).summary.value
            content = content[16 + length :]


def test_a_run_of_tensorboards(run, asked, tmp_path) -> None:
    status, out, err = run(*asked, "--tensorboard-args", f"logdir={tmp_path / 'skip'}", "--log-samples", "--json")
    assert status == 0, err
    values = list(_logged(tmp_path / "skip"))
    results = json.loads(out)
    scalars = {value.tag: value.simple_value for value in values if value.WhichOneof("value") == "simple_value"}
    expected = results["results"]["arc_challenge"]
    for name in ("acc", "acc_norm"):
        assert scalars[f"arc_challenge/{name}"] == pytest.approx(expected[f"{name},none"], abs=1e-6)
    settings = b"".join(value.metadata.plugin_data.content for value in values)
    assert results["config"]["plan"].encode() in settings
    texts = [value.tensor.string_val[0].decode() for value in values if value.tag.startswith("arc_challenge/none")]
    assert ["Which is number" in text for text in texts] == [True] * 3


def test_mistakes_are_told_before_the_work(refused, asked, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for words, expected in (
        (("--log-samples",), "--log-samples needs --output FILE or --output-path DIR"),
        (("--predict-only",), "--predict-only needs --output FILE or --output-path DIR"),
        (("--output-path", tmp_path / "file"), "is a file; give a folder"),
        (("--hf-hub-log-args", "push_results_to_hub=True"), "give their folder by --output-path"),
        (("--hf-hub-log-args", "colour=red", "--output-path", tmp_path), "--hf-hub-log-args: "),
        (("--wandb-args", "project"), "--wandb-args"),
        (("--wandb_args", "project=x"), "needs the package wandb: pip install wandb"),
    ):
        refused(*asked, *words, expected=(expected,))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
