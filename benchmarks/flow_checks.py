"""What the numbered checks of the flow measure, of those that are cheap: the table at the end of RESULTS.md.

    python benchmarks/flow_checks.py
    python benchmarks/flow_checks.py --real DIR/smollm2 --known known_1000.json

From the repository's root, with the packages of its tests: the oracles are theirs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import jaxpaint as jp
from jaxpaint.analysis.clock import CLOCK
from jaxpaint.analysis.extraction import extraction, updates
from jaxpaint.analysis.facts import encoded_fact, read_facts
from jaxpaint.analysis.flow import flows
from jaxpaint.analysis.knockouts import EVERYWHERE, Prompt, Window, centred, knock_out
from jaxpaint.analysis.routes import routes
from jaxpaint.engine.interventions import Knockout
from jaxpaint.painter import language, world
from jaxpaint.painter.facts import facts
from jaxpaint.plans.events import events
from jaxpaint.plans.plan import Plan
from tests.analysis import test_knockouts as leaves
from tests.analysis import test_routes as route_tests
from tests.helpers.decoders import PLANS, make_tiny


def check_1() -> str:
    """Leaves and runs of their own: the largest difference of logits, by the largest logit where that is above 1."""
    model, prompts, plans = make_tiny("grouped-query").model, leaves._prompts(), leaves._plans()
    rows, ends, worst, count = np.arange(len(prompts)), np.array([len(each.tokens) - 1 for each in prompts]), 0.0, 0
    windows = (EVERYWHERE, Window("depth", 1, 3), Window("layer", 2, 4))
    for plan, found in zip(plans, knock_out(model, prompts, plans, windows), strict=True):
        for leaf in range(1, 1 + len(windows) * 3):
            window, key = divmod(leaf - 1, 3)
            if not any(leaves._chosen(windows[window], event) for event in events(plan)):
                continue
            where = leaves._where(windows[window])
            keys = [prompt.sets[key] for prompt in prompts]
            changes = [Knockout(queries=-1, keys=own, rows=[row], **where) for row, own in enumerate(keys)]
            logits = np.asarray(model.run([prompt.tokens for prompt in prompts], plan, *changes).logits)[rows, ends]
            difference = np.abs(found.logit[:, leaf] - logits[rows, found.token]).max()
            worst, count = max(worst, difference / max(1, np.abs(logits).max())), count + 1
    return f"{worst:.1e} ({len(plans)} plans, {len(prompts)} prompts, {count} knockouts of each)"


def check_2() -> str:
    model = make_tiny("grouped-query").model
    found = knock_out(model, leaves._prompts(), leaves._plans(), [Window("depth", 90, 99)])
    bits = max(np.abs(each.logit_change).max() for each in found)
    worst, prompts = 0.0, leaves._prompts()
    lengths = np.array([len(prompt.tokens) for prompt in prompts])
    tokens = np.array([[*prompt.tokens, *[0] * (lengths.max() - len(prompt.tokens))] for prompt in prompts])
    for variation in ("grouped-query", "sliding window", "neox"):
        model = make_tiny(variation).model
        for plan, each in zip(leaves._plans(), knock_out(model, prompts, leaves._plans(), [EVERYWHERE]), strict=True):
            logits = np.asarray(model.logits(tokens, plan, lengths))[np.arange(len(prompts)), lengths - 1]
            difference = np.abs(each.logit[:, 0] - logits[np.arange(len(prompts)), each.token]).max()
            worst = max(worst, difference / max(1, np.abs(logits).max()))
    return f"{bits} from a leaf that blocks nothing, {worst:.1e} from the ordinary run's executable"


def check_4() -> str:
    painter, prompts = jp.load("painter-16", dtype="float32"), []
    for fact in facts():
        words, (prompt, _) = fact.prompt.split(), encoded_fact(jp.load("painter-16").tokenizer, fact)
        before, last = len(prompt.tokens) - len(words), len(prompt.tokens) - 1
        named = fact.subject, words[words.index("the") + 1], "the"
        sets = *((before + words.index(word),) for word in named), (last,), tuple(range(last))
        prompts.append(Prompt(prompt.tokens, sets))
    (found,) = knock_out(painter, prompts, ["0-15"], [EVERYWHERE])
    return ", ".join(f"{share:.3f}" for share in found.left[:, 0].mean(axis=0))


def check_5() -> str:
    tokens, worst, by_head = np.array([list(range(3, 14)), list(range(40, 51))]), 0.0, 0.0
    for variation in ("grouped-query", "neox"):
        for plan in leaves._plans():
            run = make_tiny(variation).model.run(tokens, plan)
            found, (parts, bias) = run.attribution(7), run.attribution_by_head(7)
            scale = np.maximum(1, np.abs(found.logit)).max()
            worst = max(worst, np.abs(found.remainder).max() / scale)
            by_head = max(by_head, np.abs(parts.sum(axis=(2, 3)) + bias - found.attention).max() / scale)
    named = ("0-23", "{9-22}", "{9-22}*3", "sum{9 10}")
    counted = [sum(event.weight for event in events(Plan.parse(text))) for text in named]
    return f"{worst:.1e}; by head and source {by_head:.1e}; weights {', '.join(f'{each:g}' for each in counted)} layers"


def check_6() -> str:
    painter, size = jp.load("painter-16", dtype="float32"), 3
    full, looped = flows(painter, facts(), ["0-15", "0-3 (4-11)*2 12-15"], size=size)
    same = np.abs(full.by_depth.value - full.by_layer.value).max()
    lowest = [np.nanmin(mean.value[:, 0]) for mean in (looped.by_depth, looped.by_layer)]
    steps, layers = (f"{each:.1f} %" for each in lowest)
    return (
        f"full plan {same}; `0-3 (4-11)*2 12-15` ({looped.known.sum()} of 96 known): the subject's strongest window "
        f"{steps} by step, {layers} by layer"
    )


def check_7() -> str:
    nine, ten = centred("layer", 9, 48), centred("layer", 10, 48)
    return ", ".join(f"{each.start}-{each.stop - 1}" for each in (nine[0], nine[24], nine[47], ten[24]))


def check_8() -> str:
    total, naive = 0.0, 0.0
    for variation in route_tests.FAMILIES:
        for text in route_tests.PLANS:
            tiny = make_tiny(variation)
            run = tiny.model.run(route_tests.TOKENS[:1], text)
            found = routes(run, threshold=0, renormalise=False)
            total = max([total, *(abs(sum(edge.share for edge in own) - 1) for own in found.into if own)])
            ours, theirs = (
                route_tests._incoming(found),
                route_tests.naive(tiny, route_tests.TOKENS[:1], Plan.parse(text)),
            )
            for node in ours.keys() & theirs.keys():
                naive = max([naive, *(abs(share - theirs[node][key]) for key, share in ours[node].items())])
    return f"sums off by {total:.1e}, shares from naive ones by {naive:.1e}; by hand 0 and 1"


def check_9() -> str:
    worst = 0.0
    for variation in ("grouped-query", "neox"):
        model = make_tiny(variation).model
        for plan in PLANS:
            run = model.run(route_tests.TOKENS, plan)
            logits = np.asarray(model.logits(route_tests.TOKENS, plan), np.float64)
            expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            lens = run.logit_lens(5)
            found = np.take_along_axis(expected, lens.tokens[-1].astype(int), axis=-1)
            worst = max(worst, np.abs(found - lens.logprobs[-1]).max())
    painter = jp.load("painter-16", dtype="float32")
    texts = [painter.tokenizer.encode(language.question(*fact)) for fact in sorted(world.FACTS)]
    (full,) = jp.analyse(painter, texts, [painter.full_plan], probes=[CLOCK])
    off = 16 * np.abs(full.clock - np.linspace(0, 1, 17)[:, None]).mean(axis=0)
    return f"lens {worst:.1e}; clock R² {_two(full.clock_fit, 3)}, off by {_two(off, 2)} layers (last tokens, others)"


def check_10() -> str:
    tiny, prompts, wrong, count = make_tiny("grouped-query"), leaves._prompts(40), 0, 0
    head = tiny.torch.get_output_embeddings().weight.detach().numpy()
    scale = tiny.torch.base_model.norm.weight.detach().numpy()
    for plan in (PLANS[1], PLANS[8]):
        run = tiny.model.run([prompt.tokens for prompt in prompts], plan)
        found = extraction(run)
        for name, update in updates(run).items():
            own = ((np.asarray(update) * 3.7 * scale) @ head.T).argmax(axis=-1) == found.token
            wrong, count = wrong + (own != getattr(found, name)).sum(), count + own.size
    return f"{wrong} of {count} differ"


def check_11() -> str:
    (flow,) = flows(jp.load("painter-16", dtype="float32"), facts(), ["0-15"])
    (verdict,) = [each for each in flow.verdicts if each.claim == "enriched"]
    own, control = flow.enriched.own.value.max(), flow.enriched.control.value.max()
    return f"{verdict.answer}: of its four facts at most {own:.2f} after any step, of another town's {control:.2f}"


def check_12(folder: Path, known: Path) -> str:
    from tests.real.test_flow import EXAMPLES, RELATIONS, _rank

    model, right = jp.load(folder, dtype="float32"), 0
    chosen = [
        fact
        for entry, fact in zip(json.loads(known.read_text(encoding="utf-8")), read_facts(known), strict=True)
        if entry["relation_id"] in RELATIONS and entry["prompt"] == entry["template"].format(entry["subject"])
    ]
    asked = [encoded_fact(model.tokenizer, fact, bos=False) for fact in chosen]
    width = max(len(prompt.tokens) for prompt, _ in asked)
    for start in range(0, len(asked), 16):
        part = asked[start : start + 16]
        tokens = np.zeros((16, width), np.int32)
        lengths = np.ones(16, np.int32)
        for row, (prompt, _) in enumerate(part):
            tokens[row, : len(prompt.tokens)], lengths[row] = prompt.tokens, len(prompt.tokens)
        said = np.asarray(model.logits(tokens, None, lengths))[np.arange(16), lengths - 1].argmax(axis=-1)
        right += sum(int(token) == answer for token, (_, answer) in zip(said, part, strict=False))
    (without, _), (rank, probability) = _rank(model, ""), _rank(model, EXAMPLES)
    return f"{right} of {len(asked)} known; rank {without} without, {rank} with two examples (p {probability:.3f})"


def check_15() -> str:
    painter = jp.load("painter-16", dtype="float32")
    one, other = (flows(painter, facts(), ["0-15", "0-3 {4-11}*2 12-15"]) for _ in range(2))
    return f"{'equal' if [each.value for each in one] == [each.value for each in other] else 'NOT equal'}"


def _two(values: Any, digits: int) -> str:
    return " and ".join(f"{value:.{digits}f}" for value in values)


def _checks(options: argparse.Namespace) -> Iterator[tuple[int, Callable[[], str]]]:
    yield from ((1, check_1), (2, check_2), (4, check_4), (5, check_5), (6, check_6), (7, check_7), (8, check_8))
    yield from ((9, check_9), (10, check_10), (11, check_11))
    if options.real and options.known:
        yield 12, lambda: check_12(options.real, options.known)
    yield 15, check_15


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, metavar="DIR", help="SmolLM2-135M")
    parser.add_argument("--known", type=Path, metavar="FILE", help="known_1000.json")
    for number, check in _checks(parser.parse_args()):
        print(f"{number:2}  {check()}", flush=True)
