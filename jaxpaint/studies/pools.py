"""What computes a study's work in place of its own process: other processes, which get it as functions of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from jaxpaint.base.errors import UserError, first_line

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model

Job: TypeAlias = "Callable[[Model], Any]"
"""A part of the work, on any machine: a function that can be pickled, of the model there."""

Ended: TypeAlias = tuple[Literal["done", "mistake", "memory"], Any]
"""How a part of the work ended, with its result or why there is none, in a line."""


class Pool(Protocol):
    """Workers that have the model (`jaxpaint.studies.cluster`), or one that lies over several processes
    (`jaxpaint.studies.hosts`).
    """

    @property
    def size(self) -> int:
        """How many jobs are computed at the same time."""

    @property
    def environment(self) -> Mapping[str, Any]:
        """As `jaxpaint.tasks.evaluation.environment`, there."""

    def load(self) -> None:
        """Returns when the model can be computed. Raises UserError where it never can."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Each job's number with its result, as they come.

        Raises UserError, a job's or because nobody can compute it; OutOfMemory.
        """


class OutOfMemory(RuntimeError):
    """Of a device; `job` is the number of the job that it computed."""

    def __init__(self, text: str, job: int) -> None:
        super().__init__(text)
        self.job = job


def attempted(work: Callable[[], Any]) -> Ended:
    """What the work gives, or why it does not; what is neither a mistake nor memory's end is raised."""
    try:
        return "done", work()
    except UserError as error:
        return "mistake", str(error)
    except RuntimeError as error:  # jax.errors.JaxRuntimeError
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return "memory", first_line(error)


def given(ended: Ended, job: int) -> Any:
    """A job's result. Raises UserError or OutOfMemory where it has none."""
    kind, value = ended
    if kind == "mistake":
        raise UserError(value)
    if kind == "memory":
        raise OutOfMemory(f"RESOURCE_EXHAUSTED: {value}", job)
    return value
