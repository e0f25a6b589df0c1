"""Ten arms of `jaxpaint birth` against one: how many times one arm's time do they take when they train as one?

    python benchmarks/birth_arms.py [--shapes 32x32x16,…,128x32x32] [--arms 10] [--rounds 5]

A shape is width x length x rows. Each core is a device, as in the command. One arm and ten take turns, round by round,
in one process; figures are medians of milliseconds a step, on the clock and of cores' time (which other work on the
machine changes less), and of the ratio of neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import jax

from jaxpaint.birth.spread import cores_as_devices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="32x32x16,32x32x32,64x32x32,128x32x32")
    parser.add_argument("--arms", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    cores_as_devices(options.arms)
    print(
        f"{'shape':>12} {'one arm':>9} {options.arms:>4} arms {'ratio':>6}   {'cores: one':>10} {'all':>9} {'ratio':>6}"
    )
    found = []
    for shape in options.shapes.split(","):
        one, many = (_stepper(*map(int, shape.split("x")), arms) for arms in (1, options.arms))
        rounds = [(one(), many()) for _ in range(options.rounds)]
        told = {"shape": shape, "arms": options.arms}
        for number, kind in enumerate(("clock", "cores")):
            pairs = [(first[number], second[number]) for first, second in rounds]
            alone, together = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
            ratio = statistics.median(second / first for first, second in pairs)
            told[kind] = {"one": alone, "together": together, "ratio": ratio}
        found.append(told)
        clock, cores = (
            f"{e['one']:9.2f} {e['together']:9.2f} {e['ratio']:6.2f}" for e in (told["clock"], told["cores"])
        )
        print(f"{shape:>12} {clock}   {cores:>27}", flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def _stepper(width: int, length: int, rows: int, count: int):
    """Trains `count` arms for ten steps, compiled already: seconds a step, by the clock and of cores."""
    from jaxpaint.birth import train as training
    from jaxpaint.birth.arms import Arm, stacked
    from jaxpaint.birth.model import SmallModel
    from jaxpaint.birth.spread import mesh_of, widened

    model = SmallModel(width, length)
    settings = training.Training(100_000, rows, 0.1, every=10)
    freezes = [{}, {"W_O2": 300}, {"W_K1": 300}, {"W_K2": 300}, {"W_O2": 100}]
    arms = [Arm(str(number), frozen_until=freezes[number % len(freezes)]) for number in range(count)]
    mesh = mesh_of(count)
    data = stacked(model, [*arms, *[arms[-1]] * (-count % mesh.size)])
    start, _ = training._begin(model, data, settings)
    trained, frozen = training.split(start, data.release)
    state = widened(training._empty(trained, data, model, settings), len(data.stream), mesh)

    def step() -> tuple[float, float]:
        nonlocal state
        began, busy = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(training._chunk(model, settings, mesh, data, frozen, state))
        return (time.perf_counter() - began) / settings.every, (time.process_time() - busy) / settings.every

    step()
    return step


if __name__ == "__main__":
    main()
