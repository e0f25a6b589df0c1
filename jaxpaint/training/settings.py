"""How decoders are fine-tuned."""

from __future__ import annotations

from dataclasses import dataclass

from jaxpaint.base.errors import UserError


@dataclass(frozen=True)
class FinetuneSettings:
    """The paper's (A.2): one epoch, batches of 64, a learning rate of 5e-5; of what it does not say, transformers'
    defaults: AdamW without weight decay, the rate falling linearly to 0, gradients clipped to a norm of 1.

    `seed` decides the order of the examples.

    Raises:
        UserError: a setting that cannot be trained with.
    """

    learning_rate: float = 5e-5
    epochs: int = 1
    batch_size: int = 64
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "max_grad_norm"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; fine-tuning needs a number above 0")
        for name in ("weight_decay", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; give 0 or more")
