"""Locks: who waits for whom, what is said meanwhile, and what is left of dead processes."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from jaxpaint.base import locks
from jaxpaint.base.caches import locks_folder
from jaxpaint.base.errors import UserError
from jaxpaint.base.locks import claimed, held

HOLD = """
import sys, time
from pathlib import Path
from jaxpaint.base.locks import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another(path: Path):
    """A process that holds the lock of `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout.readline() == b"held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_one_at_a_time_and_nothing_left(tmp_path):
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with held(tmp_path / "out"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "POLL", 0.001)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == 1
    assert len(done) == 4
    assert os.listdir(tmp_path) == []


def test_who_waits_says_for_whom_and_how_long(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "SAID_AFTER", 0.2)
    monkeypatch.setattr(locks, "SAID_AGAIN", 0.6)
    with another(tmp_path / "out") as process:
        with claimed(tmp_path / "out", "other kind") as is_ours:
            assert is_ours
        threading.Timer(1.2, process.terminate).start()
        with held(tmp_path / "out"):
            said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    start = f"waiting for process {process.pid}, which is writing {tmp_path / 'out'}"
    assert all(line.startswith(start) for line in said)
    assert "(0 s so far" in said[0]
    assert "(1 s so far" in said[1]
    assert os.listdir(tmp_path) == []


def test_what_a_lock_says_is_not_trusted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "SAID_AFTER", 0.1)
    with another(tmp_path / "out") as process:
        (lock,) = tmp_path.iterdir()
        for text, expected in (
            ("1 \x1b[31mred\n", "another process"),
            ("12 elsewhere.org\n", "process 12 on elsewhere.org"),
            (f"12 {socket.gethostname()}\n", "process 12,"),
            ("", "another process"),
        ):
            lock.write_text(text)
            monkeypatch.setattr("jaxpaint.base.locks.time.sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
            monkeypatch.setattr(locks, "SAID_AFTER", 0.0)
            with pytest.raises(KeyboardInterrupt), held(tmp_path / "out"):
                pass
            said = capsys.readouterr().err
            assert expected in said
            assert "\x1b" not in said
        process.kill()


def test_dead_processes_leave_no_lock_for_good(tmp_path):
    with another(tmp_path / "killed") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert len(os.listdir(tmp_path)) == 1
        (tmp_path / ".mine.lock").write_text("of another program")
        with another(tmp_path / "alive"):
            with held(tmp_path / "third"):
                assert sorted(os.listdir(tmp_path)) == [".alive.jaxpaint-lock", ".mine.lock", ".third.jaxpaint-lock"]
            assert sorted(os.listdir(tmp_path)) == [".alive.jaxpaint-lock", ".mine.lock"]
        with held(tmp_path / "alive"):  # nobody waits for the dead
            pass
    assert os.listdir(tmp_path) == [".mine.lock"]


def test_a_claim_does_not_wait(tmp_path):
    with claimed(tmp_path / "run", "training") as first:
        with claimed(tmp_path / "run", "training") as second:
            assert (first, second) == (True, False)
        with held(tmp_path / "run"), claimed(tmp_path / "other", "training") as third:
            assert third
    with claimed(tmp_path / "run", "training") as again:
        assert again
    assert os.listdir(tmp_path) == []


def test_other_things_of_the_lock_s_name_are_left_alone(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    lock = tmp_path / ".out.jaxpaint-lock"
    for make in (lambda: lock.symlink_to(victim), lambda: os.mkfifo(lock), lambda: lock.mkdir()):
        make()
        with pytest.raises(OSError, match=r"\.out\.jaxpaint-lock"), held(tmp_path / "out"):
            pass
        lock.rmdir() if lock.is_dir() else lock.unlink()
    os.link(victim, lock)
    with held(tmp_path / "out"):
        pass
    assert victim.read_text() == "precious"


def test_file_systems_without_locks(tmp_path, monkeypatch):
    """There the user's own cache folder has them, which nobody else may look into."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    real, without = locks.fcntl.flock, [tmp_path / "shared"]

    def flock(descriptor: int, operation: int) -> None:
        if any(Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(folder) for folder in without):
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        real(descriptor, operation)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs Linux's /proc")
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    (tmp_path / "shared").mkdir()
    with claimed(tmp_path / "shared" / "out", "training") as first:
        assert first
        assert stat.S_IMODE(locks_folder().stat().st_mode) == 0o700
        assert len(os.listdir(locks_folder())) == 1
        with claimed(tmp_path / "shared" / "out", "training") as second:
            assert not second
    assert os.listdir(locks_folder()) == os.listdir(tmp_path / "shared") == []
    without.append(tmp_path / "cache")
    with pytest.raises(UserError, match="JAXPAINT_CACHE"), held(tmp_path / "shared" / "out"):
        pass
