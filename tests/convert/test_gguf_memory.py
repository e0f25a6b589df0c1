"""What the conversion of a GGUF file holds in memory at once, whatever the model's size."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from tests.helpers.gguf_models import write

CONVERT = "import sys; from convert import convert; convert(sys.argv[1], sys.argv[2])"
WIDTH, INSIDE, LAYERS, VOCABULARY = 2048, 8192, 5, 64
LARGEST = 4 * WIDTH * INSIDE  # bytes of a feed-forward's kernel in float32
ALLOWED = LARGEST + 2**30  # beside it Python with JAX, and room to write in


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_conversion_holds_the_largest_tensor_and_a_gibibyte(tmp_path: Path) -> None:
    attention = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    inside = {"ffn_gate": (INSIDE, WIDTH), "ffn_up": (INSIDE, WIDTH), "ffn_down": (WIDTH, INSIDE)}
    kernels = {f"blk.{i}.{name}": shape for i in range(LAYERS) for name, shape in {**attention, **inside}.items()}
    kernels |= dict.fromkeys(("token_embd", "output"), (VOCABULARY, WIDTH))
    tensors = {f"{name}.weight": (_blocks(*shape), Type.Q4_0) for name, shape in kernels.items()}
    norms = ["output_norm", *(f"blk.{i}.{name}" for i in range(LAYERS) for name in ("attn_norm", "ffn_norm"))]
    tensors |= {f"{name}.weight": (np.ones(WIDTH, np.float32), Type.F32) for name in norms}
    keys = {
        **{"context_length": 64, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": INSIDE},
        **{"attention.head_count": 16, "attention.head_count_kv": 16, "attention.layer_norm_rms_epsilon": 2**-17},
        **{"rope.freq_base": 10000.0, "rope.dimension_count": WIDTH // 16, "vocab_size": VOCABULARY},
    }
    whole = 4 * sum(rows * columns for rows, columns in kernels.values())
    assert whole > ALLOWED, "a conversion that holds all of it would pass"
    peak = _peak_of_anonymous_memory([str(write(tmp_path / "model.gguf", "llama", keys, tensors)), str(tmp_path / "s")])
    assert peak < ALLOWED, f"{peak / 2**20:.0f} MiB"


def _blocks(rows: int, columns: int) -> np.ndarray:
    """Random numbers in blocks of 32 with a scale each, as Q4_0 has them."""
    blocks = np.random.default_rng(rows).integers(0, 256, (rows, columns // 32, 18), np.uint8)
    blocks[..., :2] = np.array([0.01], np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def _peak_of_anonymous_memory(arguments: Sequence[str]) -> int:
    """Bytes that no file gives back (`RssAnon`), looked at every 10 ms while a process of its own converts."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process, peak = subprocess.Popen([sys.executable, "-c", CONVERT, *arguments], env=environment), 0
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        peak = max(peak, int(lines.get("RssAnon", "0").split()[0]) * 1024)  # one that just ended has none
        time.sleep(0.01)
    assert process.returncode == 0
    assert peak > 0
    return peak
