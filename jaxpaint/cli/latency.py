"""`jaxpaint bench --model`: how long plans take on the device that is here, shown, written and kept beside scores."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, is_stream, write_whole
from jaxpaint.base.shown import visible_name
from jaxpaint.base.words import count
from jaxpaint.cli.answers import dumped, give
from jaxpaint.cli.columns import in_columns
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import plan_of
from jaxpaint.plans.plan import Plan
from jaxpaint.results.latency import Latency, Setting, Spread, beside

if TYPE_CHECKING:
    from jaxpaint.models.family import Config


class Answer(TypedDict):
    """Everything measured: seconds, tokens a second, bytes; medians with quartiles, and each round's."""

    model: dict[str, Any]
    setting: dict[str, Any]
    plans: list[dict[str, Any]]


LEAST = {"batch_size": 1, "prompt_length": 2, "new_tokens": 2, "rounds": 1}
DEFAULTS = {"batch_size": 1, "prompt_length": 128, "new_tokens": 32, "rounds": 5}
UNKNOWN = "-"
TOO_FAST = ["- took less than one round differs from another; give more --new-tokens"]


def run(options: argparse.Namespace) -> int:
    """Measures, keeps and shows; the exit status. Raises UserError for what cannot be measured or kept."""
    numbers = {name: DEFAULTS[name] if (given := getattr(options, name)) is None else given for name in DEFAULTS}
    for name, least in LEAST.items():
        if numbers[name] < least:
            raise UserError(f"--{name.replace('_', '-')} is {numbers[name]}; give at least {least}")
    from jaxpaint.studies.settings import read_plans

    in_file = read_plans(options.plans_file) if options.plans_file else ()
    compared = [plan_of(text, options.model) for text in (*options.compare, *in_file)]
    options.tensor_parallel, options.layer_parallel = options.tensor_parallel or 1, options.layer_parallel or 1
    options.weights = options.weights or "float"
    _check_files(options.output, options.store)
    rounds = numbers.pop("rounds")

    def check(config: Config, plan: Plan) -> None:
        from jaxpaint.bench.latency import Sizes

        Sizes(**numbers).check(config)
        for each in compared:
            each.validate(config.num_hidden_layers)

    source, plan = source_with_plan(options, check)
    from jaxpaint.base.progress import bar
    from jaxpaint.bench.latency import Sizes, measure
    from jaxpaint.models.manifest import identity

    plans = list(dict.fromkeys([plan, *compared]))
    model = source.loaded
    with bar("measuring", "plans") as progress:
        advance = progress(len(plans) * (rounds + 1))
        found = measure(model, plans, Sizes(**numbers), rounds, progress=advance)
    about = {**identity(model.manifest), "dtype": model.computed_in, "num_layers": model.num_layers}
    if options.store is not None:
        from jaxpaint.results.store import Store

        with Store.open(options.store, create=True) as store:
            store.add_latencies(about, list(zip(plans, found, strict=True)))
    figures = _figures(about, plans, found)
    if options.output is not None:
        write_whole(f"{dumped(figures)}\n", options.output)
    lines = table(str(about["source"] or options.model), str(about["dtype"]), plans, found)
    if options.store is not None:
        lines.append(f"\n{options.store}: {count(len(plans), 'latency').replace('latencys', 'latencies')} kept")
    if options.output is not None and not is_stream(options.output):
        lines.append(f"wrote {options.output}")
    give(options, figures, "\n".join(lines))
    return 0


def _check_files(output: Path | None, store: Path | None) -> None:
    """What cannot be written is told before the work, and nothing is made yet."""
    if output is not None:
        check_writable(output, "a JSON file")
    if store is None:
        return
    if store.exists() and not store.is_dir():
        from jaxpaint.results.store import Store

        with Store.open(store, create=False):
            return
    if store.is_dir():
        raise UserError(f"--store {store} is a folder; give the name of a file, such as study.sqlite")
    if not store.parent.is_dir():
        raise UserError(f"--store {store}: the folder {store.parent} does not exist")


def _figures(about: dict[str, Any], plans: Sequence[Plan], found: Sequence[Latency]) -> Answer:
    return {
        "model": about,
        "setting": asdict(found[0].setting),
        "plans": [
            {
                "plan": str(plan),
                "cost": plan.cost,
                "depth": plan.depth,
                "first_token_seconds": {**asdict(each.first), "rounds": each.first_seconds},
                "further_token_seconds": {**asdict(each.step), "rounds": each.step_seconds},
                "prefill_tokens_per_second": each.prefill_rate,
                "decode_tokens_per_second": each.decode_rate,
                "peak_memory_bytes": each.peak_memory,
                "first_token_by_first_plan": beside(found[0].first_seconds, each.first_seconds),
                "further_token_by_first_plan": _further(found[0], each),
            }
            for plan, each in zip(plans, found, strict=True)
        ],
    }


def _further(first: Latency, each: Latency) -> float | None:
    """How many times as long a further token took as under the first plan; None where either isn't known."""
    return beside(first.step_seconds, each.step_seconds) if first.told and each.told else None


def table(model: str, dtype: str, plans: Sequence[Plan], found: Sequence[Latency]) -> list[str]:
    """Lines of at most 80 columns: where and of what, then the first token, then those that follow, a line a plan."""
    setting: Setting = found[0].setting
    first = [["first new token", "ms", "quartiles", "read, tok/s", "× first"]]
    further = [["each further token", "ms", "quartiles", "written, tok/s", "× first"]]
    for name, each in zip(map(str, plans), found, strict=True):
        share = f"{beside(found[0].first_seconds, each.first_seconds):.2f}"
        first.append([name, *_milliseconds(each.first), f"{each.prefill_rate:,.0f}", share])
        share = UNKNOWN if (known := _further(found[0], each)) is None else f"{known:.2f}"
        times = _milliseconds(each.step) if each.told else (UNKNOWN, UNKNOWN)
        further.append([name, *times, f"{each.decode_rate:,.1f}" if each.decode_rate else UNKNOWN, share])
    memory = ["GiB", *(UNKNOWN if each.peak_memory is None else f"{each.peak_memory / 2**30:.2f}" for each in found)]
    rounds = len(found[0].first_seconds)
    return [
        f"{visible_name(model)}, {dtype}, on {setting.machine}",
        f"{setting.sizes}; medians of {count(rounds, 'round')}, plans in turn",
        "",
        *in_columns([[*row, size] for row, size in zip(first, memory, strict=True)]),
        "",
        *in_columns(further),
        *([] if all(each.told for each in found) else TOO_FAST),
    ]


def _milliseconds(spread: Spread) -> tuple[str, str]:
    value, low, high = (_number(1000 * each) for each in (spread.median, spread.low, spread.high))
    return value, f"{low}-{high}"


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
