"""A study whose model lies over the devices of several processes, or machines (`jaxpaint.base.hosts`).

The first process has the settings, tasks, store and report. What is to be computed it sends to all as functions of the
model, which all run at the same time, since each has a part of every array. The others know nothing of the study: they
load the model that the first names, run what it sends, and end when it does.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all, process_allgather

from convert import store_for
from convert.cache import require_converted
from jaxpaint.base import __version__, interrupts
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.hosts import ProcessLost
from jaxpaint.engine.model import Model
from jaxpaint.engine.source import Source
from jaxpaint.models.sharding import device_mesh
from jaxpaint.studies.pools import Job, attempted, given
from jaxpaint.studies.spec import StudySpec
from jaxpaint.tasks.evaluation import environment

ENDINGS = ("done", "memory", "mistake", "interrupted", "bug")  # a job's, from what is least to what is most
WORDS = 1000  # bytes of what a process may say of an ending
SMALLEST = 1 << 12  # bytes of a message: each power of two from here on is one program


@dataclass(frozen=True)
class _Open:
    """A study's model, and which one that is; whose version of jaxpaint says so."""

    spec: StudySpec
    fingerprint: str
    version: str = __version__


@dataclass(frozen=True)
class _Over:
    """The end, by the first process's will or because of an exception."""

    is_well: bool


class Hosts:
    """All of the processes, as the first of them has them: see `leading`."""

    def __init__(self) -> None:
        self._is_midway = False

    def pool(self, spec: StudySpec, source: Source) -> Pool:
        """They with a study's model, which the first reads from `source`."""
        return Pool(self, spec, source)

    def ask(self, message: _Open | Job, work: Callable[[], Any]) -> tuple[Any, Any]:
        """How it ended in all of the processes, of which this one does `work` and the others what the message says.

        A request to end this process waits until all are done, for they compute together; a second one does not, and
        JAX ends the others. Raises UserError where another process was asked to end or is lost, and the bug that ended
        the work.
        """
        packed = pickle.dumps(message)
        with interrupts.held():
            self._is_midway = True
            _shared(packed)
            ended = _agreed(*_ended(work))
            self._is_midway = False
        kind, value = ended
        if kind == "bug":
            raise value
        if kind == "interrupted":
            raise UserError(f"{value}; the same command continues")
        return ended

    def end(self, is_well: bool) -> None:
        """Has the others end."""
        if not self._is_midway:
            _shared(pickle.dumps(_Over(is_well)))
            jax.distributed.shutdown()


class Pool:
    """A model that all of the processes have together: as `jaxpaint.studies.pools.Pool`, one job after the other."""

    size = 1

    def __init__(self, hosts: Hosts, spec: StudySpec, source: Source) -> None:
        self._hosts, self._spec, self._source, self._is_loaded = hosts, spec, source, False

    @property
    def environment(self) -> Mapping[str, Any]:
        return environment()

    def load(self) -> None:
        """Has all processes read the weights, where they have not. Raises UserError, whichever cannot."""
        if self._is_loaded:
            return
        # Reading waits for all of them: which cannot begin, is said before.
        given(self._hosts.ask(_Open(self._spec, self._source.manifest["fingerprint"]), lambda: None), 0)
        given(self._asked(_nothing), 0)
        self._is_loaded = True

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            self.load()
            yield number, given(self._asked(job), number)

    def _asked(self, job: Job) -> tuple[Any, Any]:
        return self._hosts.ask(job, lambda: job(self._source.loaded))


@contextmanager
def leading() -> Iterator[Hosts]:
    """Within it the first process has the others compute, which `follow` and end with it."""
    _shared()  # they connect now: of that JAX waits for half a minute only, of a message as long as it takes
    hosts, is_well = Hosts(), False
    try:
        yield hosts
        is_well = True
    finally:
        hosts.end(is_well)


def follow() -> None:
    """Does a process's part of what the first one has computed, until that says that it is over.

    Raises UserError where the first ended otherwise than well; KeyboardInterrupt at the end where one was asked for,
    which the first is told of.
    """
    opened: list[Source] = []  # that of the study at hand
    _shared()  # as `leading`
    with interrupts.held() as is_asked_to_end:
        while not isinstance(message := pickle.loads(_shared()), _Over):
            ended = _ended(partial(_open if isinstance(message, _Open) else _compute, message, opened))
            _agreed(*(("interrupted", interrupts.word()) if is_asked_to_end() else ended))
            del ended
        jax.distributed.shutdown()
    if not message.is_well:
        raise UserError("the first process ended before all was done, and says why")


def _open(wanted: _Open, opened: list[Source]) -> None:
    """Raises UserError where the model is not the first process's."""
    opened.clear()  # before another takes its place
    spec = wanted.spec
    if wanted.version != __version__:
        raise UserError(f"it has jaxpaint {__version__}, and the first process {wanted.version}; install the same")
    require_converted(spec.model, spec.revision)
    mesh, store = device_mesh(spec.tensor_parallel, spec.layer_parallel), store_for(spec.model, spec.revision)
    source = Source.of(store, spec.dtype, spec.weights, mesh=mesh, offload=spec.offload)  # type: ignore[arg-type]
    if source.manifest["fingerprint"] != wanted.fingerprint:
        raise UserError(f"{spec.model} is another model here than where the first process is; convert the same")
    opened.append(source)


def _compute(job: Job, opened: list[Source]) -> None:
    """What it gives, the first process has, too."""
    job(opened[0].loaded)


def _nothing(model: Model) -> None:
    """The job that has the weights read."""


def _ended(work: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return attempted(work)
    except Exception as error:  # the first process's is told
        return "bug", error


def _agreed(kind: str, value: Any) -> tuple[Any, Any]:
    """How it ended for all: as in this process, unless it was worse in another, which is told in its words."""
    text = b"" if kind == "done" else (first_line(value) if kind == "bug" else value).encode()[:WORDS]
    own = np.zeros(1 + WORDS, np.uint8)
    own[: 1 + len(text)] = ENDINGS.index(kind), *text
    with _together(value if kind == "bug" else None):
        endings = process_allgather(own).reshape(-1, 1 + WORDS)
    worst = int(endings[:, 0].argmax())
    if endings[worst, 0] <= ENDINGS.index(kind):
        return kind, value
    words = f"process {worst}: {endings[worst, 1:].tobytes().rstrip(bytes(1)).decode(errors='replace')}"
    kind = ENDINGS[endings[worst, 0]]
    return kind, RuntimeError(words) if kind == "bug" else words


def _shared(message: bytes = b"") -> bytes:
    """The first process's message, in all of them."""
    with _together():
        size = int(broadcast_one_to_all(np.int32(len(message))))
        room = np.zeros(max(SMALLEST, 1 << (size - 1).bit_length()), np.uint8)
        room[: len(message)] = np.frombuffer(message, np.uint8)
        return broadcast_one_to_all(room)[:size].tobytes()


@contextmanager
def _together(before: Exception | None = None) -> Iterator[None]:
    """Within it processes exchange something. Raises ProcessLost where one is not there, which an error of `before`
    may have said first.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:  # of JAX, by the collectives that it uses
        raise ProcessLost(
            f"the processes lost one another ({first_line(before or error)}); the same command continues"
        ) from error
