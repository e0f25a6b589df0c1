"""How models are trained: one class of settings, and the papers' three tables of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from jaxpaint.base.documents import shown
from jaxpaint.base.errors import UserError

# Far beyond any use. The order of examples is drawn as a whole before training, and has to have room in memory.
MOST = {"epochs": 10_000, "batch_size": 65_536}
MOST_ROWS = 20_000_000


@dataclass(frozen=True)
class TrainingSettings:
    """AdamW with a learning rate that falls linearly to 0, and gradients clipped to a norm of `max_grad_norm`.

    There is one run for each of `seeds`, whose scores are averaged; it decides the order of examples, a classifier's
    first weights and dropout. An encoder's examples are cut to `max_length` tokens, and `dropout` replaces the rates of
    its config. Raises UserError for a setting that cannot be trained with.
    """

    learning_rate: float
    epochs: int
    batch_size: int
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    dropout: float | None = None
    max_length: int = 128
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("learning_rate", "epochs", "batch_size", "max_grad_norm", "max_length"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}; fine-tuning needs a number above 0")
        for name, most in MOST.items():
            if getattr(self, name) > most:
                raise UserError(f"{name} is {getattr(self, name)}; expected at most {most}")
        if not 0 <= self.weight_decay < float("inf"):
            raise UserError(f"weight_decay is {self.weight_decay}; give 0 or more")
        if (
            not self.seeds
            or len(set(self.seeds)) < len(self.seeds)
            or not 0 <= min(self.seeds) <= max(self.seeds) < 2**32
        ):
            raise UserError(f"seeds are {shown(list(self.seeds))}; give at least one, of 0 to 2^32 - 1, and each once")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UserError(f"dropout is {self.dropout}; give a probability of 0 or more and below 1")

    def require_few_rows(self, examples: int) -> None:
        """Raises UserError where training on so many examples takes more rows than `MOST_ROWS`."""
        rows = self.epochs * -(-examples // self.batch_size) * self.batch_size  # the last batch is filled up
        if rows > MOST_ROWS:
            raise UserError(
                f"epochs is {self.epochs} and batch_size {self.batch_size}: with {examples} training examples that is "
                f"{rows:,} rows; expected at most {MOST_ROWS:,}; give fewer epochs or examples, or smaller batches"
            )

    # What a results store keeps of them among a task's settings. Other settings are another task, so these stay.

    def of_decoder(self) -> dict[str, Any]:
        """Of a decoder trained on answers, by its one seed."""
        (seed,) = self.seeds
        return {**self._of("learning_rate", "epochs", "batch_size", "max_grad_norm", "weight_decay"), "seed": seed}

    def of_encoder(self) -> dict[str, Any]:
        """Of an encoder with a classifier."""
        return asdict(self)

    def of_head(self) -> dict[str, Any]:
        """Of a classifier alone."""
        head = self._of("learning_rate", "epochs", "batch_size", "dropout", "max_grad_norm")
        return {"head": head, **self._of("max_length", "seeds")}

    def _of(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class HealingSettings:
    """Adam for `steps` steps of `batch_size` rows of `length` tokens, by distillation from the full model.

    The learning rate grows linearly over the first `warmup` of the steps and then falls to 0 as a cosine; None is
    1e-3 of adapters of this `rank` and 1e-4 of all weights, which a rank of 0 trains. Distributions are at this
    `temperature`. `held_out` of the texts are not trained on. The seed decides which, the order of rows, and the
    adapters' first weights. Raises UserError for a setting that cannot be trained with.
    """

    rank: int = 16
    length: int = 256
    steps: int = 200
    batch_size: int = 8
    learning_rate: float | None = None
    warmup: float = 0.1
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (
            *(("rank", 0, 4096), ("length", 2, 1 << 20), ("steps", 1, 1_000_000)),
            *(("batch_size", 1, MOST["batch_size"]), ("seed", 0, 2**32 - 1)),
        ):
            if not least <= (value := getattr(self, name)) <= most:
                raise UserError(f"{name} is {value}; expected {least} to {most}")
        if self.steps * self.batch_size > MOST_ROWS:
            raise UserError(
                f"steps is {self.steps} and batch_size {self.batch_size}, {self.steps * self.batch_size:,} rows; "
                f"expected at most {MOST_ROWS:,}"
            )
        for name in ("rate", "max_grad_norm", "temperature"):
            if not 0 < (value := getattr(self, name)) < float("inf"):
                raise UserError(f"{name.replace('rate', 'learning_rate')} is {value}; give a number above 0")
        if not 0 <= self.warmup < 1:
            raise UserError(f"warmup is {self.warmup}; give a share of the steps, of 0 or more and below 1")
        if not 0 < self.held_out < 1:
            raise UserError(f"held_out is {self.held_out}; give a share of the texts, above 0 and below 1")

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.rank else 1e-4


# The papers', and transformers' (`run_glue.py`) where they say nothing: decoders (A.2), encoders under GLUE, and
# classifiers on frozen encoders (A.9).
DECODER = TrainingSettings(learning_rate=5e-5, epochs=1, batch_size=64)
ENCODER = TrainingSettings(learning_rate=2e-5, epochs=3, batch_size=32, seeds=(0, 1, 2))
HEAD = replace(ENCODER, learning_rate=3e-2)
