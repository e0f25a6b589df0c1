"""Results handed to loggers: lm-eval's own, of its files, the hub, Weights & Biases, Trackio; and TensorBoard's."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.progress import say
from jaxpaint.tasks.asking import Asking

PUSHES = ("push_results_to_hub", "push_samples_to_hub")


@dataclass(frozen=True)
class Wanted:
    """What loggers are given; None is not asked for. `folder` gets results_*.json and samples_*.jsonl in a
    folder of the model's name, as lm-eval writes them."""

    folder: Path | None = None
    wandb: Mapping[str, Any] | None = None
    trackio: Mapping[str, Any] | None = None
    tensorboard: Mapping[str, Any] | None = None
    hub: Mapping[str, Any] | None = None


class Trackers:
    """The loggers, which are there before hours of work. Raises UserError for one that is not installed or refuses."""

    def __init__(self, wanted: Wanted) -> None:
        from lm_eval.loggers import EvaluationTracker

        self._runs: list[Any] = []
        of_packages = ("wandb", wanted.wandb, "wandb"), ("trackio", wanted.trackio, "trackio")
        for name, given, package in (*of_packages, ("tensorboard", wanted.tensorboard, "tensorboardX")):
            if given is not None and find_spec(package) is None:
                raise UserError(f"--{name}-args needs the package {package}: pip install {package}")
        hub = dict(wanted.hub or {})
        if any(hub.get(name) for name in PUSHES) and wanted.folder is None:
            raise UserError("the hub gets the files that lm-eval writes; give their folder by --output-path")
        if token := os.environ.get("HF_TOKEN"):
            hub.setdefault("token", token)
        self._folder = wanted.folder
        self._of_files = _made(
            "--hf-hub-log-args",
            lambda: EvaluationTracker(output_path=None if wanted.folder is None else str(wanted.folder), **hub),
        )
        if wanted.wandb is not None:
            from lm_eval.loggers import WandbLogger

            self._runs.append(_made("--wandb-args", lambda: WandbLogger(dict(wanted.wandb or {}))))
        if wanted.trackio is not None:
            from lm_eval.loggers import TrackioLogger

            self._runs.append(_made("--trackio-args", lambda: TrackioLogger(dict(wanted.trackio or {}))))
        if wanted.tensorboard is not None:
            from jaxpaint.tasks.tensorboard import TensorBoardLogger

            self._runs.append(_made("--tensorboard-args", lambda: TensorBoardLogger(wanted.tensorboard or {})))

    def log(self, results: Mapping[str, Any], model: str, asking: Asking, chat_template: str | None) -> None:
        """Gives them `results` (`jaxpaint.tasks.evaluation.evaluate_tasks`), with the samples if it has them.

        Raises UserError where the files were not written; that another logger failed is only told.
        """
        own = copy.deepcopy(dict(results))
        samples = own.pop("samples", None)
        for logger in self._runs:
            _tell(logger, own, samples)
        if self._folder is None:
            return
        self._of_files.general_config_tracker.log_experiment_args(
            model_source="jaxpaint",
            model_args={"pretrained": model},
            system_instruction=asking.system_instruction,
            chat_template=chat_template,
            fewshot_as_multiturn=asking.multiturn,
        )
        self._of_files.save_results_aggregated(results=own, samples=samples)
        written = list(self._folder.rglob(f"results_{getattr(self._of_files, 'date_id', '')}.json"))
        if not written:  # lm-eval only warns
            raise UserError(f"--output-path {self._folder}: lm-eval could not write its results there")
        for task, each in (samples or {}).items():
            self._of_files.save_results_samples(task_name=task, samples=each)
        if self._of_files.push_results_to_hub or self._of_files.push_samples_to_hub:
            self._of_files.recreate_metadata_card()
        say(f"wrote {written[0]}{' and the samples beside it' if samples else ''}")


def _made(option: str, make: Any) -> Any:
    try:
        return make()
    except Exception as error:  # of three packages, and of the network
        raise UserError(f"{option}: {first_line(error)}") from error


def _tell(logger: Any, results: Mapping[str, Any], samples: Mapping[str, Any] | None) -> None:
    try:
        logger.post_init(results)
        logger.log_eval_result()
        if samples is not None:
            logger.log_eval_samples(samples)
        logger.finish() if hasattr(logger, "finish") else logger.run.finish()
    except Exception as error:  # results are there already, and worth more than this
        say(f"jaxpaint: {type(logger).__name__} failed: {first_line(error)}")


@contextmanager
def first_requests_told() -> Iterator[None]:
    """Within it lm-eval's words about each task's first document and request (`write_out`) are told."""
    logger = logging.getLogger("lm_eval.evaluator_utils")
    handler = logging.Handler()
    handler.emit = lambda record: say(record.getMessage())  # type: ignore[method-assign]
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
