"""score a model under one plan or several on lm-evaluation-harness tasks

examples:
  jaxpaint eval --model llama2-7b --tasks lambada_openai,hellaswag
  jaxpaint eval --model llama2-7b --tasks arc_challenge --limit 200 \\
      --plan '0-8 {9-22}*3 23-31'
  jaxpaint eval --model llama2-7b --tasks arc_easy,hellaswag --limit 500 \\
      --plan '0-31' --plan '0-20 25-31' --plan '0-8 {9-22} 23-31'
  jaxpaint eval --model llama2-7b --tasks winogrande --output skip8.json \\
      --strategy skip --start 8
  jaxpaint eval --model llama2-7b --tasks hellaswag \\
      --data hellaswag=hellaswag.jsonl      (without a network)

Several plans are scored together, what they share once, and compared with the
first on the same documents, each task by its main metric; --json and --output
have all. Of many plans a study keeps what is done (jaxpaint study).

Prompts, few-shot examples and metrics are lm-eval's. The paper's runs used
--bos off. Options may be spelt with underscores, as lm-eval does. Ctrl-C keeps
the tasks that are finished. A task YAML file of your own is data: its templates
run in a sandbox, and Python that it names runs only with --trust-tasks.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from jaxpaint.base import interrupts
from jaxpaint.base.errors import UserError
from jaxpaint.base.hosts import is_first
from jaxpaint.base.limits import require
from jaxpaint.base.precision import described
from jaxpaint.base.progress import logger, say
from jaxpaint.base.words import count
from jaxpaint.cli.answers import dumped, give
from jaxpaint.cli.asking import add_asking_options, asking_of
from jaxpaint.cli.exits import MISTAKE
from jaxpaint.cli.loading import source_with_plan
from jaxpaint.cli.options import (
    add_host_options,
    add_model_options,
    add_plan_options,
    add_task_options,
    check_plan_options,
    plan_line,
    plan_of,
    take_plans,
)
from jaxpaint.cli.scored import compared_lines
from jaxpaint.cli.tracking import add_tracking_options, wanted_trackers
from jaxpaint.plans.plan import Plan

_NUMBERS = ("limit", "num-fewshot", "batch-tokens", "tensor-parallel", "layer-parallel")


OfPlan = TypedDict(
    "OfPlan",
    {
        "results": dict[str, Any],
        "configs": dict[str, Any],
        "versions": dict[str, Any],
        "n-shot": dict[str, Any],
        "higher_is_better": dict[str, Any],
        "n-samples": dict[str, Any],
        "config": dict[str, Any],
        "environment": dict[str, Any],
        "timing": dict[str, Any],
        "group_subtasks": dict[str, Any],
        "groups": dict[str, Any],
        "samples": dict[str, Any],
        "interrupted": list[str],
        "failed": dict[str, str],
        "differences": dict[str, dict[str, Any]],
    },
    total=False,
)
"""lm-eval's results, extended (`jaxpaint.tasks.evaluation.evaluate_tasks`). `interrupted` are tasks that are missing;
`failed` has of others why. `differences` from the first of several plans are as `results`: of the same documents, and
with the standard errors of that."""


class Answer(OfPlan, total=False):
    """The plan's, or of several the first's and those of the `others`; `timing` is that of all."""

    others: list[OfPlan]


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    add_task_options(parser, keeps=False)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write results as JSON in lm-eval's schema")
    add_tracking_options(parser)
    add_asking_options(parser)
    add_host_options(parser)
    add_plan_options(parser, "what runs, for example '0-8 {9-22}*3 23-31'", seed=False, several=True)


def run(options: argparse.Namespace) -> int:
    require(computing=True)
    from convert.sources import require_known
    from jaxpaint.base.files import check_writable
    from jaxpaint.generation.cache import groups
    from jaxpaint.studies.settings import checked_options
    from jaxpaint.tasks.evaluation import evaluate_plans, write_json
    from jaxpaint.tasks.load import load_tasks, only_predicted
    from jaxpaint.tasks.local_data import in_folder, parse_data_option
    from jaxpaint.tasks.trackers import Trackers

    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if options.output:
        check_writable(options.output, "a JSON file")
    wanted = wanted_trackers(options)
    options.plan, more = take_plans(options)
    if wanted is not None and more:
        raise UserError("lm-eval's own files and loggers take one plan's results; --output FILE has those of all")
    numbers = {name: getattr(options, name.replace("-", "_")) for name in _NUMBERS}
    for name, value in checked_options(numbers).items():
        setattr(options, name.replace("-", "_"), value)
    texts = options.data if options.data_dir is None else in_folder(options.data_dir, names, options.data)
    data = parse_data_option(texts)
    asking, others = asking_of(options)
    check_plan_options(options)
    compared = [plan_of(text, options.model) for text in more]
    require_known(options.model)
    how = {"include_path": others["include_path"], "trust": options.trust_tasks, "asking": asking}
    tasks = load_tasks(names, data=data, num_fewshot=options.num_fewshot, **how)
    if options.predict_only:
        only_predicted(tasks)

    from jaxpaint.models.family import Config, require_lm_head
    from jaxpaint.tasks.encoding import Encoding, require_generation, require_length

    longest = others["max_length"]

    writes = any(task.OUTPUT_TYPE == "generate_until" for task in tasks["tasks"].values())

    def check(config: Config, plan: Plan) -> None:
        require_lm_head(config, "this evaluation")
        require_length(longest, config)
        require_generation(tasks, longest, config)
        for each in (plan, *compared):
            each.validate(config.num_hidden_layers)
            if writes and options.kv == "mean":
                groups(each, each.attentions)

    source, plan = source_with_plan(options, check)
    Encoding.of(source, options.bos, max_length=longest, asking=asking)  # what the tokenizer lacks is told now
    trackers = None if wanted is None else Trackers(wanted)
    model = source.loaded

    from jaxpaint.base.progress import bar
    from jaxpaint.tasks.harness import PlanLM, Together
    from jaxpaint.tasks.requests import main_metric

    plans = [plan, *compared]
    with bar("scoring") as progress:
        asked: dict[str, Any] = {
            **{"bos": options.bos, "max_length": longest, "asking": asking, "batch_tokens": options.batch_tokens},
            **{"kv": options.kv, "progress": progress, "together": Together(tuple(plans)) if compared else None},
        }
        lms = [PlanLM(model, each, **asked) for each in plans]
        encoding = lms[0].encoding
        if writes:
            for line in encoding.generation.lines(encoding.tokenizer.eos_token_id):
                say(f"jaxpaint: {line}")
        samples = options.log_samples or options.predict_only
        told: Any = {"limit": options.limit, "log_samples": samples, "write_out": options.write_out}
        found = evaluate_plans(lms, tasks, asking=asking, **told)
    results = {**found[0], **({"others": found[1:]} if compared else {})}
    is_there = any(each.get("results") for each in found)
    main = {name: main_metric(task) for name, task in tasks["tasks"].items()}
    try:
        # What is there already is worth more than a file of nothing.
        if options.output and is_there and is_first():
            write_json(results, options.output)
        if trackers is not None and is_there and is_first():
            trackers.log(results, options.model, asking, encoding.chat_template)
    finally:  # hours of work are not lost to a full disk
        _report(options, results, found, main)
    return (
        interrupts.status() if "interrupted" in results else MISTAKE if any("failed" in each for each in found) else 0
    )


def _report(options: argparse.Namespace, results: dict, found: list[dict], main: Mapping[str, str]) -> None:
    reasons = [(task, reason) for each in found for task, reason in each.get("failed", {}).items()]
    for task, reason in dict.fromkeys(reasons):  # what all plans lack is said once
        logger.error("%s", f"jaxpaint: error: {task}: {reason}")
    if not any(each.get("results") for each in found):
        if "interrupted" in results:
            logger.warning("%s", f"jaxpaint: {interrupts.word()}; no task was finished")
        return
    config, timing = results["config"], results["timing"]
    bos = f"BOS {config['bos']} ({'added' if config['bos_token_added'] else 'not added'})"
    rate = f"{timing['wall_seconds']:.1f} s, {timing['tokens_per_second']:.0f} tokens/s"
    if options.show_config:
        print(dumped(_without_samples(results)))
    how = f"{described(config['dtype'], config['weights'])}, {bos}, {rate}"
    if len(found) == 1:
        from jaxpaint.tasks.load import results_table

        head = plan_line(config["plan"], config["plan_cost"], config["plan_depth"])
        words = f"{head}\n{how}\n{results_table(results)}"
    else:
        words = "\n".join([f"{count(len(found), 'plan')} together, {how}", *compared_lines(found, main)])
    give(options, results, words)
    if missing := results.get("interrupted"):
        logger.warning("%s", f"jaxpaint: {interrupts.word()}; not finished: {', '.join(missing)}")


def _without_samples(results: Mapping[str, Any]) -> dict[str, Any]:
    own = {name: value for name, value in results.items() if name != "samples"}
    return {**own, "others": [_without_samples(each) for each in own["others"]]} if "others" in own else own
