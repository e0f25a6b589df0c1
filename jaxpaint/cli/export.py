"""write a series plan back as a Hugging Face folder

example:
  jaxpaint export llama2-7b llama2-7b-short --plan '0-20 25-31'

The layers of the plan, dropped, repeated or reordered, become the layers of an
ordinary checkpoint that transformers loads. Parallel groups have no such form.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxpaint.cli.loading import model_config, model_store
from jaxpaint.plans.plan import Plan


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="a converted store, a folder or a hub id")
    parser.add_argument("destination", metavar="DST", type=Path, help="the folder to write")
    parser.add_argument("--plan", metavar="PLAN", required=True, help="a series plan, such as '0-20 25-31'")
    parser.add_argument("--overwrite", action="store_true", help="replace a Hugging Face folder that exists")


def run(options: argparse.Namespace) -> int:
    plan = Plan.parse(options.plan)
    config = model_config(options.store)

    from convert import export
    from convert.to_huggingface import require_exportable
    from jaxpaint.base.progress import byte_bar

    require_exportable(config, options.destination, plan, overwrite=options.overwrite)
    store = model_store(options.store)
    with byte_bar() as progress:
        folder = export(store, options.destination, plan, overwrite=options.overwrite, progress=progress)
    print(f"exported {plan} ({plan.cost} layers) into {folder}")
    return 0
