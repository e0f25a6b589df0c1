"""How seconds and memory grow: with plans, documents, tokens of a document, layers, branches of a group, workers.

    python benchmarks/scaling.py [--part plans --part tokens] [--rounds 5] [--figure scaling.png] [--json F]

Random weights at tiny shapes (`MODEL`), one process, float32; the workers are processes of `jaxpaint study` on
painter-16 and one store, each on a core of its own. Sizes take turns, round by round, after a round that compiles;
memory is the peak above what the process held before the call, the compiler left out. A law is a power of the least
seconds, to which a busy machine adds: its exponent is the slope of a straight line through the logarithms, by least
squares, once through all sizes and once through the last three. Between neighbours it breaks where their own slope is
off by more than `BREAKS`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

MODEL = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
SIZES = {
    "plans": (1, 3, 10, 30, 100, 300, 1000),
    "documents": (1, 4, 16, 64, 256, 1024),
    "tokens": (16, 64, 256, 1000, 2000, 4000, 8000),
    "layers": (8, 16, 24, 40, 80),
    "branches": (1, 2, 4, 8, 16, 32),
    "workers": (1, 2, 4, 8),
}
BREAKS = 0.3
LONG = 5.0  # seconds of one call, from which it runs twice

ON_A_CORE = "import os, sys; os.sched_setaffinity(0, {int(sys.argv.pop(1))}); from jaxpaint.cli import script; script()"


@dataclass
class Measured:
    """One size: seconds of each round, MiB at the peak above what was there, and seconds that compiling took."""

    size: int
    seconds: list[float]
    mebibytes: float | None
    first_seconds: float
    work: float | None = None  # layer applications times positions

    @property
    def least(self) -> float:
        return min(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=SIZES, help="default: all")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every size (default: %(default)s)")
    parser.add_argument("--largest", type=int, metavar="N", help="leave larger sizes out")
    parser.add_argument("--figure", type=Path, help="draw it here, PNG or PDF")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; give at least 1")
    found = {}
    for part in options.part or SIZES:
        sizes = [size for size in SIZES[part] if size <= (options.largest or size)]
        found[part] = _workers(sizes) if part == "workers" else _calls(part, sizes, options.rounds)
        print("\n".join(_table(part, found[part])), flush=True)
    if options.json:
        values = {part: [asdict(each) for each in measured] for part, measured in found.items()}
        options.json.write_text(json.dumps({"machine": _machine(), "model": MODEL, "parts": values}, indent=2))
    if options.figure:
        _draw(found, options.figure)
    print(f"\n{_machine()}")


def _calls(part: str, sizes: list[int], rounds: int) -> list[Measured]:
    """Each size's call by turns."""
    from jaxpaint.bench import peak

    calls = dict(_prepared(part, sizes))
    found = {}
    for size, run in calls.items():
        began = time.perf_counter()
        work = run()
        found[size] = Measured(size, [], None, time.perf_counter() - began, work)
    for number in range(rounds):
        for size in sizes[:: 1 if number % 2 else -1]:
            each = found[size]
            if len(each.seconds) > 1 and each.least > LONG:
                continue
            begun = peak.begin()
            before, began = _resident(), time.perf_counter()
            calls[size]()
            each.seconds.append(time.perf_counter() - began)
            if (reached := peak.since(begun)) is not None:
                each.mebibytes = max(each.mebibytes or 0, (reached - before) / 2**20)
    for each in found.values():  # what the first call took beyond another one
        each.first_seconds = max(0.0, each.first_seconds - each.least)
    return [found[size] for size in sizes]


def _prepared(part: str, sizes: list[int]) -> Iterator[tuple[int, Callable[[], float]]]:
    """For each size what to call; it returns the layer applications times positions that were executed."""
    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.random_weights import random_model
    from jaxpaint.engine.score import score_plans
    from jaxpaint.models import from_huggingface
    from jaxpaint.plans.plan import Plan
    from jaxpaint.plans.strategies import build

    rng = np.random.default_rng(0)

    def model(layers: int):
        return random_model(from_huggingface({**MODEL, "num_hidden_layers": layers}), dtype="float32")

    def requests(count: int, length: int) -> list[Request]:
        texts = rng.integers(0, MODEL["vocab_size"], (count, length)).tolist()
        return [Request.of(text[:-4], text[-4:], length) for text in texts]

    def call(on, asked, plans) -> Callable[[], float]:
        return lambda: float(score_plans(on, asked, plans).executed)

    usual = MODEL["num_hidden_layers"]
    one = model(32 if part == "branches" else usual) if part != "layers" else None
    for size in sizes:
        if part == "plans":
            shuffled = [build("random", usual, start=1, seed=seed).plan for seed in range(size)]
            yield size, call(one, requests(4, 32), list(dict.fromkeys(shuffled)))
        elif part == "documents":
            yield size, call(one, requests(size, 64), [Plan.of(range(usual))])
        elif part == "tokens":
            yield size, call(one, requests(1, size), [Plan.of(range(usual))])
        elif part == "layers":
            yield size, call(model(size), requests(16, 128), [Plan.of(range(size))])
        else:
            group = f"{{{' '.join(map(str, range(size)))}}}" if size > 1 else "0"
            yield size, call(one, requests(16, 128), [Plan.parse(group)])


def _workers(sizes: list[int]) -> list[Measured]:
    """A study by so many processes at once, from their start to the end of the last, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0))
    study = ["study", "--model", "painter-16", "--tasks", "painter_facts,painter_places,painter_letters"]
    study += ["--strategies", "skip,reverse,parallel,looped-parallel", "--loops", "2,3", "--starts", "1-6"]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for size in [0, *(size for size in sizes if size <= len(cores))]:  # the first compiles
            where = [*study, "--limit", "100" if size else "4", "--store", str(Path(folder, f"{size}.sqlite"))]
            began = time.perf_counter()
            processes = [
                subprocess.Popen(
                    [sys.executable, "-c", ON_A_CORE, str(core), *where],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                for core in cores[: max(size, 1)]
            ]
            ended = [process.wait() for process in processes]
            if any(ended):
                raise SystemExit(f"a study of {size} workers failed: jaxpaint {' '.join(where)}")
            if size:
                found.append(Measured(size, [time.perf_counter() - began], None, 0.0))
    return found


def exponent(sizes, values) -> float:
    """The slope of a straight line through the logarithms, by least squares; NaN of fewer than two points."""
    x, y = np.asarray(sizes, float), np.asarray(values, float)
    known = (x > 0) & (y > 0)
    if known.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(x[known]), np.log(y[known]), 1)[0])


def breaks(sizes, values) -> list[tuple[int, int, float]]:
    """Neighbours whose own slope is off the law of the last three by more than `BREAKS`: (from, to, slope)."""
    law = exponent(sizes[-3:], values[-3:])
    pairs = zip(pairwise(sizes), pairwise(values), strict=True)
    slopes = [(*between, exponent(between, took)) for between, took in pairs]
    return [(a, b, slope) for a, b, slope in slopes if abs(slope - law) > BREAKS]


def _table(part: str, measured: list[Measured]) -> list[str]:
    lines = ["", f"| {part} | least seconds | median | MiB | compiling, s | layers x positions |"]
    lines.append("|---|---|---|---|---|---|")
    for each in measured:
        memory = "" if each.mebibytes is None else f"{each.mebibytes:.0f}"
        work = "" if each.work is None else f"{each.work:,.0f}"
        median = f"{statistics.median(each.seconds):.3g}"
        lines.append(f"| {each.size} | {each.least:.3g} | {median} | {memory} | {each.first_seconds:.1f} | {work} |")
    sizes, seconds = [each.size for each in measured], [each.least for each in measured]
    said = [f"seconds grow with exponent {exponent(sizes, seconds):.2f} over all sizes"]
    if len(sizes) > 3:
        said.append(f"{exponent(sizes[-3:], seconds[-3:]):.2f} over the last three")
    if any(each.work for each in measured):
        said.append(f"work {exponent(sizes, [each.work or 0 for each in measured]):.2f}")
    if any(each.mebibytes for each in measured):
        said.append(f"memory {exponent(sizes, [each.mebibytes or 0 for each in measured]):.2f}")
    lines += ["", f"{part}: {', '.join(said)}"]
    for first, last, slope in breaks(sizes, seconds):
        lines.append(f"  off the law from {first} to {last}: {slope:.2f}")
    return lines


def _draw(found: dict[str, list[Measured]], file: Path) -> None:
    from matplotlib.figure import Figure

    from jaxpaint.report.figures.style import BLUE, GREY, ORANGE

    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    for axes, (part, measured) in zip(figure.subplots(rows, columns, squeeze=False).flat, found.items(), strict=False):
        sizes, seconds = [each.size for each in measured], [each.least for each in measured]
        axes.fill_between(
            sizes, seconds, [statistics.median(each.seconds) for each in measured], color=BLUE, alpha=0.2, linewidth=0
        )
        axes.plot(sizes, seconds, "o-", color=BLUE, label="least seconds (shade: to the median)")
        if len(sizes) > 1:
            slope = exponent(sizes[-3:], seconds[-3:])
            law = [seconds[-1] * (size / sizes[-1]) ** slope for size in sizes]
            axes.plot(sizes, law, ":", color=GREY, label=f"size ^ {slope:.2f}")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(sizes, map(str, sizes), minor=False, fontsize=8, rotation=45)
        axes.set_xticks([], minor=True)
        axes.set_xlabel(part)
        axes.grid(color="#e2e2e2")
        memory = [(each.size, each.mebibytes) for each in measured if each.mebibytes]
        if memory:
            beside = axes.twinx()
            beside.plot(*zip(*memory, strict=True), "s--", color=ORANGE, label="MiB")
            beside.set_ylim(0, 1.3 * max(size for _, size in memory))
            beside.legend(loc="lower right", fontsize=8, frameon=False)
        axes.legend(loc="upper left", fontsize=8, frameon=False)
    figure.suptitle(f"Seconds (left) and MiB at the peak (right): {_machine()}", fontsize=10)
    figure.savefig(file, dpi=130)


def _resident() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def _machine() -> str:
    import jax

    from jaxpaint.base.machine import machine, processor

    return f"{processor()}, {machine().cores} cores, jax {jax.__version__}"


if __name__ == "__main__":
    main()
