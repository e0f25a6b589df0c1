"""Attention knocked out of all facts of painter-16 under the paper's plans: seconds, and the peak of memory.

    python benchmarks/flow.py [--plans 76] [--rounds 3] [--naive 2]

Every fact, the key sets of subject, rest and last token, a window of steps around each depth and one of layers around
each layer, and all events. Beside it the same by one run for each knockout (`Model.run`), of the first `--naive` plans
and one window of each kind, extrapolated to all. The first round compiles, and is told apart.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plans", type=int, default=76, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--naive", type=int, default=2, metavar="N", help="plans (default: %(default)s)")
    options = parser.parse_args()
    import jaxpaint as jp
    from jaxpaint.analysis.asking import window_size
    from jaxpaint.analysis.facts import encoded_fact
    from jaxpaint.analysis.flow import flows
    from jaxpaint.engine.interventions import Knockout
    from jaxpaint.painter.facts import facts
    from jaxpaint.plans.events import events
    from jaxpaint.studies.settings import PRESETS, spec_from

    model = jp.load("painter-16", dtype="float32")
    variants = spec_from({"model": "painter-16", **PRESETS["demo"]}).variants(model.num_layers)
    plans = [variant.plan for variant in variants][: options.plans]
    found = []
    for _ in range(options.rounds + 1):
        began = time.perf_counter()
        flows(model, facts(), plans)
        found.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    prompts = [encoded_fact(model.tokenizer, fact)[0] for fact in facts()]
    tokens, size, runs = [prompt.tokens for prompt in prompts], window_size(model.num_layers), 0
    began = time.perf_counter()
    for plan in plans[: options.naive]:
        first = events(plan)[0].layer
        for where in ({"depths": range(size)}, {"layers": range(first, first + size)}):
            for key in range(3):
                keys = enumerate([prompt.sets[key] for prompt in prompts])
                changes = [Knockout(queries=-1, keys=own, rows=[row], **where) for row, own in keys]
                np.asarray(model.run(tokens, plan, *changes).logits)
                runs += 1
    each = (time.perf_counter() - began) / runs
    knockouts = sum(1 + 3 * (1 + plan.depth + model.num_layers) for plan in plans)
    print(f"{len(plans)} plans, {len(prompts)} facts, {knockouts} knockouts of each")
    later = ", ".join(f"{seconds:.1f}" for seconds in found[1:])
    print(f"first round {found[0]:.1f} s, then {later} s, peak {peak:.0f} MiB")
    whole = each * knockouts
    print(f"one run each: {each:.2f} s, for all {whole:.0f} s, {whole / min(found[1:]):.0f} times as long")


if __name__ == "__main__":
    main()
