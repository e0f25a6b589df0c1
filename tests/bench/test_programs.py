"""Every program of every family is lowered for accelerators that are not here; their compilers aren't needed for it."""

from __future__ import annotations

import subprocess
import sys
from os import environ

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from jaxpaint.base.precision import Weights
from jaxpaint.base.target import compiling_for, platform
from jaxpaint.bench.programs import What, Work, lowered
from jaxpaint.bench.shapes import config_of
from jaxpaint.models.sharding import DATA, MODEL
from jaxpaint.plans.plan import Plan

ONE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
PLANS = ("0-23", "0-3 {4 5 6}*2 7-23")


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
@pytest.mark.parametrize("what", ["score", "static", "decode"])
@pytest.mark.parametrize("shape", ["llama2-7b", "mistral-7b", "pythia-6.9b", "bert-large"])
def test_programs_lower(shape: str, what: What, kind: str) -> None:
    config = config_of(shape)
    if what == "decode" and not config.capabilities.decoder:
        return
    for plan in PLANS:
        text = lowered(config, Work(what, Plan.parse(plan), 4, 256), ONE, kind).as_text()
        assert "stablehlo.dot_general" in text
        if what == "decode":  # what keeps XLA from copying whole stacks of kernels
            assert "stablehlo.optimization_barrier" in text


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["llama2-7b", "pythia-6.9b", "bert-large"])
def test_programs_of_weights_in_integers_lower(shape: str, weights: Weights) -> None:
    config = config_of(shape)
    for what in ("score", "static", "decode") if config.capabilities.decoder else ("score", "static"):
        text = lowered(config, Work(what, Plan.parse(PLANS[1]), 4, 256, weights), ONE, "tpu").as_text()  # type: ignore[arg-type]
        assert f"x{weights.replace('int', 'i')}>" in text


def test_the_target_is_within_its_context_alone() -> None:
    before = platform()
    with compiling_for("tpu"):
        assert platform() == "tpu"
        with compiling_for("gpu"):
            assert platform() == "gpu"
        assert platform() == "tpu"
    assert platform() == before


def test_heads_that_are_split_over_devices_stay_split() -> None:
    """Compiled for four CPU devices with the attention of accelerators: no queries, keys or values are gathered."""
    code = """
import jax, numpy as np, sys
from jax.sharding import AxisType, Mesh
from jaxpaint.bench import programs
from jaxpaint.bench.hlo import Module
from jaxpaint.bench.shapes import config_of
from jaxpaint.plans.plan import Plan
mesh = Mesh(np.array(jax.devices()).reshape(1, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
config, work = config_of("llama2-small"), programs.Work("score", Plan.parse("0-7"), 2, 128)
for implementation in ("matmul", "einsum"):
    programs.attention_implementation = lambda *_: implementation
    module = Module.parse(programs.lowered(config, work, mesh, "cpu", "float32").compile().as_text())
    found = module.collectives(module.layer_loop).items()
    print(implementation, *sorted({(name, count) for (name, _), count in found}))
"""
    environment = {**environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    of_cpus, of_accelerators = done.stdout.splitlines()
    assert "all-gather" in of_cpus
    assert of_accelerators == "einsum ('all-reduce', 2)"
