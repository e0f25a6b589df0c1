"""Kernels in the host's memory: what is computed is the same to the bit. A CPU's device has such a memory too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxpaint.engine.layers import are_offloaded
from jaxpaint.engine.model import Model, load
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score_plans
from jaxpaint.generation import Prompt, generate
from jaxpaint.plans.plan import Plan

PLANS = [Plan.parse(text) for text in ("0-4", "0 {1 2 3}*2 4", "0 {(1 2) 3} 4", "0 1a 2m 4")]
TOKENS = np.random.default_rng(0).integers(5, 250, (4, 12))


@pytest.fixture(scope="module", params=["float", "int8"])
def models(request: pytest.FixtureRequest, store: Path) -> tuple[Model, Model]:
    """On the device, and offloaded."""
    here, there = (load(store, dtype="float32", weights=request.param, offload=offload) for offload in (False, True))
    assert not are_offloaded(here.state)
    return here, there


@pytest.mark.few(1)
def test_kernels_alone_are_there(models: tuple[Model, Model]) -> None:
    for leaf in jax.tree.leaves(models[1].state):
        assert (leaf.sharding.memory_kind == "pinned_host") == (leaf.ndim > 2)
    assert are_offloaded(models[1].state["blocks"])
    assert not are_offloaded(models[1].state["embed"])


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.few(1)
def test_logits(models: tuple[Model, Model], plan: Plan, static: bool) -> None:
    here, there = (np.asarray(model.logits(TOKENS, plan, static=static)) for model in models)
    np.testing.assert_array_equal(there, here)
    assert np.ptp(here) > 0.1


@pytest.mark.slow
def test_scores_and_states(models: tuple[Model, Model]) -> None:
    requests = [Request.of(row[:-3].tolist(), row[-3:].tolist(), 64) for row in TOKENS]
    here, there = (score_plans(model, requests, PLANS).loglikelihoods for model in models)
    np.testing.assert_array_equal(there, here)
    here, there = (np.asarray(model.hidden_states(TOKENS, PLANS[1])) for model in models)
    np.testing.assert_array_equal(there, here)


@pytest.mark.slow
def test_texts(models: tuple[Model, Model]) -> None:
    prompts = [Prompt(tuple(row[:6].tolist()), 5) for row in TOKENS]
    here, there = (
        {(found.plan, found.prompt): found.tokens for found in generate(model, prompts, PLANS)} for model in models
    )
    assert there == here
    assert len(here) == len(prompts) * len(PLANS)


@pytest.mark.slow
def test_from_the_command_line(run, store: Path) -> None:
    command = "logits", "--model", store, "--text", "the river", "--plan", "0 {1-3} 4"
    here, there = run(*command), run(*command, "--offload")
    assert there == here
    assert here[0] == 0


SEVERAL_DEVICES = """
import sys
import numpy as np
from jaxpaint.engine.model import load
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score_plans
from jaxpaint.models.sharding import device_mesh
from tests.engine.test_offload import PLANS, TOKENS

requests = [Request.of(row[:-3].tolist(), row[-3:].tolist(), 64) for row in TOKENS]
expected = score_plans(load(sys.argv[1], dtype="float32"), requests, PLANS).loglikelihoods
for split in ((4, 1), (2, 2), (1, 4)):
    model = load(sys.argv[1], dtype="float32", mesh=device_mesh(*split), offload=True)
    np.testing.assert_allclose(score_plans(model, requests, PLANS).loglikelihoods, expected, atol=1e-4)
"""


@pytest.mark.slow
def test_over_several_devices(store: Path) -> None:
    flags = "--xla_force_host_platform_device_count=4"
    environment = {
        **os.environ,
        "XLA_FLAGS": flags,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-c", SEVERAL_DEVICES, str(store)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
