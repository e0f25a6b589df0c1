"""Scores on several devices equal those on one. Devices are simulated, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import jax
import numpy as np
from jax.sharding import NamedSharding
from flax import nnx, traverse_util
from jaxpaint.engine.model import Model, from_parameters
from jaxpaint.engine.random_weights import random_model
from jaxpaint.models.llama import LlamaConfig
from jaxpaint.engine.packing import Request
from jaxpaint.plans.plan import Plan
from jaxpaint.engine.score import score
from jaxpaint.models.sharding import device_mesh, parameter_sharding

config = LlamaConfig("llama", 96, 32, 64, 6, 4, 2, 8, 64, 1e-5, 1e4)
one = random_model(config, dtype="float32")
rng = np.random.default_rng(0)
texts = [list(rng.integers(0, 96, rng.integers(4, 33))) for _ in range(40)]
requests = [Request.of(text[:-3], text[-3:], 64) for text in texts]
plans = [Plan.parse(text) for text in ("0-5", "0 {1-4}*2 5", "0 sum{(1 2) (3 4)} 5", "0 {1@0.5 (2 {3 4})}@0.75 5")]
expected = [score(one, requests, plan).loglikelihoods for plan in plans]
flat = traverse_util.flatten_dict(nnx.to_pure_dict(one.state), sep="/")
for tensor_parallel in (1, 2, 4):
    mesh = device_mesh(tensor_parallel)
    assert dict(mesh.shape) == {"data": 4 // tensor_parallel, "model": tensor_parallel}
    place = parameter_sharding(mesh)
    spread = {name: jax.device_put(value, place(name, value.shape)) for name, value in flat.items()}
    split = sum(len({str(shard.index) for shard in value.addressable_shards}) > 1 for value in spread.values())
    assert split == (0 if tensor_parallel == 1 else 9), split
    many = from_parameters(config, traverse_util.unflatten_dict(spread, sep="/"), mesh=mesh)
    for plan, right in zip(plans, expected, strict=True):
        difference = right - score(many, requests, plan, batch_tokens=512).loglikelihoods
        assert np.abs(difference).max() < 1e-4, (tensor_parallel, plan, difference)
    print("equal", tensor_parallel)
"""


@pytest.mark.slow
def test_scores_on_four_devices_equal_those_on_one():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["equal", "1", "equal", "2", "equal", "4"], done.stderr


def test_devices_that_do_not_divide_are_refused():
    from jaxpaint.base.errors import UserError
    from jaxpaint.models.sharding import device_mesh

    with pytest.raises(UserError, match="cannot be split into groups of 7"):
        device_mesh(7)
