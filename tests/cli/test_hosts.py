"""Two processes that compute as one, over loopback: what they score, write and train is what one does alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jaxpaint.base import hosts
from tests.helpers.side_by_side import ROOT, free_port, side_by_side

COMPUTED = """
import json
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from jaxpaint.base.hosts import joined, on_host

store, port, process = sys.argv[2], sys.argv[3], int(sys.argv[4])
with joined(*((f"127.0.0.1:{port}", 2, process) if process >= 0 else (None,))):
    import jax
    from flax import nnx, traverse_util
    import tests.training.test_classifiers as encoders
    from jaxpaint.engine.model import from_parameters, load
    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.score import score
    from jaxpaint.generation import Prompt, generate
    from jaxpaint.models.sharding import device_mesh, parameter_sharding
    from jaxpaint.plans.plan import Plan

    mesh = device_mesh(2)
    model = load(store, dtype="float32", mesh=mesh)
    plan = Plan.parse("0 {1 2}*2 3")
    tokens = np.random.default_rng(0).integers(5, 60, (6, 20))
    requests = [Request.of(row[:-3].tolist(), row[-3:].tolist(), 64) for row in tokens]
    scores = score(model, requests, plan, batch_tokens=64).loglikelihoods
    logits = [on_host(model.logits(tokens, plan, static=static)) for static in (False, True)]
    prompts = [Prompt(tuple(row[:8].tolist()), 6) for row in tokens[:3]]
    texts = sorted((found.prompt, found.tokens) for found in generate(model, prompts, [plan]))

    bert = encoders.tiny_bert()
    place, flat = parameter_sharding(mesh), traverse_util.flatten_dict(nnx.to_pure_dict(bert.state), sep="/")
    spread = {
        name: jax.make_array_from_callback(value.shape, place(name, value.shape), lambda i, v=np.asarray(value): v[i])
        for name, value in flat.items()
    }
    bert = from_parameters(bert.config, traverse_util.unflatten_dict(spread, sep="/"), mesh=mesh)
    encoded, labels = encoders._examples()
    tuned = encoders.tune_encoder(bert, Plan.parse("0 {1-3} 4"), encoded, labels, 2, 0, encoders.SETTINGS)
    numbers = *logits, scores, tuned.logits(encoded)
    print(json.dumps({"texts": texts, "numbers": [np.asarray(each).ravel().tolist() for each in numbers]}))
"""


@pytest.mark.slow
def test_two_processes_compute_what_one_does(store: Path) -> None:
    port = free_port()
    ((status, out, err),) = side_by_side([sys.executable, "-c", COMPUTED, ROOT, store, port, -1], devices=4)
    assert status == 0, err
    alone = json.loads(out.splitlines()[-1])
    for status, out, err in side_by_side(
        *([sys.executable, "-c", COMPUTED, ROOT, store, port, process] for process in range(2)), devices=2
    ):
        assert status == 0, err
        together = json.loads(out.splitlines()[-1])
        assert together["texts"] == alone["texts"]
        assert len(alone["numbers"]) == 4
        for found, expected in zip(together["numbers"], alone["numbers"], strict=True):
            assert found == pytest.approx(expected, abs=1e-5)


def commands(store: Path, *more: object) -> list[list[object]]:
    command = [sys.executable, "-c", "from jaxpaint.cli import script; script()", "logits", "--model", store]
    several = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
    return [[*command, "--text", "w7 w8", *more, *several, "--process-id", process] for process in range(2)]


@pytest.mark.slow
def test_the_first_process_prints(store: Path) -> None:
    (first, second) = side_by_side(*commands(store, "--tensor-parallel", 2, "--json"), devices=1)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert json.loads(first[1])["plan"] == "0-4"  # and nothing of what Gloo says
    assert second[1] == ""


def test_a_mistake_ends_each(store: Path) -> None:
    for status, _, err in side_by_side(*commands(store, "--plan", "99"), devices=1):
        assert status == 2
        assert "jaxpaint: error: the plan uses layer 99" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--process-id", 0], "--num-processes and --process-id need a --coordinator HOST:PORT"),
        (["--coordinator", "nowhere"], "--coordinator is 'nowhere'; expected HOST:PORT"),
        (["--coordinator", "a:1"], "needs --num-processes and --process-id"),
        (["--coordinator", "a:1", "--num-processes", 2, "--process-id", 2], "--process-id is 2; of 2 processes it is"),
    ],
)
def test_numbers_that_cannot_be(refused, store: Path, options: list[object], words: str) -> None:
    refused("logits", "--model", store, "--text", "w7", *options, expected=(words,))


def test_a_first_process_that_does_not_come(run, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "WAIT", 1)
    where = f"127.0.0.1:{free_port()}"
    command = "logits", "--model", store, "--text", "w7", "--coordinator", where, "--num-processes", 2
    status, _, err = run(*command, "--process-id", 1)
    waiting, refusal = err.splitlines()
    assert (status, waiting) == (2, f"jaxpaint: waiting for the other processes at {where}, at most 1 s")
    assert refusal.startswith(f"jaxpaint: error: --coordinator {where}: no first process came in 1 s (")


def test_a_model_is_converted_first(refused, copy: Path) -> None:
    where = "--coordinator", "127.0.0.1:9", "--num-processes", 2, "--process-id", 0
    refused("logits", "--model", copy, "--text", "w7", *where, expected=("first run jaxpaint convert",))
