"""A study on a Ray cluster: what its workers compute, lost ones and late ones among them, is what one process does."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from jaxpaint.base import __version__
from jaxpaint.base.errors import UserError
from jaxpaint.studies import cluster, pools
from jaxpaint.studies.settings import spec_from
from tests.helpers.study_store import assert_equal_stores, rows, scores

ROOT = Path(__file__).parents[2]
RAY = "import sys; from ray.scripts.scripts import main; sys.argv[0] = 'ray'; main()"
JAXPAINT = "from jaxpaint.cli import script; script()"
STUDY = ["study", "--model", "painter-16", "--tasks", "painter_facts,painter_places,painter_arithmetic", "--limit", 40]
STUDY += ["--strategies", "skip,reverse,parallel", "--starts", "1-5", "--batch-tokens", 256, "--dtype", "float32"]
STUDY += ["--analyses", "similarity", "--analysis-strategies", "skip", "--analysis-task", "painter_places"]
STUDY += ["--analysis-samples", 5]


class Machines:
    """A Ray cluster on this machine's loopback whose first machine computes nothing; every other has one processor."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{found.getsockname()[1]}"
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        own |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        own |= {"JAXPAINT_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "NPROC": "1"}
        self.folder, self.environment = folder, {**os.environ, **own}
        self.started: list[subprocess.Popen[Any]] = []
        port = self.address.rpartition(":")[2]
        # Ray has sockets in it, whose paths have 107 characters at most.
        self.short = tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True)
        first = ["--head", "--port", port, "--num-cpus", 0, "--temp-dir", self.short.name]
        self._start(*first, "--include-dashboard", "false")
        self._wait(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as asked:
            return not asked.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2])))

    def _wait(self, until: Callable[[], object], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end
            time.sleep(0.05)

    def _start(self, *arguments: object) -> subprocess.Popen[Any]:
        own = ["--node-ip-address", "127.0.0.1", "--object-store-memory", 100_000_000]
        command = [sys.executable, "-c", RAY, "start", "--block", *map(str, [*arguments, *own])]
        with (self.folder / "ray.log").open("a") as log:
            started = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        self.started.append(started)
        return started

    def join(self) -> subprocess.Popen[Any]:
        return self._start("--address", self.address, "--num-cpus", 1)

    def is_computing(self, machine: subprocess.Popen[Any]) -> bool:
        names = (child.cmdline() for child in psutil.Process(machine.pid).children(recursive=True))
        return any("Machine.compute" in " ".join(name) for name in names)

    def kill(self, machine: subprocess.Popen[Any]) -> None:
        """With all of its processes, at once."""
        for process in [*psutil.Process(machine.pid).children(recursive=True), psutil.Process(machine.pid)]:
            process.kill()
        machine.wait()

    def study(self, store: Path, *more: object) -> subprocess.Popen[str]:
        return self.command([*STUDY, "--store", store, *more])

    def command(self, arguments: Sequence[object]) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", JAXPAINT, *map(str, arguments)]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(command, env=self.environment, **pipes))
        return self.started[-1]

    def wait_for_scores(self, store: Path) -> None:
        def some() -> bool:
            return store.exists() and store.stat().st_size > 0 and bool(scores_there(store))

        self._wait(some)


def said(err: str) -> list[str]:
    """All lines but those of progress, which a machine that is slow shows after a minute."""
    return [line for line in err.splitlines() if not line.startswith("study: ")]


def scores_there(store: Path) -> int:
    try:
        return rows(store, "SELECT count(*) AS number FROM scores")[0]["number"]
    except Exception:  # it is being made
        return 0


@pytest.fixture(scope="module")
def machines(tmp_path_factory) -> Iterator[Machines]:
    pytest.importorskip("ray")
    found = Machines(Path(os.path.realpath(tmp_path_factory.mktemp("r"))))
    found.join()
    yield found
    for process in reversed(found.started):
        if process.poll() is None:
            found.kill(process)


@pytest.fixture(scope="module")
def alone(machines) -> Path:
    """The undisturbed study of one process."""
    store = machines.folder / "alone.sqlite"
    process = machines.study(store)
    assert process.wait(300) == 0, process.communicate()
    return store


def assert_same(found: Path, expected: Path) -> None:
    assert scores(found) == scores(expected)
    assert_equal_stores(found, expected)
    analyses = "SELECT p.text, a.name, a.value FROM analyses AS a JOIN plans AS p ON p.id = a.plan ORDER BY 1, 2"
    assert rows(found, analyses) == rows(expected, analyses)


@pytest.mark.slow
def test_a_lost_worker_and_a_late_one(machines: Machines, alone: Path) -> None:
    first = machines.join()
    store = machines.folder / "cluster.sqlite"
    study = machines.study(store, "--ray", machines.address)
    machines.wait_for_scores(store)
    late = machines.join()
    machines._wait(lambda: machines.is_computing(late))
    before = scores_there(store)
    machines.kill(first)
    out, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    (line,) = said(err)
    assert re.fullmatch(r"lost a worker on [0-9.]+; its part runs again", line), err
    assert " 48 of 48 results finished" in out
    assert before < len(scores(alone))
    assert_same(store, alone)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM], ids=lambda ending: ending.name)
def test_a_driver_that_was_ended(machines: Machines, alone: Path, ending: signal.Signals) -> None:
    store = machines.folder / f"{ending.name}.sqlite"
    killed = machines.study(store, "--ray", machines.address)
    machines.wait_for_scores(store)
    killed.send_signal(ending)
    _, err = killed.communicate()
    if ending == signal.SIGTERM:
        assert killed.returncode == 128 + signal.SIGTERM
        assert "Traceback" not in err
        assert f"{store} keeps what is done, and the same command continues" in err
    before = scores_there(store)
    assert 0 < before < len(scores(alone))
    again = machines.study(store, "--ray", machines.address)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, said(err)) == (0, [])
    computed = [int(number) for number in re.findall(r"(\d+) (?:scores|texts)", out)]
    assert sum(computed) == len(scores(alone)) - before
    assert_same(store, alone)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--ray-worker", "GPU=1"], "--ray-worker is of workers on a Ray cluster; give --ray HOST:PORT"),
        (["--ray", "a:1", "--dry-run"], "--dry-run computes nothing, and needs no cluster; leave --ray away"),
        (["--ray", "a:1", "--ray-worker", "GPU"], "--ray-worker is 'GPU'; expected what each worker takes, such as"),
        (["--ray", "a:1", "--ray-worker", "GPU=0"], "--ray-worker is 'GPU=0'; expected"),
    ],
)
def test_options_that_do_not_go_together(refused, tmp_path: Path, options: list[str], words: str) -> None:
    refused(
        "study", "--store", tmp_path / "s.sqlite", "--model", "painter-16", "--tasks", "x", *options, expected=(words,)
    )


def test_no_cluster_there(refused, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        words = f"--ray {address}: no Ray cluster can be joined there (", "`ray start --head` begins one"
        where = "--ray", address, "--store", tmp_path / "s.sqlite"
        refused("study", "--model", "painter-16", "--tasks", "painter_facts", *where, expected=words)


def test_ray_is_not_installed(refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    where = "--ray", "a:1", "--store", tmp_path / "s.sqlite"
    words = ("--ray needs Ray, which is not installed: pip install 'jaxpaint[ray]'",)
    refused("study", "--model", "painter-16", "--tasks", "painter_facts", *where, expected=words)


class Actor:
    """A worker that answers at once, as Ray's would in time."""

    def __init__(self, ray: Ray) -> None:
        self._ray, self._answers = ray, iter(ray.answers.pop(0))
        self.here = self.load = self.compute = self

    def remote(self, *_: object) -> object:
        call = object()
        self._ray.calls[call] = next(self._answers)
        return call


class Ray:
    """As much of Ray as `Pool` uses, of `answers` that each of its workers gives in turn: what Ray's own errors do."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    def __init__(self, size: int, *answers: list[Any]) -> None:
        self.size, self.answers, self.calls = size, list(answers), dict[object, Any]()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.size}

    def remote(self, _: type) -> Any:
        class Options:
            def options(_, **__: object) -> Any:
                return Options()

            def remote(_) -> Actor:
                return Actor(self)

        return Options()

    def wait(self, calls: list[object], **_: object) -> tuple[list[object], list[object]]:
        return calls[:1], calls[1:]

    def get(self, call: object) -> Any:
        answer = self.calls.pop(call)
        if isinstance(answer, Exception):
            raise answer
        return answer


LOST = Ray.exceptions.RayError("lost")
HERE, DEVICE = ("10.0.0.1", __version__), cluster.Device("cpu", 1, "float32", "abc", {})


def pool(told: list[str], size: int, *answers: list[Any]) -> cluster.Pool:
    spec = spec_from({"model": "painter-16", "tasks": "x", "store": "s.sqlite"})
    return cluster.Pool(Ray(size, *answers), spec, {"CPU": 1}, told.append)


def test_workers_of_another_version_or_model_are_left_out() -> None:
    told: list[str] = []
    other = replace(DEVICE, fingerprint="other")
    old, wrong = [("10.0.0.2", "0.0.9")], [("10.0.0.3", __version__), other]
    good = [HERE, DEVICE, ("done", "a"), ("done", "b")]
    assert list(pool(told, 3, good, old, wrong).run([len, len])) == [(0, "a"), (1, "b")]
    assert (
        told
        == [
            f"worker on 10.0.0.2 is left out: it has jaxpaint 0.0.9, and this is {__version__}; install the same",
            "worker on 10.0.0.3 is left out: it computes with fingerprint other, where the first worker has not",
        ][: len(told)]
    )
    assert told


def test_no_worker_that_can_be_used() -> None:
    told: list[str] = []
    with pytest.raises(UserError, match=r"no worker can be used: worker on 10.0.0.1 is left out: no such model"):
        _ = pool(told, 1, [HERE, "no such model"]).device
    with pytest.raises(UserError, match=r"no worker can be used: a worker on .* ended before it had loaded"):
        _ = pool(told, 1, *([LOST] for _ in range(3))).device


def test_a_part_that_ends_every_worker() -> None:
    told: list[str] = []
    with pytest.raises(UserError, match="a part of the study ended 3 workers one after the other"):
        list(pool(told, 1, *([HERE, DEVICE, LOST] for _ in range(3))).run([len]))
    assert told[0] == "lost a worker on 10.0.0.1; its part runs again"


def test_workers_that_start_on_a_lost_machine_are_no_failure() -> None:
    told: list[str] = []
    found = pool(told, 1, [HERE, DEVICE, LOST], [LOST], [LOST], [LOST], [HERE, DEVICE, ("done", "a")]).run([len])
    assert list(found) == [(0, "a")]
    assert told == ["lost a worker on 10.0.0.1; its part runs again"]


def test_a_mistake_and_the_end_of_memory_are_told() -> None:
    with pytest.raises(UserError, match=r"^so wrong$"):
        list(pool([], 1, [HERE, DEVICE, ("mistake", "so wrong")]).run([len]))
    with pytest.raises(pools.OutOfMemory, match="RESOURCE_EXHAUSTED") as found:
        list(pool([], 1, [HERE, DEVICE, ("done", 1), ("memory", "no room")]).run([len, len]))
    assert found.value.job == 1


@pytest.mark.slow
def test_a_search(machines: Machines) -> None:
    """Its generations are scored by the cluster's workers, to the outcome of one process."""
    command = ["search", "--model", "painter-16", "--tasks", "painter_places", "--limit", 24, "--dtype", "float32"]
    command += ["--budget", "cost=0.8", "--methods", "greedy", "--batch-tokens", 256]
    found = []
    for name, more in (("searched", ()), ("spread", ("--ray", machines.address))):
        store = machines.folder / f"{name}.sqlite"
        process = machines.command([*command, "--store", store, *more])
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        found.append((out.splitlines()[1:], scores(store)))
    assert found[0][1] == found[1][1]
    assert found[0][0] == found[1][0]
