"""How much work is done at a time, and in how much memory: one table for CPUs, one for accelerators."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaint.base.hosts import are_several
from jaxpaint.base.machine import machine
from jaxpaint.base.memory import memory_left
from jaxpaint.base.target import platform


@dataclass(frozen=True)
class Budgets:
    """Tokens and rows of a batch: enough for large matrix products, few enough for caches (CPU) and memory.

    Bytes bound what is in memory at once. All are of one device.
    """

    score_tokens: int
    analysis_tokens: int
    masked_tokens: int
    feature_tokens: int
    classifier_tokens: int
    prefill_tokens: int  # of a prompt, at a time
    generation_rows: int
    least_rows: int  # of generation: of a single one XLA makes sums of rounded products, slow on GPUs, not a product
    state_bytes: int  # hidden states held where plans part
    analysis_bytes: int  # hidden states of the longest analysed plan
    cache_bytes: int  # keys and values
    logits_bytes: int  # float32 logits of scored positions
    training_logits_bytes: int  # the same on the way back too
    vocabulary_block: int  # tokens whose logits are computed at once, where caches are small


_CPU_AND_ACCELERATOR = {
    "score_tokens": (2048, 32768),
    "analysis_tokens": (2048, 16384),
    "masked_tokens": (4096, 65536),
    "feature_tokens": (2048, 65536),
    "classifier_tokens": (4096, 65536),
    "prefill_tokens": (512, 2048),
    "generation_rows": (16, 64),
    "least_rows": (1, 2),
    "state_bytes": (1 << 30, 8 << 30),
    "analysis_bytes": (256 << 20, 4 << 30),
    "cache_bytes": (2 << 30, 16 << 30),
    "logits_bytes": (8 << 20, 512 << 20),
    "training_logits_bytes": (64 << 20, 512 << 20),
    "vocabulary_block": (4608, 1 << 20),
}
CPU, ACCELERATOR = (Budgets(**{name: both[which] for name, both in _CPU_AND_ACCELERATOR.items()}) for which in (0, 1))


def on_cpu() -> bool:
    """Whether JAX computes on a CPU here, or what is compiled is for one."""
    return platform() == "cpu"


def budgets() -> Budgets:
    """The table of the devices that JAX computes on."""
    return CPU if on_cpu() else ACCELERATOR


def held_state_bytes() -> int:
    """Bytes of hidden states held where plans part: the table's, on a CPU at most half of the memory that is left.

    Processes that compute together must all hold the same: the table's.
    """
    left = memory_left() if on_cpu() and not are_several() else None
    return budgets().state_bytes if left is None else min(CPU.state_bytes, left // 2)


def host_memory() -> int:
    """Bytes that this process may use of the host: what it has, or what a container or batch job leaves of it."""
    here = machine()
    return here.memory_limit or here.memory or 8 << 30  # where the system does not say


def device_memory() -> int | None:
    """Bytes of one accelerator that JAX may use; None of a CPU, whose memory is the host's."""
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
