"""Greedy generation against transformers' generate on torch, on the same batch of prompts in the same run.

    python benchmarks/generate.py --model FOLDER --data gsm8k=F --data gsm8k:train=F [--num-fewshot 5] [--rounds 3]
    python benchmarks/generate.py --random llama2-7b --device gpu --batch 32     (random weights, bfloat16)

With --model, the first --batch GSM8K prompts with --num-fewshot examples are continued by --new tokens, in --dtype, and
the texts are compared; none ends before, so that both write as much. With --random, random prompts of 128 tokens. Two
figures each: of the whole call, reading the prompts included, and of decoding alone (the call less one that writes a
single token). Rounds are interleaved; figures are medians, ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from random_weights import SHAPES, random_models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--data", action="append", default=[], metavar="gsm8k[:SPLIT]=FILE", help="local data")
    parser.add_argument("--num-fewshot", type=int, default=5, help="examples in a prompt (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, help="prompts, all at once (default: %(default)s)")
    parser.add_argument("--new", type=int, default=64, help="tokens to write (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --model (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--random", choices=SHAPES, help="random weights at these shapes in place of a model")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="for --random (default: %(default)s)")
    parser.add_argument("--bandwidth", type=float, metavar="GB/s", help="of the device's memory, to relate to")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if bool(options.model) == bool(options.random):
        parser.error("give --model FOLDER or --random SHAPE")
    model, torch_model, texts = _random(options) if options.random else _real(options)
    import jax

    from jaxpaint.generation import Prompt, generate
    from jaxpaint.generation.settings import GenerationSettings

    print(f"{len(texts)} prompts of {min(map(len, texts))} to {max(map(len, texts))} tokens, {options.new} new ones")

    ends = () if model.store is None else (model.tokenizer.eos_token_id,)

    def ours(new: int) -> list[list[int]]:
        found = [[]] * len(texts)
        prompts = [Prompt(text, new) for text in texts]
        whole = GenerationSettings(ends, min_new_tokens=new if ends else None)
        for each in generate(model, prompts, [model.full_plan], settings=whole, batch_size=options.batch):
            found[each.prompt] = list(each.tokens)
        return found

    peers = {"jaxpaint": ours, "transformers": _transformers(torch_model, texts)}
    seconds: dict[str, dict[int, list[float]]] = {name: {1: [], options.new: []} for name in peers}
    written: dict[str, list[list[int]]] = {}
    for number in range(options.rounds + 1):
        for name, peer in peers.items():
            for new in (1, options.new):
                started = time.perf_counter()
                written[name] = peer(new)
                if number:  # the first round compiles
                    seconds[name][new].append(time.perf_counter() - started)
    equal = sum(a == b for a, b in zip(written["jaxpaint"], written["transformers"], strict=True))
    tokens = len(texts) * options.new
    figures: dict = {"equal texts": equal, "seconds": seconds, "jax": jax.__version__}
    for what, of in (
        ("whole call", lambda one, all: all),
        ("decoding", lambda one, all: all - one),
    ):
        spent = {
            name: [of(*pair) for pair in zip(each[1], each[options.new], strict=True)] for name, each in seconds.items()
        }
        rates = {name: tokens / statistics.median(values) for name, values in spent.items()}
        ratio = statistics.median(b / a for a, b in zip(spent["jaxpaint"], spent["transformers"], strict=True))
        figures[what] = {"tokens_per_second": rates, "ratio": ratio}
        ours_rate, their_rate = rates["jaxpaint"], rates["transformers"]
        print(f"{what:<11} jaxpaint {ours_rate:.0f} tokens/s, transformers {their_rate:.0f}: {ratio:.2f}")
        if what == "decoding" and options.bandwidth:
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(model.state))
            share = size * rates["jaxpaint"] / len(texts) / (options.bandwidth * 1e9)
            figures["share of bandwidth"] = share
            print(f"weights alone, read once a step: {share:.0%} of {options.bandwidth:.0f} GB/s")
    print(f"{equal} of {len(texts)} texts equal")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _transformers(torch_model, texts):
    import torch

    width = max(map(len, texts))
    ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, width - len(text) :] = torch.tensor(text)
        mask[row, width - len(text) :] = 1
    ids, mask = ids.to(torch_model.device), mask.to(torch_model.device)

    def run(new: int) -> list[list[int]]:
        with torch.inference_mode():
            lengths = {"max_new_tokens": new, "min_new_tokens": new}
            return torch_model.generate(
                ids, attention_mask=mask, **lengths, do_sample=False, pad_token_id=0, use_cache=True
            )[:, width:].tolist()

    return run


def _real(options):
    import torch
    from transformers import AutoModelForCausalLM

    from jaxpaint.engine.model import load
    from jaxpaint.tasks.encoding import Encoding
    from jaxpaint.tasks.load import build_instances, load_tasks
    from jaxpaint.tasks.local_data import parse_data_option

    torch.set_num_threads(os.cpu_count() or 1)
    tasks = load_tasks(["gsm8k"], data=parse_data_option(options.data), num_fewshot=options.num_fewshot)
    build_instances(tasks, limit=options.batch)
    model = load(options.model, dtype=options.dtype)
    encoding = Encoding.of(model, bos="off")
    texts = [encoding.encode_prompt(instance).prompt.tokens for instance in tasks["tasks"]["gsm8k"].instances]
    return model, AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval(), texts


def _random(options):
    import numpy as np

    model, torch_model = random_models(options.random, options.device)
    rng = np.random.default_rng(0)
    texts = [tuple(rng.integers(0, model.config.vocab_size, 128).tolist()) for _ in range(options.batch)]
    return model, torch_model, texts


if __name__ == "__main__":
    main()
