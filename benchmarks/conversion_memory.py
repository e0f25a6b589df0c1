"""Peak memory and time of converting a checkpoint larger than memory should have to be, and of restoring it.

Writes a synthetic sharded checkpoint of a Llama's shapes, converts it in a process of its own while sampling that
process's anonymous memory (`RssAnon`: what the kernel cannot write back to a file and drop), and restores the store
onto one device and onto a sharding over four simulated ones. Linux only. Needs about three times `--gigabytes` of
disk in `--folder`, and as much memory as the checkpoint for the restores (`--no-restore` leaves them out).

    python benchmarks/conversion_memory.py --gigabytes 6 --json conversion_memory.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

GIBIBYTE = 2**30
ALLOWANCE = 2 * GIBIBYTE
# Llama 2 7B's shapes; the number of layers makes up the size.
HIDDEN, INTERMEDIATE, HEADS, VOCABULARY = 4096, 11008, 32, 32000
CONVERT = "import sys; from convert import convert; convert(sys.argv[1], sys.argv[2], dtype=sys.argv[3] or None)"
RESTORE = """
import sys, jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxpaint.models.checkpoint import restore
mesh = Mesh(jax.devices(), ("model",))
def place(path, shape):
    return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), "model"))
jax.block_until_ready(restore(sys.argv[1], sharding=place if len(jax.devices()) > 1 else None))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=6.0, help="size of the checkpoint, at least (default 6)")
    parser.add_argument("--dtype", default="", help="dtype of the store (default: the checkpoint's, bfloat16)")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--no-restore", dest="restore", action="store_false")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="conversion-memory-", dir=arguments.folder) as name:
        folder = Path(name)
        layers, size, layer_bytes = write_checkpoint(folder / "checkpoint", arguments.gigabytes * 1e9)
        command = [str(folder / "checkpoint"), str(folder / "store"), arguments.dtype]
        rows = {"convert": measure(CONVERT, command, devices=1)}
        if arguments.restore:
            rows["restore, 1 device"] = measure(RESTORE, [str(folder / "store")], devices=1)
            rows["restore, 4 devices"] = measure(RESTORE, [str(folder / "store")], devices=4)
    limit = ALLOWANCE + layer_bytes
    within = rows["convert"]["peak_rss_anon_bytes"] <= limit
    print(f"checkpoint: {size / 1e9:.2f} GB bfloat16, {layers} layers of {layer_bytes / GIBIBYTE:.2f} GiB")
    print(f"{'':20} {'seconds':>8} {'peak RssAnon, GiB':>18}")
    for name, row in rows.items():
        print(f"{name:20} {row['seconds']:8.1f} {row['peak_rss_anon_bytes'] / GIBIBYTE:18.2f}")
    print(f"conversion's limit (2 GiB and one layer): {limit / GIBIBYTE:.2f} GiB, {'kept' if within else 'EXCEEDED'}")
    if arguments.json:
        result = {
            "checkpoint_bytes": size,
            "layers": layers,
            "layer_bytes": layer_bytes,
            "limit_bytes": limit,
            "within_limit": within,
            "runs": rows,
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    sys.exit(0 if within else 1)


def write_checkpoint(folder: Path, at_least: float) -> tuple[int, int, int]:
    """A sharded checkpoint of random bits, one shard for each layer; returns its layers, bytes, and bytes a layer."""
    folder.mkdir()
    block = {
        **{f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"},
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    ends = {"model.embed_tokens": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,), "lm_head": (VOCABULARY, HIDDEN)}
    layer_bytes, end_bytes = (2 * sum(int(np.prod(shape)) for shape in part.values()) for part in (block, ends))
    layers = int(-(-(at_least - end_bytes) // layer_bytes))
    shards = [{f"model.layers.{layer}.{name}": shape for name, shape in block.items()} for layer in range(layers)]
    shards.append(ends)
    random = np.random.default_rng(0)
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            f"{name}.weight": random.integers(0, 2**16, shape, dtype=np.uint16).view(ml_dtypes.bfloat16)
            for name, shape in shard.items()
        }
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return layers, layers * layer_bytes + end_bytes, layer_bytes


def measure(code: str, arguments: list[str], devices: int) -> dict[str, float]:
    """Runs Python code in a process and samples its anonymous memory every 10 ms."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
    }
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        # A process that has just ended has no memory lines.
        peak = max(peak, int(lines.get("RssAnon", "0").split()[0]) * 1024)
        time.sleep(0.01)
    if process.returncode:
        sys.exit(f"the measured process failed with status {process.returncode}")
    return {"seconds": time.perf_counter() - start, "peak_rss_anon_bytes": peak}


if __name__ == "__main__":
    main()
