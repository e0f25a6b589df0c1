"""A study's work on the machines of a Ray cluster: which workers there are, and what each computes.

Ray starts a worker wherever a device is free, and says when one is lost. A part of the work goes to one worker and its
result comes back to the process that asked, so machines need no file system in common; a lost worker's part runs again.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxpaint.base import __version__
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.studies.pools import Ended, Job, attempted, given
from jaxpaint.studies.spec import StudySpec

LOOK_SECONDS = 2.0  # between looks at the cluster's size while nothing else happens
ROOM_SECONDS = 20.0  # in which a worker should have found room, before it is said that none does
UNNOTICED_SECONDS = 60.0  # in which Ray may start a worker on a machine that was just lost
TRIES = 3  # workers that may end with one part, or before they have loaded the model


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster, by its address (HOST:PORT, or auto for the one that this machine is part of), and what each
    worker takes of it, by Ray's names (CPU, GPU, TPU); None is a GPU where there are any, else a CPU.
    """

    address: str
    resources: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Device:
    """What a worker computes on, and with: all of a study are alike. `rows` is how many devices share a batch's."""

    platform: str
    rows: int
    computed_in: str
    fingerprint: str
    environment: Mapping[str, Any]


class Machine:
    """A worker, in a process that Ray starts on some machine."""

    def here(self) -> tuple[str, str]:
        """Which machine this is, and its jaxpaint's version."""
        import ray

        return ray.util.get_node_ip_address(), __version__

    def load(self, spec: StudySpec, processors: int | None) -> Device | str:
        """Loads the study's model, with so many threads on a CPU; why it cannot, in a line."""
        if processors:
            os.environ["NPROC"] = str(processors)  # XLA's name for how many threads its CPU has
        from jaxpaint.base.target import platform
        from jaxpaint.engine.model import load
        from jaxpaint.engine.walk import shards
        from jaxpaint.models.sharding import device_mesh
        from jaxpaint.tasks.evaluation import environment

        try:
            mesh = device_mesh(spec.tensor_parallel, spec.layer_parallel)
            how: dict[str, Any] = {"dtype": spec.dtype, "weights": spec.weights, "offload": spec.offload}
            self.model = load(spec.model, revision=spec.revision, mesh=mesh, **how)
        except UserError as error:
            return str(error)
        model = self.model
        fingerprint = model.manifest["fingerprint"]
        return Device(platform(), shards(model), model.computed_in, fingerprint, dict(environment()))

    def compute(self, job: Job) -> Ended:
        """What the job gives, or why it does not."""
        return attempted(lambda: job(self.model))


@dataclass(eq=False)
class _Worker:
    """One that was asked for; `use` says how far it is."""

    actor: Any
    use: Literal["starting", "loading", "idle", "busy", "refused"] = "starting"
    node: str = "a machine that did not say which"
    since: float = field(default_factory=time.monotonic)


class Pool:
    """The workers that `joined` gets, more as machines join the cluster."""

    def __init__(self, ray: Any, spec: StudySpec, resources: Mapping[str, float], tell: Callable[[str], None]) -> None:
        self._ray, self._spec, self._resources, self._tell = ray, spec, resources, tell
        self._workers: list[_Worker] = []
        self._calls: dict[Any, tuple[_Worker, int | None]] = {}  # under way, with the number of the job
        self._device: Device | None = None
        self._failed_starts, self._said_full, self._reason = 0, False, ""
        self._lost = float("-inf")  # when

    @property
    def device(self) -> Device:
        """What the workers compute on: waits for the first. Raises UserError where none can be used."""
        while self._device is None:
            self._turn(1)
        return self._device

    @property
    def environment(self) -> Mapping[str, Any]:
        """The workers', as `device`."""
        return self.device.environment

    def load(self) -> None:
        """Waits for the first, as `device` does."""
        _ = self.device

    @property
    def size(self) -> int:
        """How many workers the cluster has room for now."""
        whole = self._ray.cluster_resources()
        return int(min(whole.get(name, 0) // amount for name, amount in self._resources.items()))

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Any]]:
        """Each job's number with its result, as they come.

        Raises:
            UserError: a job's, no worker that can be used, or a job with which workers end again and again.
            OutOfMemory: a device's memory ended.
        """
        waiting, done, losses = deque(range(len(jobs))), 0, Counter[int]()
        try:
            while done < len(jobs):
                for worker in self._workers:
                    if worker.use == "idle" and waiting:
                        self._call(worker, "busy", worker.actor.compute.remote(jobs[waiting[0]]), waiting.popleft())
                for number, outcome in self._turn(len(jobs) - done):
                    if outcome is None:
                        losses[number] += 1
                        waiting.appendleft(number)
                        if losses[number] == TRIES:
                            raise UserError(
                                f"a part of the study ended {TRIES} workers one after the other ({self._reason}); if "
                                "their memory is too small, lower --batch-tokens, or give each more with --ray-worker"
                            )
                        continue
                    value = given(outcome, number)
                    done += 1
                    yield number, value
        finally:  # what is still under way is nobody's
            self._calls = {call: (worker, None) for call, (worker, _) in self._calls.items()}

    def _turn(self, wanted: int) -> list[tuple[int, Any]]:
        """Has so many workers where there is room, waits for something, and gives jobs that ended: None if lost."""
        self._grow(wanted)
        ready, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=LOOK_SECONDS)
        if not ready:
            self._say_if_full()
        ended = []
        for call in ready:
            worker, number = self._calls.pop(call)
            try:
                value = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.RayError as error:
                self._lose(worker, error)
                value = None
            else:
                self._go_on(worker, value)
            if number is not None:
                ended.append((number, value))
        return ended

    def _grow(self, wanted: int) -> None:
        """A worker of the cluster's last free room is asked for even if it is full: it may become free."""
        if not any(worker.use != "refused" for worker in self._workers):
            refused = sum(worker.use == "refused" for worker in self._workers)
            if self._failed_starts >= TRIES or refused >= max(self.size, 1):
                raise UserError(f"--ray: no worker can be used: {self._reason}")
        if self._failed_starts >= TRIES:
            return
        given = dict(self._resources)
        options = {"num_cpus": given.pop("CPU", 0), "num_gpus": given.pop("GPU", 0), "resources": given}
        for _ in range(len(self._workers), max(self.size, 1)):
            if sum(worker.use != "refused" for worker in self._workers) >= wanted:
                return
            worker = _Worker(self._ray.remote(Machine).options(**options).remote())
            self._workers.append(worker)
            self._call(worker, "starting", worker.actor.here.remote())

    def _call(self, worker: _Worker, use: Any, call: Any, number: int | None = None) -> None:
        worker.use, self._calls[call] = use, (worker, number)

    def _go_on(self, worker: _Worker, value: Any) -> None:
        """After what a worker answered."""
        if worker.use == "busy":
            worker.use = "idle"
        elif worker.use == "starting":
            worker.node, version = value
            if version != __version__:
                self._refuse(worker, f"it has jaxpaint {version}, and this is {__version__}; install the same")
                return
            processors = int(self._resources.get("CPU", 0)) if self._resources.keys() == {"CPU"} else None
            self._call(worker, "loading", worker.actor.load.remote(self._spec, processors))
        elif isinstance(value, str):
            self._refuse(worker, value)
        elif self._device is not None and self._different(value):
            self._refuse(worker, f"it computes {self._different(value)}, where the first worker has not")
        else:
            self._device, self._failed_starts, worker.use = self._device or value, 0, "idle"

    def _different(self, device: Device) -> str:
        """What two workers of one study must share and this one does not."""
        names = ("platform", "rows", "computed_in", "fingerprint")
        return ", ".join(
            f"with {name} {getattr(device, name)}"
            for name in names
            if getattr(device, name) != getattr(self._device, name)
        )

    def _refuse(self, worker: _Worker, why: str) -> None:
        """It keeps its room, so that Ray starts the next one elsewhere."""
        worker.use, line = "refused", f"worker on {worker.node} is left out: {why}"
        if line != self._reason:
            self._tell(line)
        self._reason = line

    def _lose(self, worker: _Worker, error: Exception) -> None:
        self._workers.remove(worker)
        if worker.use == "busy":
            self._reason = f"the last one on {worker.node}"
            self._tell(f"lost a worker on {worker.node}; its part runs again")
            self._lost = time.monotonic()
            return
        if worker.use == "starting" and time.monotonic() - self._lost < UNNOTICED_SECONDS:
            return
        self._failed_starts += 1
        self._reason = f"a worker on {worker.node} ended before it had loaded the model: {_cause(error)}"
        self._tell(self._reason)

    def _say_if_full(self) -> None:
        starting = [worker.since for worker in self._workers if worker.use == "starting"]
        if len(starting) < len(self._workers) or self._said_full or time.monotonic() - min(starting) < ROOM_SECONDS:
            return
        self._said_full = True
        what = " ".join(f"{name}={amount:g}" for name, amount in self._resources.items())
        self._tell(f"waiting for the cluster to have room for a worker with {what}")


@contextmanager
def joined(cluster: Cluster, spec: StudySpec, tell: Callable[[str], None]) -> Iterator[Pool]:
    """Workers of the cluster for a study; they end with it, and with this process.

    Raises UserError where Ray is not installed, or no cluster answers.
    """
    ray = require_reachable(cluster)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with _quiet():
            ray.init(cluster.address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (RuntimeError, ValueError, OSError) as error:
        raise _nobody(cluster, error) from error
    try:
        with suppress(ValueError):  # not in the main thread, where Ray's own handler was not set either
            signal.signal(signal.SIGTERM, before)
        taken = cluster.resources or {"GPU" if ray.cluster_resources().get("GPU") else "CPU": 1}
        yield Pool(ray, _for_elsewhere(spec), taken, tell)
    finally:
        ray.shutdown()


def require_reachable(cluster: Cluster) -> Any:
    """Ray, where it is installed and something listens at the cluster's address. Raises UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it reports to its makers
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed: pip install 'jaxpaint[ray]'") from error
    host, _, port = cluster.address.rpartition(":")
    if host and port.isdecimal():  # Ray itself asks for more than a minute
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, OverflowError) as error:
            raise _nobody(cluster, error) from error
    return ray


def _nobody(cluster: Cluster, error: Exception) -> UserError:
    why = getattr(error, "strerror", None) or first_line(error)
    return UserError(
        f"--ray {cluster.address}: no Ray cluster can be joined there ({why}); `ray start --head` begins one, every "
        "machine joins with `ray start --address HOST:PORT`, and all need the same RAY_AUTH_TOKEN"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within it nothing that native code says reaches standard error: Ray says each second that nobody answers."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _for_elsewhere(spec: StudySpec) -> StudySpec:
    """A folder here is named so that it is the same one in a worker's working directory."""
    return replace(spec, model=str(Path(spec.model).resolve())) if Path(spec.model).exists() else spec


def _cause(error: Exception) -> str:
    """What Python said last in a worker that did not start, without Ray's words about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if line.partition(":")[0].endswith(("Error", "Exception"))]
    return named[-1] if named else first_line(error)


def resources(text: str) -> dict[str, float]:
    """CPU=2 or GPU=1,CPU=8 as what a worker takes. Raises UserError."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, amount = part.partition("=")
        if not name.strip() or not amount.strip().isdecimal() or int(amount) < 1:
            raise UserError(f"--ray-worker is {text!r}; expected what each worker takes, such as GPU=1 or CPU=4")
        found[name.strip()] = int(amount)
    return found
