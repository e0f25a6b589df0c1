"""One model under one plan, or several, on benchmark tasks: lm-eval's results, with what is needed to repeat them."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.failures import in_words
from jaxpaint.base.files import write_whole
from jaxpaint.models.manifest import source_name
from jaxpaint.results.kinds import GENERATION, KV
from jaxpaint.tasks.asking import USUAL, Asking

if TYPE_CHECKING:
    from jaxpaint.tasks.harness import PlanLM

PACKAGES = ("jaxpaint", "jax", "jaxlib", "flax", "transformers", "tokenizers", "datasets", "lm_eval", "numpy")


def evaluate_tasks(
    lm: PlanLM,
    tasks: Mapping[str, Any],
    *,
    limit: float | None = None,
    log_samples: bool = False,
    asking: Asking = USUAL,
    write_out: bool = False,
) -> dict[str, Any]:
    """Evaluates loaded tasks (`jaxpaint.tasks.load.load_tasks`) and returns lm-eval's results dictionary, extended.

    `config` gains the plan, its cost and depth, BOS, cache, dtype, weights, model source, revision and fingerprint;
    `environment` the device and library versions; `timing` wall seconds, tokens and tokens/s. Tasks run one after the
    other, so that what is finished is kept: after an interruption (Ctrl-C) `interrupted` lists the tasks that are
    missing, and `failed` says of each task that could not be scored why.
    """
    how: Any = {"limit": limit, "log_samples": log_samples, "asking": asking, "write_out": write_out}
    return evaluate_plans([lm], tasks, **how)[0]


def evaluate_plans(
    lms: Sequence[PlanLM],
    tasks: Mapping[str, Any],
    *,
    limit: float | None = None,
    log_samples: bool = False,
    asking: Asking = USUAL,
    write_out: bool = False,
) -> list[dict[str, Any]]:
    """As `evaluate_tasks`, of each of several plans (`jaxpaint.tasks.harness.Together`), task by task.

    All but the first plan's have `differences` from the first's (`jaxpaint.tasks.paired`). `timing` is that of all
    plans together. What is interrupted is missing of all; a plan that fails does not stop the others.
    """
    from jaxpaint.tasks.groups import groups_of
    from jaxpaint.tasks.paired import differences

    started = time.perf_counter()
    merged: list[dict[str, Any]] = [{} for _ in lms]
    failed: list[dict[str, str]] = [{} for _ in lms]
    missing = list(tasks["tasks"])
    # A group's own score needs its members together.
    portions = [tasks] if tasks.get("groups") else [{"tasks": {name: task}} for name, task in tasks["tasks"].items()]
    paired = len(lms) > 1
    groups = groups_of(tasks)  # type: ignore[arg-type]
    how: Any = {"limit": limit, "log_samples": log_samples or paired, "asking": asking}
    try:
        for portion in portions:
            done = []
            for number, lm in enumerate(lms):
                told = write_out and number == 0
                done.append(_evaluated(lm, portion, fatal=not any(merged), write_out=told, **how))
            for (results, reasons), whole, known in zip(done, merged, failed, strict=True):
                for key, value in results.items():
                    whole[key] = {**whole.get(key, {}), **value} if isinstance(value, dict) else value
                known |= reasons
            missing = [name for name in missing if name not in portion["tasks"]]
    except KeyboardInterrupt:
        for whole in merged:
            whole["interrupted"] = missing
    seconds = time.perf_counter() - started
    request_tokens = sum(work.request_tokens for lm in lms for work in lm.work)
    timing = {
        "wall_seconds": seconds,
        "request_tokens": request_tokens,
        "computed_tokens": sum(work.computed_tokens for lm in lms for work in lm.work),
        "tokens_per_second": request_tokens / seconds,
    }
    found = []
    for lm, whole, reasons in zip(lms, merged, failed, strict=True):
        of_plan = {**whole, **({"failed": reasons} if reasons else {})}
        of_plan |= {"config": {**whole.get("config", {}), **_setting(lm)}, "environment": environment()}
        of_plan["timing"] = timing
        if paired and whole is not merged[0]:
            of_plan["differences"] = differences(whole, merged[0], groups)
        found.append(of_plan)
    if paired and not log_samples:
        for of_plan in found:
            of_plan.pop("samples", None)
    return found


def _evaluated(
    lm: PlanLM, portion: Mapping[str, Any], *, fatal: bool, **how: Any
) -> tuple[dict[str, Any], dict[str, str]]:
    """What some tasks give, or why each has nothing. What is `fatal` and no UserError is raised."""
    from jaxpaint.tasks.load import evaluate

    try:
        return evaluate(lm, portion, **how), {}  # type: ignore[arg-type]
    except UserError as error:
        return {}, dict.fromkeys(portion["tasks"], str(error))
    except Exception as error:  # what is finished counts, whatever broke
        if fatal:
            raise
        return {}, dict.fromkeys(portion["tasks"], in_words(error))


def _setting(lm: PlanLM) -> dict[str, Any]:
    manifest = lm.model.manifest
    return {
        "model": "jaxpaint",
        "model_source": source_name(manifest),
        "model_revision": manifest.get("revision"),
        "model_fingerprint": manifest.get("fingerprint"),
        "model_num_layers": lm.model.num_layers,
        "plan": str(lm.plan),
        "plan_cost": lm.plan.cost,
        "plan_depth": lm.plan.depth,
        "bos": lm.encoding.bos,
        "bos_token_added": lm.encoding.adds_bos,
        "dtype": str(lm.model.dtype),
        "weights": lm.model.weights,
        KV: lm.kv,
        "max_length": lm.encoding.max_length,
        **({GENERATION: generation} if (generation := lm.encoding.described_generation) else {}),
    }


@cache
def environment() -> Mapping[str, Any]:
    """The device and the versions of what computes on it."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "versions": versions,
        "python": platform.python_version(),
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
    }


def write_json(results: Mapping[str, Any], path: Path) -> None:
    """Writes results whole. Raises UserError where the file cannot be written."""
    from lm_eval.utils import handle_non_serializable

    write_whole(json.dumps(results, indent=2, default=handle_non_serializable, ensure_ascii=False), path)
