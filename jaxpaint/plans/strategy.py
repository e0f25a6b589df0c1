"""What is known of a strategy: how its plans are made, and how people are told and shown of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from jaxpaint.plans.plan import Plan


@dataclass(frozen=True)
class Strategy:
    """One strategy, and all that the command, a study and a report know of it.

    `plan` makes its plan of a model's number of layers and of the options, which are its other parameters. `words`
    name it in a sentence. `look` is how figures draw it: a colour by name, matplotlib's marker and line style.
    `figure` is the paper's that shows it, `ranked` says that the paper ranks it by the harm it does, and `trades` that
    its plans differ from the full model in cost or depth. `affected` is how many layers it changes; None where its
    start layer says so. Where its plans are proposed from a `measurement`, `plan` takes what was measured in place of
    the number of layers (`jaxpaint.plans.proposals`).
    """

    name: str
    plan: Callable[..., Plan]
    words: str
    look: tuple[str, str, str] = ("grey", "p", ":")
    figure: str | None = None
    ranked: bool = False
    trades: bool = False
    affected: int | None = None
    measurement: str | None = None

    @property
    def in_paper(self) -> bool:
        """Whether the paper has it."""
        return self.figure is not None

    @property
    def options(self) -> dict[str, int | None]:
        """Its options with their defaults, None for those that must be given."""
        parameters = list(inspect.signature(self.plan).parameters.values())[1:]
        return {p.name: None if p.default is p.empty else p.default for p in parameters}
