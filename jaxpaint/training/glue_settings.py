"""How GLUE fine-tunes."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaint.base.errors import UserError


@dataclass(frozen=True)
class FinetuneSettings:
    """The paper's: transformers' `run_glue.py` with AdamW, a learning rate that falls linearly to 0, no weight decay.

    `max_length` tokens an example; one run for each of `seeds`, whose scores are averaged; `dropout` replaces the rates
    of the model's config.

    Raises:
        UserError: a setting that cannot be trained with.
    """

    learning_rate: float = 2e-5
    epochs: int = 3
    batch_size: int = 32
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    dropout: float | None = None
    max_length: int = 128
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "max_grad_norm", "max_length"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; fine-tuning needs one above 0")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds are {list(self.seeds)}; give at least one, and each once")
        if self.weight_decay < 0:
            raise UserError(f"weight_decay is {self.weight_decay}; give 0 or more")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; give a probability of 0 or more and below 1")
