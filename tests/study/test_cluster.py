"""A study on a Ray cluster: what its workers compute, lost ones and late ones among them, is what one process does."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

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
        first = ["--head", "--port", port, "--num-cpus", 0, "--temp-dir", folder / "ray"]
        self._start(*first, "--include-dashboard", "false")
        self._wait(self._answers)

    def _answers(self) -> bool:
        with socket.socket() as asked:
            return not asked.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2])))

    def _wait(self, until: Callable[[], object], seconds: float = 60) -> None:
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
        command = [sys.executable, "-c", JAXPAINT, *map(str, [*STUDY, "--store", store, *more])]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(command, env=self.environment, **pipes))
        return self.started[-1]

    def wait_for_scores(self, store: Path) -> None:
        def some() -> bool:
            return store.exists() and store.stat().st_size > 0 and bool(scores_there(store))

        self._wait(some)


def scores_there(store: Path) -> int:
    try:
        return rows(store, "SELECT count(*) AS number FROM scores")[0]["number"]
    except Exception:  # it is being made
        return 0


@pytest.fixture(scope="module")
def machines(tmp_path_factory) -> Iterator[Machines]:
    pytest.importorskip("ray")
    found = Machines(Path(os.path.realpath(tmp_path_factory.mktemp("r"))))
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
    first, _ = machines.join(), machines.join()
    store = machines.folder / "cluster.sqlite"
    study = machines.study(store, "--ray", machines.address)
    machines.wait_for_scores(store)
    late = machines.join()
    machines._wait(lambda: machines.is_computing(late))
    before = scores_there(store)
    machines.kill(first)
    out, err = study.communicate(timeout=300)
    assert study.returncode == 0, err
    assert re.fullmatch(r"lost a worker on [0-9.]+; its part runs again\n", err), err
    assert " 48 of 48 results finished" in out
    assert before < len(scores(alone))
    assert_same(store, alone)


@pytest.mark.slow
def test_a_driver_that_was_killed(machines: Machines, alone: Path) -> None:
    store = machines.folder / "killed.sqlite"
    killed = machines.study(store, "--ray", machines.address)
    machines.wait_for_scores(store)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = scores_there(store)
    assert 0 < before < len(scores(alone))
    again = machines.study(store, "--ray", machines.address)
    out, err = again.communicate(timeout=300)
    assert (again.returncode, err) == (0, "")
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
