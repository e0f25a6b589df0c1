"""Executables and compile seconds for many different plans on one batch shape.

    python benchmarks/compile.py [--plans 100] [--layers 32] [--json FILE]

Plans are drawn from every strategy of the paper and from random nested groups. "as data" is how scoring runs them
(`interpreted.run_program`); "static" compiles each plan for itself, timed on the first few and scaled.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=100)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--static", type=int, default=10, help="plans to compile statically (default: %(default)s)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    import jax
    import numpy as np

    from jaxpaint.engine import head, walk, whole
    from jaxpaint.engine.packing import Request
    from jaxpaint.engine.random_weights import random_model
    from jaxpaint.engine.score import score
    from jaxpaint.models.llama import LlamaConfig

    jax.config.update("jax_enable_compilation_cache", False)
    config = LlamaConfig("llama", 1000, 128, 344, options.layers, 4, 4, 32, 512, 1e-5, 1e4)
    model = random_model(config, dtype="float32")
    plans = _plans(options.plans, options.layers)
    rng = np.random.default_rng(0)
    requests = [Request.of(list(rng.integers(0, 1000, 40)), list(rng.integers(0, 1000, 4)), 512) for _ in range(16)]

    started = time.perf_counter()
    score(model, requests, plans[0])
    first = time.perf_counter() - started
    started = time.perf_counter()
    for plan in plans[1:]:
        score(model, requests, plan)
    rest = time.perf_counter() - started
    executables = sum(part.executables() for part in (walk._embed_stream, walk.segment, head._at_scored))

    tokens = np.zeros((2, 64), np.int32)
    started = time.perf_counter()
    for plan in plans[: options.static]:
        model.logits(tokens, plan, static=True).block_until_ready()
    static = (time.perf_counter() - started) / options.static
    nested = sum(plan.nesting > 1 for plan in plans)
    print(
        f"{len(plans)} different plans, {nested} of them with nested groups, {options.layers} layers, one batch shape"
    )
    print(f"as data: {executables} executable(s), first plan {first:.1f} s with compilation, then {rest:.1f} s in all")
    print(f"static:  {whole.static_logits.executables()} executables for {options.static} plans, {static:.1f} s each")
    figures = {"plans": len(plans), "executables": executables, "first": first, "rest": rest, "static_each": static}
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    # The embedding, the head, and the layers: in series, in groups, in nested groups and in deeply nested ones.
    if executables > 6:
        raise SystemExit("more than 6 executables for one batch shape")


def _plans(count: int, layers: int):
    """Different plans of all kinds, in a fixed shuffle."""
    from jaxpaint.plans import strategies
    from jaxpaint.plans.plan import Layer, Parallel, Plan, Repeat

    found = {}
    for name in strategies.STRATEGIES:
        for variant in strategies.family(name, layers, seeds=range(3), iterations=(2, 3, 5)):
            found[variant.plan] = None
    draw = random.Random(0)
    for nesting in range(count):
        pair = Parallel((Layer(draw.randrange(layers)), Layer(draw.randrange(layers))), "sum")
        for _ in range(nesting % 4):
            pair = Parallel((Repeat(Layer(draw.randrange(layers)), 2), pair, Layer(draw.randrange(layers))))
        found[Plan.of(0, pair, layers - 1)] = None
    plans = list(found)
    draw.shuffle(plans)
    return plans[:count]


if __name__ == "__main__":
    main()
