"""jaxpaint heal: a store that every command takes, what it says of itself, and mistakes in a line."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import jaxpaint as jp
from jaxpaint.models.checkpoint import read_manifest, read_tensor
from tests.helpers.cli_fixtures import NOUNS
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_glue import tiny_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
PLAN = "0 1 1 4"


@pytest.fixture(scope="module")
def calibration(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("".join(f"{NOUNS[n % 8]} and {NOUNS[n % 7]} number {n} of the harbour\n" for n in range(48)))
    return file


@pytest.fixture
def command(store, calibration) -> list[Any]:
    how = ("--steps", 6, "--batch-size", 4, "--length", 32, "--adapters", 4, "--learning-rate", 0.02)
    return ["heal", "--model", store, "--dtype", "float32", "--plan", PLAN, "--calibration", calibration, *how]


def logprobs(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """transformers' log-likelihoods of each next token."""
    network = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        found = torch.log_softmax(network(torch.tensor(tokens)).logits.double(), -1)
    return np.take_along_axis(found.numpy()[:, :-1], tokens[:, 1:, None], -1)[..., 0]


@pytest.mark.slow
def test_a_healed_plan_is_exported_and_transformers_says_the_same(run, command, store, files, tmp_path) -> None:
    healed, out = tmp_path / "healed", tmp_path / "out"
    data = ("--tasks", "arc_challenge", "--data", f"arc_challenge={files / 'arc_challenge.jsonl'}")
    status, text, err = run(*command, "--output", healed, *data)
    assert status == 0, err
    plan, *table, how, ending, export = text.splitlines()
    assert plan == "plan 0 1 1 4 (cost 4, depth 4 layers)"
    assert [line.split("  ")[0] for line in table] == [
        *("held out", "divergence", "perplexity", "arc_challenge acc_norm")
    ]
    assert how.startswith("adapters of rank 4 on the kernels of 3 layers, 6 steps of 4 rows of 32 tokens")
    assert f"--model {healed}" in ending
    assert export == f"export it: jaxpaint export {healed} healed-short --plan '0 1 1 4'"
    assert [file.name for file in tmp_path.iterdir()] == ["healed"]

    before, after = read_manifest(store), read_manifest(healed)
    assert after["fingerprint"] != before["fingerprint"]
    (record,) = after["healed"]
    assert (record["plan"], record["from"]) == ("0 1 1 4", before["fingerprint"])
    assert record["divergence"]["after"] < record["divergence"]["before"]
    for name in before["tensors"]:
        same = read_tensor(healed, name) == read_tensor(store, name)
        if not name.endswith("kernel") or not name.startswith("blocks/"):
            assert same.all(), name
        else:
            assert same[[2, 3]].all(), name
            assert not same[[0, 1, 4]].all(axis=(1, 2)).any(), name

    assert run("export", healed, out, "--plan", PLAN)[0] == 0
    card = (out / "README.md").read_text()
    assert "not trained further" not in card
    assert "healed" in card
    tokens = np.random.default_rng(0).integers(0, 300, (3, 20))
    model = jp.load(healed, dtype="float32")
    assert str(model.tokenizer.decode([5])) == str(jp.load(store).tokenizer.decode([5]))
    ours = np.asarray(model.logits(tokens, PLAN), np.float64)
    ours = ours - np.log(np.exp(ours).sum(axis=-1, keepdims=True))
    ours = np.take_along_axis(ours[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(logprobs(out, tokens), ours, rtol=0, atol=2e-5)
    assert np.abs(ours - logprobs_of_plan(store, tokens)).max() > 1e-2, "healing changed what it says"

    assert run(*command, "--model", healed, "--output", tmp_path / "twice")[0] == 0
    assert [each["from"] for each in read_manifest(tmp_path / "twice")["healed"]] == [
        *(before["fingerprint"], after["fingerprint"])
    ]


def logprobs_of_plan(store: Path, tokens: np.ndarray) -> np.ndarray:
    found = np.asarray(jp.load(store, dtype="float32").logits(tokens, PLAN), np.float64)
    found = found - np.log(np.exp(found).sum(axis=-1, keepdims=True))
    return np.take_along_axis(found[:, :-1], tokens[:, 1:, None], -1)[..., 0]


@pytest.mark.slow
def test_a_bfloat16_store_stays_one_and_unrun_halves_keep_their_bits(run, command, tmp_path) -> None:
    folder = make_folder(tmp_path / "model")
    store, healed = tmp_path / "store", tmp_path / "healed"
    assert run("convert", folder, store, "--dtype", "bfloat16")[0] == 0
    plan = ["--plan", "0 1a 2m 4", "--adapters", 0, "--learning-rate", 0.003, "--json"]
    status, text, _ = run(*command, *plan, "--model", store, "--output", healed)
    assert status == 0
    found = json.loads(text)
    assert [each["name"] for each in found["measures"]] == ["divergence", "perplexity"]
    assert found["measures"][0]["change"]["value"] < 0
    assert {tensor["dtype"] for tensor in read_manifest(healed)["tensors"].values()} == {"bfloat16"}
    changed = set()
    for name in read_manifest(healed)["tensors"]:
        differs = read_tensor(healed, name) != read_tensor(store, name)
        if name.startswith("blocks/"):
            part = "attention" if "attn" in name or "input_layernorm" in name else "mlp"
            changed |= {(part, int(layer)) for layer in np.flatnonzero(differs.reshape(5, -1).any(axis=1))}
        else:
            assert not differs.any(), name
    assert changed == {*(("attention", layer) for layer in (0, 1, 4)), *(("mlp", layer) for layer in (0, 2, 4))}
    # What is told is of what was stored.
    model = jp.load(healed, dtype="float32")
    again = run(*command, *plan, "--steps", 1, "--learning-rate", 1e-12, "--model", store, "--output", tmp_path / "as")
    told = json.loads(again[1])["measures"]
    assert model.manifest["healed"][0]["divergence"]["after"] == found["measures"][0]["after"]["value"]
    assert told[0]["after"]["value"] == pytest.approx(told[0]["before"]["value"], rel=1e-6)


def test_a_dry_run_says_what_it_would_do_and_does_nothing(run, command, tmp_path) -> None:
    status, text, _ = run(*command, "--output", tmp_path / "healed", "--dry-run")
    assert status == 0
    plan, trained, texts, steps, memory, output = text.splitlines()
    assert plan == "plan 0 1 1 4 (cost 4, depth 4 layers)"
    per_layer = 4 * (4 * 32 + 32 + 16 + 16 + 32 + 3 * (32 + 48))
    assert trained.endswith(f"of 3 layers: {3 * per_layer / 1e6:.2f} million parameters")
    assert texts.startswith("texts: 43 to train on (")
    assert "5 held out (" in texts
    assert steps.startswith("steps: 6 of 4 rows, ")
    assert memory.startswith("memory: about 0.")
    assert output.startswith(f"output: {tmp_path / 'healed'}")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_the_same(run, command, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jaxpaint.training.trainer.WINDOW", 1)
    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    from jaxpaint.training import trainer

    steps, read = [], trainer._read

    def interrupted(losses: list, done: int, progress: Any) -> int:
        if losses:
            steps.append(done + len(losses))
            if len(steps) == 3:
                raise KeyboardInterrupt
        return read(losses, done, progress)

    monkeypatch.setattr(trainer, "_read", interrupted)
    one, other = tmp_path / "one", tmp_path / "other"
    status, _, err = run(*command, "--output", one)
    assert status == 130
    assert f"interrupted; {tmp_path / 'one.checkpoints'} keeps what is done, and the same command continues" in err
    assert run(*command, "--output", one)[0] == 0
    assert steps == [1, 2, 3, 3, 4, 5, 6], "the first steps are not done again"
    assert [file.name for file in tmp_path.iterdir()] == ["one"]
    assert run(*command, "--output", other)[0] == 0
    assert read_manifest(one)["fingerprint"] == read_manifest(other)["fingerprint"]


@pytest.mark.slow
def test_a_run_that_ends_before_anything_is_kept_leaves_nothing(run, command, tmp_path, monkeypatch) -> None:
    def interrupted(*_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxpaint.training.trainer._read", interrupted)
    status, _, err = run(*command, "--output", tmp_path / "healed")
    assert (status, err.splitlines()[-1]) == (130, "jaxpaint: interrupted")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_cannot_be_stored_is_not_lost(run, command, tmp_path, monkeypatch) -> None:
    from jaxpaint.training.heal import Healed

    monkeypatch.setattr("jaxpaint.training.trainer.CHECKPOINT_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(Healed, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        status, _, err = run(*command, "--output", tmp_path / "healed")
    assert status == 2
    assert "No space left on device" in err
    assert "keeps what is done, and the same command continues" in err
    assert [file.name for file in tmp_path.iterdir()] == ["healed.checkpoints"]
    assert run(*command, "--output", tmp_path / "healed")[0] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["healed"]


def test_two_processes_do_not_heal_the_same(refused, command, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("jaxpaint.training.checkpoints.claimed", lambda folder: nullcontext(False))
    refused(*command, "--output", tmp_path / "healed", expected=("another process is healing this",))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--plan", "0-5"], "5 layers"),
        (["--calibration", "NOWHERE"], "cannot read"),
        (["--calibration", "FEW"], "5 calibration texts leave 4 to train on and 1 held out; each needs 4"),
        (["--steps", "0"], "--steps is 0; expected 1 to 1000000"),
        (["--adapters", "-1"], "--adapters is -1; expected 0 to 4096"),
        (["--batch-size", "0"], "--batch-size is 0"),
        (["--held-out", "1"], "--held-out is 1.0; give a share"),
        (["--warmup", "1"], "--warmup is 1.0; give a share"),
        (["--temperature", "0"], "--temperature is 0.0"),
        (["--learning-rate", "0"], "--learning-rate is 0.0; give a number above 0"),
        (["--training-seed", "-1"], "--training-seed is -1"),
        (["--length", "65"], "--length is 65; expected at most the model's 64"),
        (["--weights", "int8"], "int8 weights cannot be fine-tuned"),
        (["--output", "THERE"], "exists already"),
        (["--data", "arc_challenge=FEW"], "--data is of --tasks, and none are named"),
        (["--tasks", "nothing_like_it"], "nothing_like_it"),
    ],
)
def test_mistakes_are_one_line(refused, command, tmp_path, options, told) -> None:
    names = {name: tmp_path / name.lower() for name in ("NOWHERE", "FEW", "THERE")}
    names["FEW"].write_text("one\ntwo\nthree\nfour\nfive\n")
    names["THERE"].mkdir()
    (names["THERE"] / "file").write_text("")
    options = [str(names.get(option, option)) for option in options]
    held = [] if "--held-out" in options or str(names["FEW"]) not in options else ["--held-out", "0.2"]
    refused(*command, "--output", tmp_path / "healed", *options, *held, expected=(told,))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["few", "there"]


def test_an_encoder_and_missing_texts_are_told(refused, store, calibration, tmp_path) -> None:
    base = ("heal", "--plan", PLAN, "--output", tmp_path / "healed")
    refused(*base, "--model", store, expected=("healing needs texts, and none are given; give --calibration FILE",))
    without = ("heal", "--model", store, "--calibration", calibration, "--output", tmp_path / "healed")
    refused(*without, expected=("healing needs a plan, and none is given",))
    encoder = tiny_store(tmp_path / "bert")
    refused(*base, "--model", encoder, "--calibration", calibration, expected=("healing needs a decoder",))
