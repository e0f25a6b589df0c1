"""Scoring throughput and peak memory of one plan, against transformers on torch in the same run.

    python benchmarks/throughput.py --model FOLDER --data lambada_openai=F --data hellaswag=F [--limit 50] [--rounds 3]
    python benchmarks/throughput.py --model FOLDER --lengths 16,256,1000,8000 [--rounds 5]
    python benchmarks/throughput.py --random llama2-7b --device gpu      (random weights at real shapes, bfloat16)

With --model, lm-eval's own hf backend (batch size 8, --dtype, its full logits) and jaxpaint score the same lm-eval
requests and every log-likelihood is compared; with --lengths each scores all tokens of one text of so many tokens
(transformers: SDPA, float32 log-softmax of its logits). They take turns, each in a process of its own: in one process
the threads of the one keep those of the other waiting. With --random, transformers' SDPA forward pass, which computes
logits at every position, and jaxpaint's scoring of the last 16 run the same random sequences, in one process. Figures
are medians of the rounds; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from random_weights import SHAPES, random_models
from turns import answer, turns

PEERS = ("jaxpaint", "transformers")


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
    parser.add_argument("--take-turns", choices=PEERS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if bool(options.model) == bool(options.random):
        parser.error("give --model FOLDER or --random SHAPE")
    if options.take_turns:
        answer(_of_length(options, *options.lengths) if options.lengths else _of_requests(options))
        return
    measure = _random if options.random else _lengths if options.lengths else _measure
    figures = measure(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _requests(options):
    """lm-eval's log-likelihood requests of the task, as it would hand them to a model."""
    from jaxpaint.tasks.load import load_tasks
    from jaxpaint.tasks.local_data import parse_data_option

    data = parse_data_option(options.data)
    (task,) = load_tasks(list(data), data=data)["tasks"].values()
    task.build_all_requests(limit=options.limit, rank=0, world_size=1)
    return task.instances


def _of_requests(options):
    """The function that scores every request and returns (log-likelihood, greedy) pairs, by one peer."""
    instances = _requests(options)
    if options.take_turns == "jaxpaint":
        import jaxpaint as jp
        from jaxpaint.tasks.harness import PlanLM

        model = jp.load(options.model, dtype=options.dtype)
        lm = PlanLM(model, model.full_plan, bos="off")
        return lambda: lm.loglikelihood(instances)

    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(options.threads)
    how = {"dtype": options.dtype, "device": "cpu", "batch_size": 8, "add_bos_token": False}
    lm = HFLM(pretrained=str(options.model), **how)
    return lambda: lm.loglikelihood(instances, disable_tqdm=True)


def _measure(options) -> dict:
    figures: dict = {"machine": _machine(options), "limit": options.limit, "rounds": options.rounds, "tasks": {}}
    print(
        f"{'task':<16} {'requests':>8} {'tokens':>7} {'jaxpaint':>9} {'hf':>9} {'ratio':>6} {'difference':>10} "
        f"{'peak GiB':>10}"
    )
    for data in options.data:
        task = data.partition("=")[0]
        rounds = _turns(options, "--data", data)
        ours, theirs = rounds[-1]
        tokens = _tokens(options, data)
        difference = max(abs(a[0] - b[0]) for a, b in zip(ours["answer"], theirs["answer"], strict=True))
        ratio = statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in rounds)
        seconds = {name: [turn[peer]["seconds"] for turn in rounds] for peer, name in enumerate(PEERS)}
        rates = {name: tokens / statistics.median(values) for name, values in seconds.items()}
        figures["tasks"][task] = {
            "requests": len(ours["answer"]),
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_second": rates,
            "ratio": ratio,
            "largest_difference": difference,
            "peak_memory_gib": {name: rounds[-1][peer]["memory"] for peer, name in enumerate(PEERS)},
        }
        print(
            f"{task:<16} {len(ours['answer']):>8} {tokens:>7} {rates['jaxpaint']:>7.0f}/s "
            f"{rates['transformers']:>7.0f}/s {ratio:>6.2f} {difference:>10.1e} "
            f"{ours['memory']:>5.2f} {theirs['memory']:>4.2f}",
            flush=True,
        )
    return figures


def _tokens(options, data: str) -> int:
    """Those that all requests of a task run, by the tokenizer alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    instances = _requests(argparse.Namespace(data=[data], limit=options.limit))
    return sum(len(tokenizer.encode("".join(each.args), add_special_tokens=False)) - 1 for each in instances)


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


def _turns(options, *what: str) -> list[tuple[dict, dict]]:
    """What both peers tell of each round."""
    shared = [f"--{each}={getattr(options, each)}" for each in ("model", "limit", "dtype", "threads")]
    with ExitStack() as stack:
        peers = [stack.enter_context(turns(__file__, *shared, *what, "--take-turns", name)) for name in PEERS]
        rounds = [tuple(peer() for peer in peers) for _ in range(options.rounds + 1)]
    return rounds[1:]  # in the first they become ready


def _lengths(options) -> dict:
    figures: dict = {"machine": _machine(options), "rounds": options.rounds, "lengths": {}}
    print(
        f"{'tokens':>7} {'jaxpaint':>10} {'transformers':>13} {'time':>6} {'difference':>11} {'peak memory, GiB':>18}"
    )
    for length in options.lengths:
        rounds = _turns(options, "--lengths", str(length))
        share = statistics.median(ours["seconds"] / theirs["seconds"] for ours, theirs in rounds)
        ours, theirs = rounds[-1]
        difference = abs(ours["answer"] - theirs["answer"]) / abs(theirs["answer"])
        figures["lengths"][length] = {"time_share": share, "difference": difference, "turns": rounds}
        medians = [statistics.median(turn[peer]["seconds"] for turn in rounds) for peer in (0, 1)]
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
