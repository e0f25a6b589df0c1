"""A study's wall time against the paper's way: transformers on torch, one plan at a time, lm-eval's own batching.

    python benchmarks/study.py --model FOLDER --data lambada_openai=F --data hellaswag=F --data winogrande=F
        --data arc_challenge=F [--documents 6,12,2,2] [--set main] [--set looped] [--peer-plans 8]
    python benchmarks/study.py --random        (random weights of Llama2's proportions, head below 3 %)

Sets of plans: `main` is the paper's strategies with seeds, single skips and switches; `looped` its map of looped
parallel, 1 to 28 iterations at every start; `preset` both. jaxpaint runs every plan of a set, from nothing compiled.
The peer is lm-eval's hf backend at batch size 8, its model's layer list rearranged, a parallel group one module that
gives the mean of its layers' outputs. It runs `--peer-plans` plans of each set, evenly spread over the set sorted by
cost, at even intervals while jaxpaint, whose clock then stands still, works on its own; a straight line through its
seconds over cost stands for the others (printed with its largest error). Every log-likelihood of these plans is
compared.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

BATCH_SIZE = 8
# Llama2-7B's proportions at an eighth of its width: 32 layers, inner size 2.69 times the hidden size, small head.
RANDOM = {
    "vocab_size": 4000,
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--data", action="append", default=[], metavar="TASK=FILE", help="local data of a task")
    parser.add_argument("--documents", default="6", metavar="N,N", help="documents per task, in order (default: 6)")
    parser.add_argument("--random", action="store_true", help="random weights and tokens")
    parser.add_argument("--set", action="append", choices=("main", "looped", "preset"), help="default: main, looped")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th plan of a set, on both sides")
    parser.add_argument("--peer-plans", type=int, default=8, metavar="N", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if bool(options.model) == options.random:
        parser.error("give --model FOLDER or --random")

    import jax
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    ours, peer, instances, requests = _random() if options.random else _real(options)
    print(
        f"{len(requests)} requests, {sum(len(r.tokens) for r in requests)} tokens; {os.cpu_count()} cores", flush=True
    )
    figures = {"jax": jax.__version__, "torch": torch.__version__, "sets": {}}
    for name in options.set or ["main", "looped"]:
        plans = _plans(name, ours.num_layers)[:: options.every]
        figures["sets"][name] = _compare(name, plans, ours, peer, instances, requests, options.peer_plans)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _plans(name: str, num_layers: int):
    from jaxpaint.plans.strategies import family

    strategies = ("full", "skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel")
    strategies += ("skip-one", "switch")
    main = [variant.plan for strategy in strategies for variant in family(strategy, num_layers)]
    looped = [variant.plan for variant in family("looped-parallel", num_layers, iterations=range(1, 29))]
    return {"main": main, "looped": looped, "preset": [*main, *looped]}[name]


def _compare(name, plans, model, peer, instances, requests, peer_plans) -> dict:
    import jax
    import numpy as np

    from jaxpaint.engine.score import pack_for, score_plans
    from jaxpaint.plans.tree import prefix_tree

    by_cost = sorted(range(len(plans)), key=lambda i: plans[i].cost)
    chosen = [by_cost[round(i)] for i in np.linspace(0, len(plans) - 1, min(peer_plans, len(plans)))]
    seconds: dict[int, float] = {}
    differences = []
    results = {}

    def run_peer(i) -> float:
        started = time.perf_counter()
        results[i] = peer(plans[i], instances)
        seconds[i] = time.perf_counter() - started
        print(f"  peer: cost {plans[i].cost:4d} {seconds[i]:7.1f} s  {plans[i]}", flush=True)
        return seconds[i]

    work = prefix_tree(plans).cost * sum(batch.real_tokens for batch in pack_for(model, requests))
    # Neither cheap plans first nor dear ones.
    left = [i for pair in zip(chosen, reversed(chosen), strict=True) for i in pair][: len(chosen)]
    done = paused = 0.0

    def progress(executed: int) -> None:
        nonlocal done, paused
        done += executed
        while left and done > work * (1 - (len(left) - 0.5) / len(chosen)):
            paused += run_peer(left.pop(0))

    peer(plans[chosen[0]], instances)  # not counted: first touch of memory and threads
    jax.clear_caches()
    started = time.perf_counter()
    found = score_plans(model, requests, plans, progress=progress)
    ours = time.perf_counter() - started - paused
    for i in left:
        run_peer(i)
    for i in chosen:
        differences.append(float(np.abs(found.loglikelihoods[i] - np.array(results[i])).max()))
    costs = np.array([plans[i].cost for i in chosen])
    slope, constant = np.polyfit(costs, [seconds[i] for i in chosen], 1)
    line = slope * costs + constant
    error = float(np.abs(line / [seconds[i] for i in chosen] - 1).max())
    theirs = float(sum(slope * plan.cost + constant for plan in plans))
    full = slope * model.num_layers + constant
    print(
        f"{name}: {len(plans)} plans; jaxpaint {ours:.1f} s, peer {theirs:.1f} s (line within {error:.1%}): "
        f"{theirs / ours:.2f} times faster\n"
        f"  executed / distinct work {found.executed / found.distinct:.3f}, separate / distinct "
        f"{found.separate / found.distinct:.2f}; in the peer's full passes: {ours / full:.0f} instead of "
        f"{theirs / full:.0f}\n"
        f"  log-likelihoods: largest difference {max(differences):.1e}, median over plans "
        f"{statistics.median(differences):.1e}",
        flush=True,
    )
    return {
        "plans": len(plans),
        "seconds": ours,
        "peer_seconds": theirs,
        "ratio": theirs / ours,
        "peer_measured": {str(plans[i]): seconds[i] for i in chosen},
        "line_error": error,
        "executed": found.executed,
        "distinct": found.distinct,
        "separate": found.separate,
        "largest_difference": max(differences),
    }


def _real(options):
    """(model, peer, lm-eval's requests, ours)."""
    from transformers import AutoModelForCausalLM

    from jaxpaint.engine.model import load
    from jaxpaint.tasks.encoding import Encoding
    from jaxpaint.tasks.load import load_tasks
    from jaxpaint.tasks.local_data import parse_data_option

    data = parse_data_option(options.data)
    limits = [int(number) for number in options.documents.split(",")]
    limits += limits[-1:] * (len(data) - len(limits))
    instances = []
    for task, limit in zip(load_tasks(list(data), data=data)["tasks"].values(), limits, strict=True):
        task.build_all_requests(limit=limit, rank=0, world_size=1)
        instances += task.instances
    model = load(options.model, dtype="float32")
    encoding = Encoding.of(model, bos="off")
    requests = [request for instance in instances for request in encoding.encode(instance)]
    torch_model = AutoModelForCausalLM.from_pretrained(options.model, dtype="float32").eval()
    return model, _lm_eval_peer(torch_model, model.tokenizer), instances, requests


def _lm_eval_peer(torch_model, tokenizer):
    from lm_eval.models.huggingface import HFLM

    backend = HFLM(
        pretrained=torch_model, tokenizer=tokenizer, batch_size=BATCH_SIZE, add_bos_token=False, device="cpu"
    )
    layers = list(torch_model.model.layers)

    def run(plan, instances):
        _rearrange(torch_model, layers, plan)
        if isinstance(instances[0], tuple):
            found = backend._loglikelihood_tokens(instances, disable_tqdm=True)
        else:
            found = backend.loglikelihood(instances, disable_tqdm=True)
        return [value for value, _ in found]

    return run


def _rearrange(torch_model, layers, plan) -> None:
    import torch

    from jaxpaint.plans.plan import Layer
    from jaxpaint.plans.tree import units

    class Mean(torch.nn.Module):
        def __init__(self, members):
            super().__init__()
            self.members = torch.nn.ModuleList(members)

        def forward(self, hidden_states, **context):
            return torch.stack([member(hidden_states, **context) for member in self.members]).mean(dim=0)

    modules = [
        layers[unit.index] if isinstance(unit, Layer) else Mean([layers[branch.index] for branch in unit.branches])
        for unit in units(plan)
    ]
    torch_model.config.use_cache = False
    torch_model.model.layers = torch.nn.ModuleList(modules)
    torch_model.config.num_hidden_layers = len(modules)


def _random():
    """As `_real`, with random weights, and 4 random continuations of each of 8 random texts in place of tasks."""
    import numpy as np
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from jaxpaint.engine.model import load
    from jaxpaint.engine.packing import Request

    torch.manual_seed(0)
    torch_model = LlamaForCausalLM(LlamaConfig(**RANDOM, max_position_embeddings=2048)).eval()
    vocabulary = Tokenizer(WordLevel({str(i): i for i in range(RANDOM["vocab_size"])}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="0")
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)  # compiled executables are kept there to the end
    torch_model.save_pretrained(folder)
    os.environ["JAXPAINT_CACHE"] = f"{folder}/cache"
    model = load(folder, dtype="float32")
    source = np.random.default_rng(0)

    def text(shortest, longest):
        return source.integers(0, RANDOM["vocab_size"], source.integers(shortest, longest)).tolist()

    pairs = [(context, text(10, 40)) for context in [text(30, 90) for _ in range(8)] for _ in range(4)]
    instances = [(None, context, continuation) for context, continuation in pairs]
    requests = [Request.of(context, continuation, 2048) for context, continuation in pairs]
    return model, _lm_eval_peer(torch_model, tokenizer), instances, requests


if __name__ == "__main__":
    main()
