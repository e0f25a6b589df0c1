"""Many plans on many tasks, until a results store has them all. Never a report, nor the options of a command.

The package can be called: `jaxpaint.study(model, plans, tasks=…)` is `jaxpaint.study.asked.study`.
"""

import inspect
import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    """A package whose name is also what it does for who calls it."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        from jaxpaint.study.asked import study

        return study(*arguments, **keywords)

    @property
    def __signature__(self) -> inspect.Signature:
        from jaxpaint.study.asked import study

        return inspect.signature(study)


sys.modules[__name__].__class__ = _Room
