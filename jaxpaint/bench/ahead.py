"""Programs compiled for devices that are not here, and what their compiler says: memory, copies, collectives, cycles.

Nothing is timed. Cycles are the TPU compiler's own estimate, without collectives and waiting (docs/accelerators.md).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax

from jaxpaint.base.precision import Weights
from jaxpaint.bench.hlo import Module, weight_copies
from jaxpaint.bench.kinds import Kind, Target
from jaxpaint.bench.programs import Work, lowered
from jaxpaint.engine.lanes import layer_steps
from jaxpaint.models import abstract_parameters
from jaxpaint.models.family import Config
from jaxpaint.models.quantised import kernel_bytes
from jaxpaint.models.sharding import lanes, parameter_sharding

LEAST_COPY = 1 << 20  # numbers of a weight worth the name


@dataclass(frozen=True)
class Figures:
    """Of one compiled program, on each chip. Bytes; seconds of a compiler's model where `predicted_seconds` says so.

    `problem` is why it did not compile (None where it did): with too little memory no other figure is known.
    `layer_cycles` are of one run of a layer, `ideal_cycles` what its products would take at the chip's peak. Compilers
    estimate none for Pallas kernels: `kernel_cycles` are what a layer's would take at the peak, a lower bound.
    """

    compile_seconds: float
    problem: str | None = None
    arguments: int = 0
    temporaries: int = 0
    peak: int = 0
    weight_copies: tuple[tuple[str, int], ...] = ()
    gathers_in_loops: int = 0
    collectives: tuple[tuple[str, int, int], ...] = ()  # of a layer: operation, bytes, how often
    group_collectives: tuple[tuple[str, int, int], ...] = ()  # those around a loop over a group's layers
    layer_cycles: int | None = None
    kernel_cycles: float = 0.0
    ideal_cycles: float | None = None
    predicted_seconds: float | None = None


def compiled_figures(
    config: Config, work: Work, target: Target, tensor_parallel: int, dtype: Any, layer_parallel: int = 1
) -> Figures:
    """Compiles the program and reads it. Raises UserError for devices that cannot be."""
    mesh = target.mesh(tensor_parallel, layer_parallel)
    program = lowered(config, work, mesh, target.kind.platform, dtype)
    began = time.perf_counter()
    try:
        done = program.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Figures(time.perf_counter() - began, problem=_of_memory(str(error)))
    seconds = time.perf_counter() - began
    memory, module = done.memory_analysis(), Module.parse(done.as_text())
    loop = _layer_loop(module, work) or module.entry
    outer = module.around(loop)
    shapes = _weights(config, mesh, dtype, work.weights)
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Figures(
        seconds,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        peak=peak,
        weight_copies=tuple((line.name, line.bytes) for line in weight_copies(module, shapes)),
        gathers_in_loops=sum(line.operation == "gather" for line in module.in_loops),
        collectives=_counted(module.collectives(loop)),
        group_collectives=_counted(module.collectives(outer) - module.collectives(loop)) if outer else (),
        **_time(module, config, work, target.kind, mesh),
    )


def _counted(found: Counter[tuple[str, int]]) -> tuple[tuple[str, int, int], ...]:
    return tuple((name, size, count) for (name, size), count in found.items())


def _of_memory(message: str) -> str:
    """The line of a compiler's message that says how much memory it lacks."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    said = [line for line in lines if "hbm" in line.lower() and ("exceed" in line.lower() or "used" in line.lower())]
    return (said or lines)[0]


def _weights(config: Config, mesh: Any, dtype: Any, weights: Weights) -> set[tuple[int, ...]]:
    """Shapes of the larger weights on one chip: of a layer, and of the whole stack."""
    place = parameter_sharding(mesh)
    # Of a quantised kernel also what it is in bfloat16: that, too, should not be written.
    kept = [abstract_parameters(config, dtype, each).items() for each in ("float", weights)]
    stacks = [(name, leaf.shape) for named in kept for name, leaf in named if name.startswith("blocks/")]
    shapes = [place(name, shape).shard_shape(shape) for name, shape in stacks]
    large = [shape for shape in shapes if math.prod(shape[1:]) >= LEAST_COPY]
    return {shape[1:] for shape in large} | set(large)


def _layer_loop(module: Module, work: Work) -> str | None:
    return module.nested_layer_loop if work.what == "decode" else module.layer_loop


def _time(module: Module, config: Config, work: Work, kind: Kind, mesh: Any) -> dict[str, Any]:
    loop = _layer_loop(module, work)
    if kind.clock is None or loop is None:
        return {}
    layer, chips = module.cycles(loop), mesh.size // lanes(mesh)  # those that share a layer
    ideal = layer_flops(config, work) / chips / kind.flops * kind.clock
    if work.what == "decode":  # weights and caches are read once a step
        ideal = max(ideal, layer_bytes(config, work) / chips / kind.bandwidth * kind.clock)
    at_peak = kind.clock / kind.flops
    kernel = module.kernel_flops(loop) * at_peak
    whole = module.cycles() + module.kernel_flops() * at_peak
    if module.loops[loop] is None:
        whole += (layer_steps(work.plan, mesh) - 1) * (layer + kernel)
    found = {"layer_cycles": layer, "kernel_cycles": kernel, "ideal_cycles": ideal}
    return {**found, "predicted_seconds": whole / kind.clock}


def layer_kernels(config: Config) -> list[tuple[int, ...]]:
    """Shapes of the kernels of one layer."""
    named = abstract_parameters(config, "bfloat16").items()
    return [leaf.shape[1:] for name, leaf in named if name.startswith("blocks/") and leaf.ndim > 2]


def layer_parameters(config: Config) -> int:
    """Numbers in the kernels of one layer."""
    return sum(map(math.prod, layer_kernels(config)))


def layer_flops(config: Config, work: Work) -> float:
    """Operations of one layer: its products, and attention to half of the row (decoders) or all of it."""
    tokens = work.rows * (1 if work.what == "decode" else work.length)
    seen = work.length / 2 if config.capabilities.decoder and work.what != "decode" else work.length
    width = config.num_attention_heads * config.head_dim
    experts = getattr(getattr(config, "traits", None), "experts", None)
    share = experts.chosen / experts.count if experts else 1.0  # of the experts, those that a token goes through
    numbers = sum(math.prod(shape) * (share if len(shape) > 2 else 1.0) for shape in layer_kernels(config))
    return 2.0 * tokens * numbers + 4.0 * tokens * seen * width


def layer_bytes(config: Config, work: Work) -> float:
    """What one layer reads for a token of each row: its kernels as they are kept, keys and values in bfloat16."""
    cached = 2 * work.rows * work.length * config.num_key_value_heads * config.head_dim
    return 2.0 * cached + sum(kernel_bytes(shape, work.weights) for shape in layer_kernels(config))
