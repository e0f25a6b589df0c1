"""What `jaxpaint finetune` runs: a study, and how its plans are trained before they are scored a second time."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaint.base.errors import UserError
from jaxpaint.plans.strategies import Variant
from jaxpaint.study.spec import StudySpec
from jaxpaint.training.settings import DECODER, TrainingSettings


@dataclass(frozen=True)
class FinetuneSpec:
    """`study` says which plans are scored on which tasks, as they are and fine-tuned, and into which store.

    Each task's plans are trained on the first `limit_train` of its training documents (None: on all).

    Raises:
        UserError: no plan to fine-tune, several seeds, or analyses or shards, which this command does not have.
    """

    study: StudySpec
    training: TrainingSettings = DECODER
    limit_train: int | None = None

    def __post_init__(self) -> None:
        if not self.study.tasks:
            raise UserError("there is no task to fine-tune on; give --tasks arc_challenge")
        if not self.study.strategies and not self.study.plans:
            raise UserError("there is no plan to fine-tune; give --strategies skip")
        if self.study.analyses or self.study.shard != (1, 1):
            raise UserError("fine-tuning has neither analyses nor shards; run those with jaxpaint study")
        if len(self.training.seeds) > 1:
            raise UserError(f"seeds are {list(self.training.seeds)}; a decoder is trained once, so give one")
        if self.limit_train is not None and self.limit_train < 1:
            raise UserError(f"limit_train is {self.limit_train}; expected 1 or more training documents")

    def trained_variants(self, num_layers: int) -> tuple[Variant, ...]:
        """What is fine-tuned: every variant of the study, the full model only where its strategies name it.

        Raises:
            UserError: as `StudySpec.variants`.
        """
        asked = (*self.study.strategies, "custom")
        return tuple(variant for variant in self.study.variants(num_layers) if variant.strategy in asked)
