"""How documents are asked beyond a task's own configuration: lm-eval's switches, with their names and meanings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxpaint.base.errors import UserError
from jaxpaint.base.words import text_digest
from jaxpaint.results.kinds import CHAT_TEMPLATE

# Of Python's, NumPy's, torch's and the few-shot examples' random numbers, as lm-eval's command line has them
# (lm_eval.defaults): equal seeds draw equal examples.
DEFAULT_SEEDS: tuple[int | None, ...] = (0, 1234, 1234, 1234)
# Nothing was drawn with torch's here before there was a choice.
DEFAULT_DRAWING_SEED = 0


@dataclass(frozen=True)
class Asking:
    """The defaults are lm-eval's.

    Attributes:
        apply_chat_template: Whether prompts are the checkpoint's chat template's, or which of its templates.
        system_instruction: Goes before a task's own description; with a chat template both are the system's turn.
        fewshot_as_multiturn: Whether examples are turns of their own; by default with a chat template.
        gen_kwargs: Generation settings of all generative tasks, which go before their own.
        samples: For a task the documents to ask, by index; other tasks ask all.
        seed: Python's, NumPy's, torch's and that of few-shot examples, None where nothing is seeded. Here torch's is
            that of drawn tokens.

    Raises:
        UserError: turns without a chat template.
    """

    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    samples: Mapping[str, Sequence[int]] = field(default_factory=dict)
    seed: tuple[int | None, ...] | None = None

    def __post_init__(self) -> None:
        if self.fewshot_as_multiturn and not self.apply_chat_template:
            raise UserError("--fewshot-as-multiturn: examples are turns of a chat; give --apply-chat-template, too")

    @property
    def multiturn(self) -> bool:
        return bool(self.apply_chat_template) if self.fewshot_as_multiturn is None else self.fewshot_as_multiturn

    @property
    def drawing_seed(self) -> int:
        """Of tokens that are drawn."""
        return DEFAULT_DRAWING_SEED if self.seed is None else self.seed[2] or 0

    @property
    def seeds(self) -> dict[str, int | None]:
        """By lm-eval's names; torch's only where it was chosen, so that results of before keep their settings."""
        python, numpy, torch, fewshot = self.seed or DEFAULT_SEEDS
        chosen = {} if self.seed is None or torch == DEFAULT_SEEDS[2] else {"torch_seed": torch}
        return {"random_seed": python, "numpy_seed": numpy, "fewshot_seed": fewshot, **chosen}

    def documents(self, task: str) -> list[int] | None:
        """The indices of a task's documents to ask, ascending; None for all."""
        return sorted(set(self.samples.get(task, ()))) or None

    def settings(self, task: str, chat_template: str | None) -> dict[str, Any]:
        """What makes a task's results others, beside its configuration: nothing where nothing was chosen."""
        found: dict[str, Any] = dict(self.seeds)
        if self.apply_chat_template:
            found |= {CHAT_TEMPLATE: text_digest(chat_template or ""), "fewshot_as_multiturn": self.multiturn}
        if self.system_instruction is not None:
            found["system_instruction"] = self.system_instruction
        if (documents := self.documents(task)) is not None:
            found["samples"] = documents
        return found

    def described(self) -> dict[str, Any]:
        """What was chosen, by lm-eval's names, and the seeds."""
        found: dict[str, Any] = dict(self.seeds)
        if self.apply_chat_template:
            found |= {"apply_chat_template": self.apply_chat_template, "fewshot_as_multiturn": self.multiturn}
        if self.system_instruction is not None:
            found["system_instruction"] = self.system_instruction
        if self.gen_kwargs:
            found["gen_kwargs"] = dict(self.gen_kwargs)
        if self.samples:
            found["samples"] = {name: list(indices) for name, indices in self.samples.items()}
        return found


USUAL = Asking()


def refuse_both(limit: float | None, asking: Asking) -> None:
    """Raises UserError for a limit beside samples."""
    if limit is not None and asking.samples:
        raise UserError("--samples says which documents to ask, so --limit has no meaning beside it; give one of them")
