"""The thread that owns the model: takes what waits, does it together, and refuses what it has no room for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence

from jaxpaint.base.errors import UserError
from jaxpaint.serve.work import Job

# Texts taken at once: what comes later waits until these are done.
AT_ONCE = 64
STOPPING = "the server is being stopped"


class QueueFull(UserError):
    """More texts wait than may."""


class Stopped(UserError):
    """The server ends."""


class Queue:
    """At most `most` texts wait; `do` gets jobs that may be done together.

    One thread alone runs the model, so that nothing is computed side by side that would take the same cores.
    """

    def __init__(self, do: Callable[[Sequence[Job]], None], most: int) -> None:
        self._do, self.most = do, most
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._under_way: list[Job] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Tells those who wait that nothing comes any more. What is under way goes on; the thread ends after it."""
        with self._changed:
            self._stopped = True
            waiting, self._waiting = self._waiting, deque()
            self._changed.notify_all()
        for job in waiting:
            job.failed(Stopped(STOPPING))

    def give_up(self) -> None:
        """Tells those whose work is under way, too."""
        for job in self._under_way:
            job.failed(Stopped(STOPPING))

    def submit(self, job: Job, *, goes_on: bool = False) -> None:
        """Raises QueueFull where it has no room, and UserError where it never could.

        What goes on with a request that was begun with has room: it was let in.
        """
        if len(job.work) > self.most:
            raise UserError(f"{len(job.work)} prompts in one request; this server takes at most {self.most}")
        with self._changed:
            if self._stopped:
                raise Stopped(STOPPING)
            self._waiting = deque(job for job in self._waiting if not job.done.cancelled())
            waiting = self.waiting
            if not goes_on and waiting + len(job.work) > self.most:
                raise QueueFull(f"{waiting} prompts wait already, and at most {self.most} may; try again later")
            self._waiting.append(job)
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """Texts that nobody has begun with, and somebody still wants."""
        return sum(len(job.work) for job in list(self._waiting) if not job.done.cancelled())

    def _run(self) -> None:
        while jobs := self._taken():
            try:
                self._do(jobs)
            except BaseException as error:  # this thread is the only one: it must outlive whatever comes
                for job in jobs:
                    job.failed(error)

    def _taken(self) -> list[Job]:
        """The jobs that waited longest, up to `AT_ONCE` texts; none once stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            taken: list[Job] = []
            while self._waiting and (not taken or _texts(taken) + len(self._waiting[0].work) <= AT_ONCE):
                taken.append(self._waiting.popleft())
            self._under_way = taken
            return taken


def _texts(jobs: Sequence[Job]) -> int:
    return sum(len(job.work) for job in jobs)
