"""Every program of every family is lowered for accelerators that are not here; their compilers aren't needed for it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from os import environ
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jaxpaint.analysis import states
from jaxpaint.base.precision import Weights
from jaxpaint.base.target import compiling_for, platform
from jaxpaint.bench.programs import What, Work, abstract, lowered
from jaxpaint.bench.shapes import config_of
from jaxpaint.engine import head, masked, walk, whole
from jaxpaint.engine.model import Model
from jaxpaint.engine.program import Program
from jaxpaint.engine.rows import Inputs
from jaxpaint.generation import decode
from jaxpaint.generation.cache import Stored
from jaxpaint.models import with_layers
from jaxpaint.models.sharding import DATA, MODEL
from jaxpaint.plans.plan import Plan

# A kernel asks for the kind of its chip, which a mesh of CPUs' devices does not know.
CHIP = AbstractDevice(device_kind="TPU v5 lite", num_cores=1, platform="tpu")
ONE = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)
MESHES = {"gpu": ONE, "tpu": AbstractMesh((1, 1), (DATA, MODEL), (AxisType.Auto,) * 2, abstract_device=CHIP)}
PLANS = ("0-23", "0-3 {4 5 6}*2 7-23")


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
@pytest.mark.parametrize("what", ["score", "static", "decode"])
@pytest.mark.parametrize("shape", ["llama2-7b", "mistral-7b", "pythia-6.9b", "bert-large"])
@pytest.mark.few(2)
def test_programs_lower(shape: str, what: What, kind: str) -> None:
    config = config_of(shape)
    if what == "decode" and not config.capabilities.decoder:
        return
    for plan in PLANS[: 1 if what == "decode" else 2]:  # which has one executable for both
        text = lowered(config, Work(what, Plan.parse(plan), 4, 256), MESHES[kind], kind).as_text()
        assert "stablehlo.dot_general" in text
        if what == "decode":  # what keeps XLA from copying whole stacks of kernels
            assert "stablehlo.optimization_barrier" in text
        if kind == "gpu" and shape != "bert-large":  # large layers, each compiled by itself
            assert "stablehlo.case" in text
        kernel = kind == "tpu" and what != "decode" and shape != "bert-large"
        assert ("tpu_custom_call" in text) == kernel


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tpu", "gpu"])
@pytest.mark.parametrize("shape", ["qwen3-8b", "olmo2-7b", "phi3-mini", "stablelm-2-1.6b"])
def test_further_families_lower(shape: str, kind: str) -> None:
    """One program each for scoring and generation; the kernel serves heads of 128 numbers."""
    config = config_of(shape)
    for what in ("score", "decode"):
        text = lowered(config, Work(what, Plan.of(range(4)), 4, 256), MESHES[kind], kind).as_text()
        assert "stablehlo.dot_general" in text
        assert ("tpu_custom_call" in text) == (kind == "tpu" and what == "score" and config.head_dim % 128 == 0)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
@pytest.mark.parametrize(
    "shape",
    [
        *("llama2-small", "mistral-7b", "pythia-6.9b", "bert-large"),
        pytest.param("modernbert-base", marks=pytest.mark.slow),
    ],
)
@pytest.mark.few(1)
def test_all_other_programs_lower(shape: str, kind: str) -> None:
    """What scoring, logits, analyses and generation run beside these."""
    config = with_layers(config_of(shape), range(8))
    with compiling_for(kind):
        model = abstract(config, MESHES[kind], jnp.bfloat16)
        for name, text in others(model):
            assert "func.func public @main" in text, name


def others(model: Model) -> Iterator[tuple[str, str]]:
    config, rows, length = model.config, 4, 256

    def array(*sizes: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype, sharding=NamedSharding(model.mesh, PartitionSpec()))

    def low(program: Any, *arguments: Any) -> tuple[str, str]:
        return program.__name__, program.lower(model.graphdef, model.state, *arguments).as_text()

    hidden = array(rows, length, config.hidden_size, dtype=jnp.bfloat16)
    inputs, layout = Inputs(array(rows, length), array(rows), None), (array(rows, length),) * 3
    nested = Program.of(Plan.parse("0 {(1 2) 3}"))
    program = array(*nested.instructions.shape), array()
    yield low(walk._embed_rows, inputs)
    yield low(whole.hidden_states, Plan.parse("0-3 {4 5 6}*2 7"), inputs)
    if not config.capabilities.decoder:
        yield low(whole.pooled, *program, nested.room, inputs)
        yield low(masked._at, hidden, array(rows), array(rows))
        return
    yield low(whole.logits, *program, nested.room, inputs)
    for lookback in (0, 1):
        start, context = jax.eval_shape(
            partial(walk._embed_stream.__wrapped__, model.graphdef, lookback=lookback), model.state, *layout
        )
        yield low(walk._embed_stream, *layout, lookback)
        yield low(walk.segment, *program, nested.room, start, context)
    fitted = {
        "clock": (array(config.hidden_size, 2, dtype=jnp.float32), array(2, dtype=jnp.float32)),
        "ridge_lens": tuple(array(9, *[config.hidden_size] * axes, dtype=jnp.float32) for axes in (2, 1)),
    }
    probes = tuple(states.BY_NAME.values())
    texts = (array(rows, length), array(rows), probes, array(rows, length), fitted)
    yield low(states._step, *program, nested.room, hidden, *texts)
    yield low(states._most_likely, hidden)
    yield low(head._at_scored, 64, None, hidden, array(128), array(128, 4), array())
    heads, chunk = config.num_key_value_heads, (array(1, 64), array(1, 64), array(1, 64), array())
    stored = Stored(*[array(8, heads, 256, config.head_dim, dtype=jnp.bfloat16)] * 2)
    x = array(1, 64, config.hidden_size, dtype=jnp.bfloat16)
    for part in (None, Plan.parse("0-7")):
        yield low(decode.prefill, model.layers, part, *program, nested.room, array(), x, stored, array(), chunk, 64, 0)


@pytest.mark.parametrize("weights", ["int8", "int4"])
@pytest.mark.parametrize("shape", ["llama2-7b", "pythia-6.9b", "bert-large"])
@pytest.mark.few(3)
def test_programs_of_weights_in_integers_lower(shape: str, weights: Weights) -> None:
    config = config_of(shape)
    for what in ("score", "static", "decode") if config.capabilities.decoder else ("score", "static"):
        work = Work(what, Plan.parse(PLANS[1]), 4, 256, weights)  # type: ignore[arg-type]
        text = lowered(config, work, MESHES["tpu"], "tpu").as_text()
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
