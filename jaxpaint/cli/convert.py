"""convert a checkpoint into a store of stacked parameters, once

examples:
  jaxpaint convert path/to/llama-2-7b-hf llama2-7b
  jaxpaint convert HuggingFaceTB/SmolLM2-135M smollm2 --dtype float32
  jaxpaint convert path/to/meta/llama-2-7b llama2-7b
  jaxpaint convert model-q4_k_m.gguf model
  jaxpaint convert meta-llama/Llama-2-7b-hf tuned --adapter path/to/lora

A folder has Hugging Face's config.json and weights, or Meta's params.json and
consolidated.*.pth. Of a GGUF file quantised tensors become float32. A hub id
needs the network, or a filled Hugging Face cache with HF_HUB_OFFLINE=1; a
gated one needs HF_TOKEN in the environment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from typing_extensions import TypedDict

from jaxpaint.base.limits import require
from jaxpaint.cli.answers import give


class Answer(TypedDict):
    """The store, and the sum over its weights and config."""

    source: str
    store: str
    fingerprint: str
    num_layers: int
    bytes: int


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a Hugging Face or Meta folder, a GGUF file, or a hub id")
    parser.add_argument("destination", metavar="DST", type=Path, help="the store to write (a folder)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the store (default: the checkpoint's)")
    parser.add_argument(
        "--revision", metavar="NAME", help="branch, tag or commit of a hub id, as owner/name@NAME (default: main)"
    )
    parser.add_argument(
        "--adapter", metavar="FOLDER", help="a LoRA adapter of peft, merged into the weights (default: none)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def run(options: argparse.Namespace) -> int:
    require(computing=True)
    from convert import convert
    from jaxpaint.base.progress import byte_bar

    with byte_bar() as progress:
        store = convert(
            options.source,
            options.destination,
            dtype=options.dtype,
            revision=options.revision,
            adapter=options.adapter,
            overwrite=options.overwrite,
            progress=progress,
        )
    from jaxpaint.models.checkpoint import read_config, read_manifest

    manifest = read_manifest(store)
    answer: Answer = {
        "source": options.source,
        "store": str(store),
        "fingerprint": manifest["fingerprint"],
        "num_layers": read_config(store).num_hidden_layers,
        "bytes": manifest["parameters"]["bytes"],
    }
    give(options, answer, f"converted {options.source} into {store}")
    return 0
