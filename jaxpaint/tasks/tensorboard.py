"""Results as a run of TensorBoard's, for which lm-eval has no logger: called as its loggers are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class TensorBoardLogger:
    """Each metric as a scalar, and the settings, the plan among them, as hyperparameters beside it.

    `given` are `tensorboardX.SummaryWriter`'s arguments, such as `logdir`: runs of one folder are compared.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(**given)
        self._results: Mapping[str, Any] = {}

    def post_init(self, results: Mapping[str, Any]) -> None:
        self._results = results

    def log_eval_result(self) -> None:
        from tensorboardX.summary import hparams

        metrics = {
            f"{task}/{name.removesuffix(',none')}": value
            for task, found in {**self._results["results"], **self._results.get("groups", {})}.items()
            for name, value in found.items()
            if "," in name and isinstance(value, int | float)
        }
        for name, value in metrics.items():
            self._writer.add_scalar(name, value)
        settings = {name: _as_hyperparameter(value) for name, value in self._results["config"].items()}
        # `add_hparams` writes them to a second file, which within a second has the first one's name.
        for summary in hparams(settings, metrics):
            self._writer.file_writer.add_summary(summary)

    def log_eval_samples(self, samples: Mapping[str, list[dict[str, Any]]]) -> None:
        """A text for each document: its prompt, the right answer, what the model made of it."""
        for task, documents in samples.items():
            for document in documents:
                said = {name: document[name] for name in ("arguments", "target", "filtered_resps")}
                text = json.dumps(said, indent=2, ensure_ascii=False, default=str)
                self._writer.add_text(f"{task}/{document['filter']}", f"```\n{text}\n```", document["doc_id"])

    def finish(self) -> None:
        self._writer.close()


def _as_hyperparameter(value: Any) -> bool | str | float | int:
    return value if isinstance(value, bool | str | float | int) else json.dumps(value)
