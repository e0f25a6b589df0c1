"""Scoring throughput and peak memory of one plan, against transformers on torch in the same run.

    python benchmarks/throughput.py --model FOLDER --data lambada_openai=F --data hellaswag=F [--limit 50] [--rounds 3]
    python benchmarks/throughput.py --model FOLDER --lengths 16,256,1000,8000 [--rounds 5]
    python benchmarks/throughput.py --random llama2-7b --device gpu      (random weights at real shapes, bfloat16)

With --model, lm-eval's own hf backend (batch size 8, --dtype, its full logits) and jaxpaint score the same lm-eval
requests, in turn, and every log-likelihood is compared. With --random, transformers' SDPA forward pass, which computes
logits at every position, and jaxpaint's scoring of the last 16 run the same random sequences. With --lengths, each
scores all tokens of one text of so many tokens (transformers: SDPA, float32 log-softmax of its logits), in turn, each
in a process of its own: in one process the threads of the one keep those of the other waiting. Figures are medians of
the rounds; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from random_weights import SHAPES, random_models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--data", action="append", default=[], metavar="TASK=FILE", help="local data of a task")
    parser.add_argument("--limit", type=int, default=50, help="documents per task (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads (default: all cores)")
    parser.add_argument("--random", choices=SHAPES, help="random weights at these shapes in place of a model")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="for --random (default: %(default)s)")
    parser.add_argument("--sequences", type=int, default=64, help="for --random (default: %(default)s)")
    parser.add_argument("--lengths", type=lambda text: [int(n) for n in text.split(",")], help="with --model: tokens")
    parser.add_argument("--memory-of", choices=("jaxpaint", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--take-turns", choices=("jaxpaint", "transformers"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if bool(options.model) == bool(options.random):
        parser.error("give --model FOLDER or --random SHAPE")
    if options.memory_of:
        _peers(options)[options.memory_of]()
        print(_own_peak_memory())
        return
    if options.take_turns:
        _take_turns(options)
        return
    measure = _random if options.random else _lengths if options.lengths else _measure
    figures = measure(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _requests(options):
    """lm-eval's log-likelihood requests of the tasks, as it would hand them to a model."""
    from jaxpaint.tasks.load import load_tasks
    from jaxpaint.tasks.local_data import parse_data_option

    data = parse_data_option(options.data)
    requests = []
    for name, task in load_tasks(list(data), data=data)["tasks"].items():
        task.build_all_requests(limit=options.limit, rank=0, world_size=1)
        requests += [(name, instance) for instance in task.instances]
    return requests


def _peers(options, instances=None):
    """{name: function that scores every request and returns (log-likelihood, greedy) pairs}."""
    instances = instances or [instance for _, instance in _requests(options)]

    def jaxpaint_peer():
        import jaxpaint as jp
        from jaxpaint.tasks.harness import PlanLM

        model = jp.load(options.model, dtype=options.dtype)
        lm = PlanLM(model, model.full_plan, bos="off")
        return lambda: lm.loglikelihood(instances)

    def transformers_peer():
        import torch
        from lm_eval.models.huggingface import HFLM

        torch.set_num_threads(options.threads)
        how = {"dtype": options.dtype, "device": "cpu", "batch_size": 8, "add_bos_token": False}
        lm = HFLM(pretrained=str(options.model), **how)
        return lambda: lm.loglikelihood(instances, disable_tqdm=True)

    if options.memory_of:
        return {options.memory_of: (jaxpaint_peer if options.memory_of == "jaxpaint" else transformers_peer)()}
    return {"jaxpaint": jaxpaint_peer(), "transformers": transformers_peer()}


def _measure(options) -> dict:
    requests = _requests(options)
    figures: dict = {"machine": _machine(options), "limit": options.limit, "rounds": options.rounds, "tasks": {}}
    print(f"{'task':<16} {'requests':>8} {'tokens':>8} {'jaxpaint':>10} {'hf':>10} {'ratio':>6} {'difference':>11}")
    for task in dict.fromkeys(name for name, _ in requests):
        instances = [instance for name, instance in requests if name == task]
        peers = _peers(options, instances)
        answers = {name: peer() for name, peer in peers.items()}  # warm-up: compilation, caches
        tokens = sum(len(peers_tokens) for peers_tokens in _encoded(options, instances))
        seconds: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(options.rounds):
            for name, peer in peers.items():
                started = time.perf_counter()
                answers[name] = peer()
                seconds[name].append(time.perf_counter() - started)
        difference = max(
            abs(ours[0] - theirs[0]) for ours, theirs in zip(answers["jaxpaint"], answers["transformers"], strict=True)
        )
        ratio = statistics.median(
            theirs / ours for ours, theirs in zip(seconds["jaxpaint"], seconds["transformers"], strict=True)
        )
        rates = {name: tokens / statistics.median(values) for name, values in seconds.items()}
        figures["tasks"][task] = {
            "requests": len(instances),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": rates,
            "ratio": ratio,
            "largest_difference": difference,
        }
        print(
            f"{task:<16} {len(instances):>8} {tokens:>8} {rates['jaxpaint']:>8.0f}/s {rates['transformers']:>8.0f}/s "
            f"{ratio:>6.2f} {difference:>11.1e}"
        )
    figures["peak_memory_gib"] = {name: _peak_memory(name) for name in ("jaxpaint", "transformers")}
    print(
        "peak memory, a process each: " + ", ".join(f"{n} {g:.2f} GiB" for n, g in figures["peak_memory_gib"].items())
    )
    return figures


def _encoded(options, instances):
    """The tokens that each request runs, by the tokenizer alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return [tokenizer.encode("".join(instance.args), add_special_tokens=False)[:-1] for instance in instances]


def _peak_memory(name: str) -> float:
    """Of a whole process that loads the model and scores the requests once, in GiB."""
    command = [sys.executable, *sys.argv, "--memory-of", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def _of_length(options, length: int):
    """The function that gives the log-likelihood of all but the first of `length` random tokens, by one peer."""
    import numpy as np

    tokens = np.random.default_rng(length).integers(1000, 40_000, length).tolist()
    if options.take_turns == "jaxpaint":
        import jaxpaint as jp
        from jaxpaint.engine.packing import Request
        from jaxpaint.engine.score import score

        model = jp.load(options.model, dtype=options.dtype)
        request = Request.of(tokens[:1], tokens[1:], length)
        return lambda: float(score(model, [request]).loglikelihoods[0])

    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=options.dtype, attn_implementation="sdpa")
    inputs = torch.tensor([tokens])

    def run() -> float:
        with torch.inference_mode():
            logprobs = model(inputs[:, :-1], use_cache=False).logits[0].log_softmax(-1)
            return float(logprobs.gather(1, inputs[0, 1:, None]).sum())

    return run


def _take_turns(options) -> None:
    """In a process of its own: a run for each line that is read, told as its answer, seconds and the peak memory."""
    run = _of_length(options, *options.lengths)
    run()  # compilation, caches
    for _ in sys.stdin:
        started = time.perf_counter()
        answer = run()
        seconds = time.perf_counter() - started
        print(json.dumps({"answer": answer, "seconds": seconds, "memory": _own_peak_memory()}), flush=True)


def _own_peak_memory() -> float:
    """Of this process, in GiB."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20


@contextmanager
def _taking_turns(name: str, length: int):
    """A process of one peer, as a function that lets it run once and gives what it tells."""
    command = [sys.executable, *sys.argv, "--take-turns", name, "--lengths", str(length)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, **pipes) as peer:

        def turn() -> dict:
            peer.stdin.write("\n")
            peer.stdin.flush()
            return json.loads(peer.stdout.readline())

        yield turn
        peer.stdin.close()


def _lengths(options) -> dict:
    figures: dict = {"machine": _machine(options), "rounds": options.rounds, "lengths": {}}
    print(
        f"{'tokens':>7} {'jaxpaint':>10} {'transformers':>13} {'time':>6} {'difference':>11} {'peak memory, GiB':>18}"
    )
    for length in options.lengths:
        with _taking_turns("jaxpaint", length) as jaxpaint, _taking_turns("transformers", length) as transformers:
            jaxpaint(), transformers()  # both are ready
            turns = [(jaxpaint(), transformers()) for _ in range(options.rounds)]
        share = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in turns)
        ours, theirs = turns[-1]
        difference = abs(ours["answer"] - theirs["answer"]) / abs(theirs["answer"])
        figures["lengths"][length] = {"time_share": share, "difference": difference, "turns": turns}
        medians = [statistics.median(turn[peer]["seconds"] for turn in turns) for peer in (0, 1)]
        print(
            f"{length:>7} {medians[0]:>9.3f}s {medians[1]:>12.3f}s {share:>6.2f} {difference:>11.1e} "
            f"{ours['memory']:>8.2f} {theirs['memory']:>9.2f}",
            flush=True,
        )
    return figures


def _random(options) -> dict:
    import jax
    import numpy as np
    import torch

    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.score import score

    torch.set_num_threads(options.threads)
    model, torch_model = random_models(options.random, options.device)
    vocab, positions = model.config.vocab_size, model.config.max_position_embeddings
    rng = np.random.default_rng(0)
    lengths = rng.integers(64, 256, options.sequences)
    texts = [tuple(int(t) for t in rng.integers(0, vocab, n)) for n in lengths]
    requests = [Request.of(text[:-16], text[-16:], positions) for text in texts]
    tokens = sum(len(request.tokens) for request in requests)

    def transformers_peer():
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].tokens))

        def run():
            total = 0.0
            with torch.inference_mode():
                for start in range(0, len(order), 32):
                    rows = [requests[i] for i in order[start : start + 32]]
                    width = len(rows[0].tokens)
                    batch = torch.zeros(len(rows), width, dtype=torch.long)
                    for row, request in zip(batch, rows, strict=True):
                        row[: len(request.tokens)] = torch.tensor(request.tokens)
                    total += float(
                        torch_model(batch.to(torch_model.device), use_cache=False).logits.float().logsumexp(-1).sum()
                    )
            return total

        return run

    peers = {"jaxpaint": lambda: score(model, requests), "transformers": transformers_peer()}
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for number in range(options.rounds + 1):
        for name, peer in peers.items():
            started = time.perf_counter()
            peer()
            if number:  # the first round compiles
                seconds[name].append(time.perf_counter() - started)
    rates = {name: tokens / statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["jaxpaint"], seconds["transformers"], strict=True)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    print(
        f"{options.random}, random weights, {jax.devices()[0].device_kind}, {len(requests)} sequences, {tokens} tokens"
    )
    print(f"jaxpaint {rates['jaxpaint']:.0f} tokens/s, transformers {rates['transformers']:.0f}, ratio {ratio:.2f}")
    return {"machine": _machine(options), "seconds": seconds, "tokens_per_second": rates, "ratio": ratio}


def _machine(options) -> dict:
    import jax

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
