"""lm-eval's switches for what becomes of results: its own files, the hub, trackers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from jaxpaint.tasks.trackers import Wanted

_PAIRS = {
    "wandb_args": "of Weights & Biases, such as project=plans,name=skip8 (pip install wandb)",
    "trackio_args": "of Trackio, such as project=plans (pip install trackio)",
    "tensorboard_args": "of TensorBoard, such as logdir=runs/skip8 (pip install tensorboardX)",
    "hf_hub_log_args": "of the hub, such as hub_results_org=me,push_results_to_hub=True,public_repo=False",
}


def add_tracking_options(parser) -> None:
    """--log-samples and the like; words with underscores, as lm-eval spells them, are the same."""
    group = parser.add_argument_group("what becomes of results, as lm-eval has it")
    group.add_argument(
        "--output-path", type=Path, metavar="DIR", help="lm-eval's own files: DIR/MODEL/results_*.json, samples_*.jsonl"
    )
    group.add_argument(
        "--log-samples",
        action="store_true",
        help="keep each document's prompt and answer in --output-path or --output",
    )
    group.add_argument("--predict-only", action="store_true", help="keep answers as --log-samples does, score nothing")
    group.add_argument("--write-out", action="store_true", help="tell each task's first document and request")
    group.add_argument("--show-config", action="store_true", help="print results and settings whole, before the table")
    for name, what in _PAIRS.items():
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, nargs="+", action="extend", metavar="NAME=VALUE", help=what)


def wanted_trackers(options: argparse.Namespace) -> Wanted | None:
    """What lm-eval's loggers are to be given, None where nothing is asked of them.

    Raises UserError for samples that nobody would get, a folder that is none, and values of another kind.
    """
    from jaxpaint.studies.values import checked, pairs
    from jaxpaint.tasks.trackers import Wanted

    trackers = options.wandb_args or options.trackio_args or options.tensorboard_args
    keeps = bool(options.output or options.output_path or options.json or trackers)
    for name in ("log_samples", "predict_only"):
        if getattr(options, name) and not keeps:
            raise UserError(f"--{name.replace('_', '-')} needs --output FILE or --output-path DIR to write to")
    folder: Path | None = options.output_path
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--output-path {folder} is a file; give a folder, or the file as --output")
    given: dict[str, Any] = dict.fromkeys(_PAIRS)
    for name in _PAIRS:
        if (texts := getattr(options, name)) is not None:
            given[name] = checked(f"--{name.replace('_', '-')}", texts, pairs)
    if folder is None and not any(each is not None for each in given.values()):
        return None
    return Wanted(folder, *(given[name] for name in _PAIRS))
