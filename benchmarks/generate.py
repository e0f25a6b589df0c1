"""Greedy generation against transformers' generate on torch, on the same batch of prompts in the same run.

    python benchmarks/generate.py --model FOLDER --data gsm8k=F --data gsm8k:train=F [--num-fewshot 5] [--rounds 3]
    python benchmarks/generate.py --random llama2-7b --device gpu --batch 32     (random weights, bfloat16)

With --model, the first --batch GSM8K prompts with --num-fewshot examples are continued by --new tokens, in --dtype, and
the texts are compared; none ends before, so that both write as much. The peers take turns, each in a process of its
own. With --random, random prompts of 128 tokens, and both in one process. Two figures each: of the whole call, reading
the prompts included, and of decoding alone (the call less one that writes a single token). Figures are medians, ratios
are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

from random_weights import SHAPES, random_models
from turns import answer, timed, turns


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
    parser.add_argument("--bandwidth", type=float, metavar="GB/s", help="of the device's memory, with --random")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--take-turns", choices=("jaxpaint", "transformers"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if bool(options.model) == bool(options.random):
        parser.error("give --model FOLDER or --random SHAPE")
    if options.bandwidth and options.model:
        parser.error("--bandwidth is for --random: a model of --model is in another process")
    if options.take_turns:
        answer(_peer(options))
        return
    import jax

    with ExitStack() as stack:
        if options.random:
            models = random_models(options.random, options.device)
            peers = {name: timed(peer(model)) for (name, peer), model in zip(PEERS.items(), models, strict=True)}
            texts = _random_texts(models[0], options.batch)
        else:
            processes = {name: turns(__file__, *sys.argv[1:], "--take-turns", name) for name in PEERS}
            peers = {name: stack.enter_context(process) for name, process in processes.items()}
            texts = _gsm8k(options)
        shortest, longest = min(map(len, texts)), max(map(len, texts))
        print(f"{len(texts)} prompts of {shortest} to {longest} tokens, {options.new} new ones")
        seconds: dict[str, dict[int, list[float]]] = {name: {1: [], options.new: []} for name in peers}
        written: dict[str, list[list[int]]] = {}
        for number in range(options.rounds + 1):
            for name, peer in peers.items():
                for new in (1, options.new):
                    told = peer(texts, new)
                    written[name] = told["answer"]
                    if number:  # in the first round peers become ready
                        seconds[name][new].append(told["seconds"])
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
            size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(models[0].state))
            share = size * rates["jaxpaint"] / len(texts) / (options.bandwidth * 1e9)
            figures["share of bandwidth"] = share
            print(f"weights alone, read once a step: {share:.0%} of {options.bandwidth:.0f} GB/s")
    print(f"{equal} of {len(texts)} texts equal")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _peer(options):
    """That of --take-turns, of a model of its own."""
    if options.take_turns == "jaxpaint":
        from jaxpaint.engine.model import load

        return _jaxpaint(load(options.model, dtype=options.dtype))

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(os.cpu_count() or 1)
    return _transformers(AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype).eval())


def _jaxpaint(model):
    from jaxpaint.generation import Prompt, generate
    from jaxpaint.generation.settings import GenerationSettings

    ends = () if model.store is None else (model.tokenizer.eos_token_id,)

    def run(texts: list[list[int]], new: int) -> list[list[int]]:
        found = [[]] * len(texts)
        prompts = [Prompt(tuple(text), new) for text in texts]
        whole = GenerationSettings(ends, min_new_tokens=new if ends else None)
        for each in generate(model, prompts, [model.full_plan], settings=whole, batch_size=len(texts)):
            found[each.prompt] = list(each.tokens)
        return found

    return run


def _transformers(model):
    import torch

    def run(texts: list[list[int]], new: int) -> list[list[int]]:
        width = max(map(len, texts))
        ids, mask = torch.zeros(len(texts), width, dtype=torch.long), torch.zeros(len(texts), width, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, width - len(text) :] = torch.tensor(text)
            mask[row, width - len(text) :] = 1
        how = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0, "use_cache": True}
        with torch.inference_mode():
            written = model.generate(ids.to(model.device), attention_mask=mask.to(model.device), **how)
            return written[:, width:].tolist()

    return run


PEERS = {"jaxpaint": _jaxpaint, "transformers": _transformers}


def _gsm8k(options) -> list[list[int]]:
    from jaxpaint.cli.loading import model_store
    from jaxpaint.engine.source import Source
    from jaxpaint.tasks.encoding import Encoding
    from jaxpaint.tasks.load import build_instances, load_tasks
    from jaxpaint.tasks.local_data import parse_data_option

    tasks = load_tasks(["gsm8k"], data=parse_data_option(options.data), num_fewshot=options.num_fewshot)
    build_instances(tasks, limit=options.batch)
    encoding = Encoding.of(Source.of(model_store(str(options.model))), bos="off")
    return [list(encoding.encode_prompt(each).prompt.tokens) for each in tasks["tasks"]["gsm8k"].instances]


def _random_texts(model, batch: int) -> list[list[int]]:
    import numpy as np

    rng = np.random.default_rng(0)
    return [rng.integers(0, model.config.vocab_size, 128).tolist() for _ in range(batch)]


if __name__ == "__main__":
    main()
