"""Ten arms of `jaxpaint birth` against one: how many times one arm's time do they take when they train as one?

    python benchmarks/birth_arms.py [--shapes 32x32x16,…,128x32x32] [--arms 10] [--rounds 5]

A shape is width x length x rows. One arm and ten take turns, round by round, in one process; figures are medians of
seconds a step, and of the ratio of neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import jax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="32x32x16,32x32x32,64x32x32,128x32x32")
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    print(f"{'shape':>12} {'one arm':>9} {options.arms:>4} arms {'ratio':>6}   (ms a step)")
    found = []
    for shape in options.shapes.split(","):
        one, many = (_stepper(*map(int, shape.split("x")), arms) for arms in (1, options.arms))
        rounds = [(one(), many()) for _ in range(options.rounds)]
        alone, together = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(second / first for first, second in rounds)
        found.append({"shape": shape, "one": alone, "together": together, "ratio": ratio, "arms": options.arms})
        print(f"{shape:>12} {alone:9.2f} {together:9.2f} {ratio:6.2f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def _stepper(width: int, length: int, rows: int, count: int):
    """A function that trains `count` arms for ten steps, in seconds a step; compiled already."""
    from jaxpaint.birth import train as training
    from jaxpaint.birth.arms import Arm, stacked
    from jaxpaint.birth.model import SmallModel

    model = SmallModel(width, length)
    settings = training.Training(100_000, rows, 0.1, every=10)
    freezes = [{}, {"W_O2": 300}, {"W_K1": 300}, {"W_K2": 300}, {"W_O2": 100}]
    arms = [Arm(str(number), frozen_until=freezes[number % len(freezes)]) for number in range(count)]
    data = stacked(model, arms)
    start, _ = training._begin(model, data, settings)
    trained, frozen = training.split(start, data.release)
    state = training._empty(trained, data, model, settings)

    def step() -> float:
        nonlocal state
        began = time.perf_counter()
        state = jax.block_until_ready(training._chunk(model, data, settings, frozen, state))
        return (time.perf_counter() - began) / settings.every

    step()
    return step


if __name__ == "__main__":
    main()
