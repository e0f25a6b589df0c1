"""What one accelerator does, in one run of minutes beside transformers on torch: `benchmarks/on_device.sh` calls it.

Parts, each written to OUT as soon as it is done: the device's own rates of matrix products and copies; scoring and
decoding beside transformers, random weights; plans timed in turn; how far bfloat16 is from float32, here and there.
Rounds are interleaved, figures are medians, ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from random_weights import SHAPES, random_models

TINY = {**SHAPES["llama2-7b"], "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172, "num_hidden_layers": 8}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
SCORED = 16  # tokens at the end of each text, of which log-likelihoods are wanted
PARITY_LAYERS = 2
GOALS = {
    "scoring, share of the measured matrix products": 0.65,
    "scoring, times transformers": 1.3,
    "decoding one row, share of the measured copies": 0.70,
}
MOST_ERROR = 1.5  # of bfloat16 here, by that of bfloat16 in transformers: both against float32


@dataclass(frozen=True)
class Sizes:
    """What is run: rows and tokens of scoring, prompt and new tokens of decoding, bytes and sides of the rates."""

    rows: int
    length: int
    prompt: int
    new: int
    batches: tuple[int, ...]
    side: int
    copied: int
    rounds: int


REAL = Sizes(rows=64, length=512, prompt=128, new=64, batches=(1, 32), side=8192, copied=4 << 30, rounds=3)
SMALL = Sizes(rows=4, length=32, prompt=16, new=8, batches=(1, 2), side=256, copied=1 << 24, rounds=2)


class Report:
    """Tables and figures, written whole after each part."""

    def __init__(self, folder: Path, title: str) -> None:
        self.folder, self.text, self.figures = folder, [f"# {title}", ""], {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figures: Any, columns: tuple[str, ...], rows: list[tuple]) -> None:
        self.figures[name] = figures
        lines = [columns, ["---"] * len(columns), *([_shown(value) for value in row] for row in rows)]
        self._say([f"## {name}", "", *("| " + " | ".join(line) + " |" for line in lines), ""])

    def failed(self, name: str) -> None:
        self.figures[name] = {"failed": traceback.format_exc()}
        self._say([f"## {name}", "", f"failed: {traceback.format_exc(limit=0).strip().splitlines()[-1]}", ""])

    def _say(self, lines: list[str]) -> None:
        self.text += lines
        print("\n".join(lines), flush=True)
        for file, content in (("on_device.md", "\n".join(self.text)), ("on_device.json", json.dumps(self.figures))):
            partial = self.folder / f".{file}"
            partial.write_text(content)
            partial.replace(self.folder / file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder for on_device.md and on_device.json")
    parser.add_argument("--shape", choices=SHAPES, default="llama2-7b", help="(default: %(default)s)")
    parser.add_argument("--kernels", action="store_true", help="also the kernels of scoring and decoding, by a trace")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and sizes, on any device: does it run?")
    options = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    began = time.perf_counter()
    import jax
    import torch
    import transformers

    device = jax.default_backend()
    if device == "cpu" and not options.tiny:
        parser.error("JAX sees no accelerator here; --tiny runs tiny shapes anywhere")
    if options.tiny:
        torch.set_num_threads(1)  # threads that wait for one another take most of tiny tensors' time
    sizes = SMALL if options.tiny else REAL
    shape = TINY if options.tiny else SHAPES[options.shape]
    title = f"{'tiny' if options.tiny else options.shape}, random weights, {jax.devices()[0].device_kind}"
    report = Report(options.out, title)
    versions = {"jax": jax.__version__, "torch": torch.__version__, "transformers": transformers.__version__}
    report.add("versions", versions, tuple(versions), [tuple(versions.values())])
    goals: dict[str, float] = {}
    state: dict[str, Any] = {}

    def load() -> None:
        state["ours"], state["theirs"] = random_models(shape, device)

    parts: tuple[tuple[str, Callable[[], None]], ...] = (
        ("rates of the device", lambda: state.update(rates=_rates(report, sizes, device))),
        ("weights", load),
        ("scoring", lambda: _scoring(report, sizes, state, goals)),
        ("decoding", lambda: _decoding(report, sizes, state, goals)),
        ("plans", lambda: _plans(report, sizes, state)),
        ("memory", lambda: _memory(report, device)),
        *((("kernels", lambda: _kernels(report, sizes, state)),) if options.kernels else ()),
        ("parity of bfloat16", lambda: _parity(report, sizes, state, shape, device)),
    )
    failed = []
    for name, part in parts:
        started = time.perf_counter()
        try:
            part()
        except Exception:
            failed.append(name)
            report.failed(name)
        print(f"({name}: {time.perf_counter() - started:.0f} s)", flush=True)
    rows = [(name, goals.get(name), least, _met(goals.get(name), least)) for name, least in GOALS.items()]
    report.add("goals", goals, ("goal", "measured", "at least", "met"), rows)
    print(f"{title}: {time.perf_counter() - began:.0f} s in all; tables in {options.out / 'on_device.md'}")
    return 1 if failed else 0


def _met(measured: float | None, least: float) -> str:
    return "not measured" if measured is None else "yes" if measured >= least else "no"


def _rates(report: Report, sizes: Sizes, device: str) -> dict[str, float]:
    """Operations a second of a product of square matrices, and bytes a second, read and written, of a copy."""
    import jax
    import jax.numpy as jnp
    import torch

    where, side = ("cuda" if device == "gpu" else "cpu"), sizes.side
    matrix = jax.random.normal(jax.random.key(0), (side, side), jnp.bfloat16)
    numbers = jnp.zeros(sizes.copied // 2, jnp.bfloat16)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: -a)
    theirs = torch.randn(side, side, dtype=torch.bfloat16, device=where)
    many = torch.zeros(sizes.copied // 2, dtype=torch.bfloat16, device=where)
    runs = {
        "jax": (lambda: product(matrix).block_until_ready(), lambda: copy(numbers).block_until_ready()),
        "torch": (lambda: _done(torch, theirs @ theirs), lambda: _done(torch, -many)),
    }
    seconds = {(name, what): min(_timed(run, 10)) for name, both in runs.items() for what, run in enumerate(both)}
    products = {name: 2 * side**3 / seconds[name, 0] for name in runs}
    copies = {name: 2 * sizes.copied / seconds[name, 1] for name in runs}
    figures = {"products": products, "copies": copies}
    rows = [(name, products[name] / 1e12, copies[name] / 1e9) for name in runs]
    columns = ("by", f"bfloat16 products of {side} x {side}, TFLOP/s", f"copies of {sizes.copied >> 20} MiB, GB/s")
    report.add("rates of the device", figures, columns, rows)
    return {"products": max(products.values()), "copies": max(copies.values())}


def _done(torch: Any, value: Any) -> Any:
    if value.is_cuda:
        torch.cuda.synchronize()
    return value


def _timed(run: Callable[[], Any], times: int) -> list[float]:
    run()  # compiles
    found = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        found.append(time.perf_counter() - began)
    return found


def _by_turns(peers: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds by round, after one that compiles, whose seconds are printed."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds + 1):
        for name, peer in peers.items():
            began = time.perf_counter()
            peer()
            seconds[name].append(time.perf_counter() - began)
    print("(at first: " + ", ".join(f"{name} {each.pop(0):.1f} s" for name, each in seconds.items()) + ")", flush=True)
    return seconds


def _ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["jaxpaint"], seconds["transformers"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


def _scoring(report: Report, sizes: Sizes, state: dict[str, Any], goals: dict[str, float]) -> None:
    import numpy as np
    import torch

    from jaxpaint.bench.ahead import layer_flops
    from jaxpaint.bench.programs import Work
    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.score import score

    model, theirs = state["ours"], state["theirs"]
    config = model.config
    texts = np.random.default_rng(0).integers(0, config.vocab_size, (sizes.rows, sizes.length))
    requests = [Request.of(row[:-SCORED].tolist(), row[-SCORED:].tolist(), sizes.length) for row in texts]
    tokens = sizes.rows * (sizes.length - 1)
    batch = max(1, min(32, sizes.rows))

    def peer() -> float:
        total = 0.0
        with torch.inference_mode():
            for start in range(0, sizes.rows, batch):
                ids = torch.tensor(texts[start : start + batch, :-1], device=theirs.device)
                logits = theirs(ids, use_cache=False, logits_to_keep=SCORED).logits.float()
                total += float(logits.log_softmax(-1).max(-1).values.sum())
        return total

    seconds = _by_turns({"jaxpaint": lambda: score(model, requests), "transformers": peer}, sizes.rounds)
    flops = layer_flops(config, Work("score", model.full_plan, sizes.rows, sizes.length - 1)) * config.num_hidden_layers
    flops += 2.0 * sizes.rows * SCORED * config.vocab_size * config.hidden_size
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    shares = {name: flops / each / state["rates"]["products"] for name, each in medians.items()}
    goals["scoring, share of the measured matrix products"] = shares["jaxpaint"]
    goals["scoring, times transformers"] = _ratio(seconds)
    what = f"{sizes.rows} rows of {sizes.length} tokens, the last {SCORED} scored"
    rows = [(name, tokens / each, flops / each / 1e12, shares[name]) for name, each in medians.items()]
    figures = {"what": what, "seconds": seconds, "flops": flops, "shares": shares, "ratio": _ratio(seconds)}
    report.add(f"scoring: {what}", figures, ("by", "tokens/s", "TFLOP/s", "share of products"), rows)


def _decoding(report: Report, sizes: Sizes, state: dict[str, Any], goals: dict[str, float]) -> None:
    import jax
    import numpy as np
    import torch

    from jaxpaint.generation import GenerationSettings, Prompt, generate
    from jaxpaint.generation.cache import token_bytes

    model, theirs = state["ours"], state["theirs"]
    rows = []
    figures: dict[str, Any] = {}
    # The embedding's rows are looked up; all other weights are read once a step, and so is what was written.
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(model.state))
    parameters -= model.config.vocab_size * model.config.hidden_size * model.dtype.itemsize
    for batch in sizes.batches:
        prompts = np.random.default_rng(batch).integers(0, model.config.vocab_size, (batch, sizes.prompt))
        ids = torch.tensor(prompts, device=theirs.device)
        mask = torch.ones_like(ids)
        how: Any = {"settings": GenerationSettings(), "batch_size": batch, "room": sizes.new}

        def ours(new: int, prompts=prompts, how=how) -> None:
            asked = [Prompt(tuple(row), new) for row in prompts.tolist()]
            list(generate(model, asked, [model.full_plan], **how))

        def peer(new: int, ids=ids, mask=mask) -> None:
            with torch.inference_mode():
                theirs.generate(
                    ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
                ).cpu()

        calls = {
            f"{name} {new}": (lambda run=run, new=new: run(new))
            for name, run in (("jaxpaint", ours), ("transformers", peer))
            for new in (1, sizes.new)
        }
        seconds = _by_turns(calls, sizes.rounds)
        first = {name: seconds[f"{name} 1"] for name in ("jaxpaint", "transformers")}
        steps = {
            name: [
                (whole - one) / (sizes.new - 1) for one, whole in zip(each, seconds[f"{name} {sizes.new}"], strict=True)
            ]
            for name, each in first.items()
        }
        cached = batch * (sizes.prompt + sizes.new / 2) * token_bytes(model) * model.num_layers
        medians = {name: statistics.median(each) for name, each in steps.items()}
        shares = {name: (parameters + cached) / each / state["rates"]["copies"] for name, each in medians.items()}
        if batch == 1:
            goals["decoding one row, share of the measured copies"] = shares["jaxpaint"]
        figures[str(batch)] = {"first": first, "steps": steps, "shares": shares, "ratio": _ratio(steps)}
        rows += [
            (batch, name, 1000 * statistics.median(first[name]), 1000 * each, batch / each, shares[name])
            for name, each in medians.items()
        ]
    columns = ("rows", "by", "ms to the first token", "ms of each further", "tokens/s", "share of copies")
    report.add(f"decoding: prompts of {sizes.prompt} tokens, {sizes.new} new ones", figures, columns, rows)


def _plans(report: Report, sizes: Sizes, state: dict[str, Any]) -> None:
    """As `jaxpaint bench --model` measures them."""
    from dataclasses import asdict

    from jaxpaint.bench import latency
    from jaxpaint.plans.plan import Plan
    from jaxpaint.results.latency import beside

    model = state["ours"]
    last, quarter = model.num_layers - 1, model.num_layers // 4
    middle = f"{quarter}-{last - quarter}"
    texts = [f"0-{last}", f"0-{quarter - 1} {{{middle}}} {last - quarter + 1}-{last}"]
    texts += [f"0-{quarter - 1} {last - quarter + 1}-{last}"]
    plans = [Plan.parse(text) for text in texts]
    found = latency.measure(model, plans, latency.Sizes(1, sizes.prompt, sizes.new), sizes.rounds)
    figures = {str(plan): asdict(each) for plan, each in zip(plans, found, strict=True)}
    rows = [
        (
            *(str(plan), 1000 * each.first.median, beside(found[0].first_seconds, each.first_seconds)),
            *(1000 * each.step.median, beside(found[0].step_seconds, each.step_seconds)),
        )
        for plan, each in zip(plans, found, strict=True)
    ]
    columns = ("plan", "ms to the first token", "times the first plan", "ms of each further", "times the first plan")
    report.add("plans, one row", figures, columns, rows)


def _memory(report: Report, device: str) -> None:
    import torch

    from jaxpaint.bench import peak

    if device != "gpu":
        report.add(
            "memory", {"process": peak.since(0)}, ("of", "peak, GiB"), [("process", (peak.since(0) or 0) / 2**30)]
        )
        return
    figures = {"jaxpaint": peak.since(0), "transformers": torch.cuda.max_memory_allocated()}
    rows = [(name, (each or 0) / 2**30) for name, each in figures.items()]
    report.add("memory", figures, ("by", "peak so far, GiB"), rows)


def _kernels(report: Report, sizes: Sizes, state: dict[str, Any]) -> None:
    """What the device ran while one batch was scored, one text written by its plan, and 32 with the plan as data."""
    import numpy as np
    from kernel_times import kernel_times

    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.score import score
    from jaxpaint.generation import GenerationSettings, Prompt, generate

    model, random = state["ours"], np.random.default_rng(0)
    texts = random.integers(0, model.config.vocab_size, (sizes.rows, sizes.length)).tolist()
    requests = [Request.of(row[:-SCORED], row[-SCORED:], sizes.length) for row in texts]
    runs: dict[str, Callable[[], Any]] = {"scoring": lambda: score(model, requests)}
    for batch in sizes.batches:
        asked = [Prompt(tuple(row[: sizes.prompt]), sizes.new) for row in texts[:batch]]
        how: Any = {"settings": GenerationSettings(), "batch_size": batch, "room": sizes.new}
        runs[f"decoding {batch}"] = lambda asked=asked, how=how: list(generate(model, asked, [model.full_plan], **how))
    rows: list[tuple] = []
    for what, run in runs.items():
        if found := kernel_times(run):
            rows += [(what, "all", sum(found.runs.values()), 1000 * found.busy, found.busy / found.span)]
            rows += [("", name[:70], count, 1000 * each, each / found.span) for name, count, each in found.longest(12)]
    report.add("kernels", rows, ("of", "kernel", "runs", "ms", "share of the time"), rows)


def _parity(report: Report, sizes: Sizes, state: dict[str, Any], shape: dict[str, Any], device: str) -> None:
    """Log-likelihoods of the same weights, few layers of them, against float32 in transformers."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from convert import convert
    from jaxpaint.engine.model import load
    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.score import score

    state.clear()  # the large models make room
    config = AutoConfig.for_model(**{**shape, "num_hidden_layers": PARITY_LAYERS}, eos_token_id=None)
    where = "cuda" if device == "gpu" else "cpu"
    texts = np.random.default_rng(1).integers(0, config.vocab_size, (min(8, sizes.rows), sizes.length))
    with tempfile.TemporaryDirectory() as folder:
        with torch.device(where):
            theirs = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
        theirs.save_pretrained(Path(folder, "model"))
        model = load(convert(Path(folder, "model"), Path(folder, "store")), dtype="bfloat16")

    def of_transformers(network: Any) -> np.ndarray:
        ids = torch.tensor(texts, device=where)
        with torch.inference_mode():
            found = torch.log_softmax(network(ids[:, :-1], use_cache=False).logits.float(), -1)
            return found.gather(-1, ids[:, 1:, None])[..., 0].cpu().numpy()

    logprobs = {"transformers, bfloat16": of_transformers(theirs)}
    exact = of_transformers(theirs.float())
    by_data = np.asarray(model.logits(texts[:, :-1]), np.float32)
    by_plan = np.asarray(model.logits(texts[:, :-1], static=True), np.float32)
    for name, logits in (("jaxpaint, plan as data", by_data), ("jaxpaint, plan compiled", by_plan)):
        shifted = logits - logits.max(-1, keepdims=True)
        found = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        logprobs[name] = np.take_along_axis(found, texts[:, 1:, None], -1)[..., 0]
    whole = [Request.of(row[:1].tolist(), row[1:].tolist(), sizes.length) for row in texts]
    scored = score(model, whole).loglikelihoods
    errors = {name: float(np.abs(found - exact).mean()) for name, found in logprobs.items()}
    theirs_bf16 = errors["transformers, bfloat16"]
    rows = [
        (name, each, float(np.abs(logprobs[name] - exact).max()), each / theirs_bf16) for name, each in errors.items()
    ]
    sums = {"jaxpaint, scoring": np.abs(scored - exact.sum(1)).mean()}
    sums["transformers, bfloat16"] = np.abs(logprobs["transformers, bfloat16"].sum(1) - exact.sum(1)).mean()
    report.add(
        f"parity of bfloat16 with float32, {PARITY_LAYERS} layers: errors of log-likelihoods, in nats",
        {"mean": errors, "of whole texts": {name: float(each) for name, each in sums.items()}},
        ("by", "mean of a token", "largest", "by that of transformers"),
        [*rows, *((f"{name}, whole texts", float(each), None, None) for name, each in sums.items())],
    )
    worst = max(each for name, each in errors.items() if name.startswith("jaxpaint")) / theirs_bf16
    if not worst <= MOST_ERROR:
        raise AssertionError(f"bfloat16 here is {worst:.2f} times as far from float32 as transformers' is")


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
