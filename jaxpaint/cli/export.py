"""write a series plan back as a Hugging Face folder, or a GGUF file as another

examples:
  jaxpaint export llama2-7b llama2-7b-short --plan '0-20 25-31'
  jaxpaint export model-q4_0.gguf short-q4_0.gguf --plan '0-20 25-31'
  jaxpaint export llama2-7b llama2-7b-short --plan '0-20 25-31' \\
      --push-to-hub me/llama2-7b-short --private

The layers of the plan, dropped, repeated or reordered, become the layers of an
ordinary checkpoint that transformers loads; a sublayer (7a, 7m) becomes a layer
whose other half adds zeros. Parallel groups and weights have no such form. A
GGUF file is copied as it is quantised, and not converted. With --push-to-hub
what was written is uploaded, too, by the token of hf auth login or HF_TOKEN.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.cli.answers import give
from jaxpaint.cli.loading import model_config, model_store
from jaxpaint.cli.options import plan_of
from jaxpaint.cli.pushing import add_push, check_push
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.results.plan_scores import PlanScore


class Answer(TypedDict):
    """What was written, a folder or a GGUF file, and the number of its layers; `pushed` is its address on the hub."""

    source: str
    plan: str
    num_layers: int
    output: str
    pushed: str | None


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="a converted store, a folder, a hub id or a GGUF file")
    parser.add_argument("destination", metavar="DST", type=Path, help="the folder to write, or the .gguf file")
    parser.add_argument("--plan", metavar="PLAN", required=True, help="a series plan, such as '0-20 25-31'")
    parser.add_argument(
        "--scores", metavar="FILE", type=Path, help="a results store whose scores of the plan the model card shows"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a folder or GGUF file of this kind that exists"
    )
    add_push(parser, "it")


def run(options: argparse.Namespace) -> int:
    plan = plan_of(options.plan, options.store)
    require(computing=False)
    from convert.gguf_files import is_gguf

    check_push(options)
    given = Path(options.store)
    if is_gguf(given) or (given.suffix == ".gguf" and not given.is_dir()):
        return _run_gguf(options, plan)
    if options.destination.suffix == ".gguf":
        raise UserError(
            f"a GGUF file is exported of a GGUF file, whose tensors it copies, and {options.store} is none; give that "
            "file, or a folder's name to write"
        )
    config = model_config(options.store)

    from convert import export
    from convert.to_huggingface import require_exportable
    from jaxpaint.base.progress import byte_bar

    require_exportable(config, options.destination, plan, overwrite=options.overwrite)
    store = model_store(options.store)
    scores = _scores(options, store, plan, config.num_hidden_layers)
    with byte_bar() as progress:
        how = {
            "overwrite": options.overwrite,
            "progress": progress,
            "scores": scores,
            "command": _command(options, plan),
        }
        folder = export(store, options.destination, plan, **how)
    _tell(options, plan, plan.applications, folder)
    return 0


def _run_gguf(options: argparse.Namespace, plan: Plan) -> int:
    """Copies layers: nothing is computed, and JAX stays away."""
    if options.scores is not None:
        raise UserError("--scores are for the model card of a Hugging Face folder; a GGUF file has none")
    from convert import export_gguf
    from jaxpaint.base.progress import byte_bar

    with byte_bar() as progress:
        how = {"overwrite": options.overwrite, "progress": progress}
        file = export_gguf(options.store, options.destination, plan, **how)
    _tell(options, plan, int(plan.cost), file)
    return 0


def _tell(options: argparse.Namespace, plan: Plan, layers: int, written: Path) -> None:
    """Uploads it first, where that is asked for."""
    words, pushed = f"exported {plan} ({layers} layers) into {written}", None
    if options.push_to_hub is not None:
        from convert.uploads import upload

        pushed = upload(written, options.push_to_hub, private=options.private)
        words += f"\nuploaded it to {pushed}"
    answer: Answer = {
        "source": options.store,
        "plan": str(plan),
        "num_layers": layers,
        "output": str(written),
        "pushed": pushed,
    }
    give(options, answer, words)


def _scores(options: argparse.Namespace, store: Path, plan: Plan, num_layers: int) -> tuple[PlanScore, ...]:
    if options.scores is None:
        return ()
    from jaxpaint.models.manifest import read_manifest
    from jaxpaint.results.plan_scores import plan_scores

    full = Plan.of(range(num_layers))
    return plan_scores(options.scores, read_manifest(store)["fingerprint"], str(plan), str(full))


def _command(options: argparse.Namespace, plan: Plan) -> str:
    """Without folders of this machine: names alone."""
    source = options.store if options.store.count("/") == 1 and not Path(options.store).exists() else None
    words = ["jaxpaint", "export", source or Path(options.store).name, options.destination.name, "--plan", str(plan)]
    return shlex.join(words)
