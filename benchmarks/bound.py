"""How much faster than transformers prompts can be read here: whole calls, and the products of all layers alone.

    python benchmarks/bound.py --model FOLDER [--tokens 1000] [--prompts 1] [--dtype float32] [--rounds 9]

Reading is prompts of random tokens and one new token each. Products alone are those of a token with every kernel of the
layers, without attention, norms or the head: by torch, and by XLA as jaxpaint compiles it. What transformers takes over
what XLA's products take is a limit: nothing that multiplies by them is faster. Each has a process of its own; they take
turns, figures are medians, ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from turns import answer, turns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder, Llama-like")
    parser.add_argument("--tokens", type=int, default=1000, help="of a prompt (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=1, help="read in one call (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=9, help="of turns (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--peer", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        answer(PEERS[options.peer](options))
        return
    with ExitStack() as stack:
        peers = [stack.enter_context(turns(__file__, *sys.argv[1:], "--peer", peer)) for peer in PEERS]
        rounds = [[peer()["seconds"] for peer in peers] for _ in range(options.rounds + 1)][1:]  # the first compiles
    seconds = dict(zip(PEERS, zip(*rounds, strict=True), strict=True))
    for peer, each in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["transformers"], each, strict=True))
        print(f"{peer:20} {statistics.median(each):7.3f} s ({min(each):.3f} to {max(each):.3f})  {ratio:.2f}")
    if options.json:
        options.json.write_text(json.dumps({"seconds": seconds}, indent=2))


def _texts(options: Any, vocabulary: int) -> Sequence[tuple[int, ...]]:
    draw = np.random.default_rng(0)
    return [tuple(draw.integers(0, vocabulary, options.tokens).tolist()) for _ in range(options.prompts)]


def _torch_model(options: Any) -> Any:
    import os

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval()


def _layer_linears(model: Any) -> list[Any]:
    from torch import nn

    return [each for name, each in model.named_modules() if isinstance(each, nn.Linear) and ".layers." in name]


def _transformers(options: Any) -> Callable[[], Any]:
    import torch

    model = _torch_model(options)
    ids = torch.tensor(_texts(options, model.config.vocab_size))
    how = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 1, "do_sample": False, "pad_token_id": 0}
    return lambda: model.generate(ids, **how)[:, options.tokens :].tolist()


def _torch_products(options: Any) -> Callable[[], Any]:
    import torch

    linears = _layer_linears(_torch_model(options))
    rows = options.tokens * options.prompts
    inputs = {each.in_features: torch.randn(rows, each.in_features).to(each.weight.dtype) for each in linears}

    @torch.inference_mode()
    def run() -> float:
        y = inputs[linears[0].in_features]
        for each in linears:  # each product waits for the one before
            y = each(inputs[each.in_features] + y[:1, :1] * 0)
        return float(y[0, 0])

    return run


def _jaxpaint(options: Any) -> Callable[[], Any]:
    from jaxpaint.engine.model import load
    from jaxpaint.generation import Prompt, generate

    model = load(options.model, dtype=options.dtype)
    prompts = [Prompt(text, 1) for text in _texts(options, model.config.vocab_size)]
    return lambda: [list(each.tokens) for each in generate(model, prompts, [model.full_plan])]


def _xla_products(options: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    from jaxpaint.base.compilation import compiler_options
    from jaxpaint.models.narrow import product

    linears = _layer_linears(_torch_model(options))
    kernels = [jnp.asarray(each.weight.detach().T.float().numpy(), options.dtype) for each in linears]
    draw = np.random.default_rng(0)
    sizes = {len(kernel) for kernel in kernels}
    # A prompt at a time, as it is read.
    inputs = {size: jnp.asarray(draw.normal(size=(options.tokens, size)), options.dtype) for size in sizes}

    def products(inputs: dict[int, jax.Array], kernels: list[jax.Array]) -> jax.Array:
        y = inputs[len(kernels[0])]
        for kernel in kernels:
            y = product(inputs[len(kernel)] + y[:1, :1] * 0, kernel).astype(options.dtype)
        return y

    how = compiler_options(default_products=options.dtype == "bfloat16")
    compiled = jax.jit(products, compiler_options=how).lower(inputs, kernels).compile()
    return lambda: [float(compiled(inputs, kernels)[0, 0]) for _ in range(options.prompts)]


PEERS: dict[str, Callable[[Any], Callable[[], Any]]] = {
    "transformers": _transformers,
    "torch's products": _torch_products,
    "jaxpaint": _jaxpaint,
    "XLA's products": _xla_products,
}


if __name__ == "__main__":
    main()
