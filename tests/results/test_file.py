"""The store as a file: killed, locked, full, foreign, forbidden; always one clear line, and nothing lost."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.results.store import Store, reading
from tests.helpers.tiny_results import contents, fill, make_store

NOBODY = 65534


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A process of its own that knows the tests' helpers, without JAX."""
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def refusal(path: Path, create: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        Store.open(path, create=create)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# --- files that are not a store -----------------------------------------------------------------------------


def test_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    assert "does not exist; `jaxpaint list stores` shows those of a folder" in refusal(path)
    with pytest.raises(UserError, match="does not exist"), reading(path):
        pass
    assert not list(tmp_path.iterdir())
    for create in (False, True):
        assert "is a folder" in refusal(tmp_path, create)
        assert f"the folder {tmp_path / 'absent'} does not exist" in refusal(tmp_path / "absent" / "a.sqlite", create)


def assert_left_alone(path: Path, why: str) -> None:
    before = path.read_bytes()
    for create in (False, True):
        assert why in refusal(path, create)
    with pytest.raises(UserError, match=why), reading(path):
        pass
    assert path.read_bytes() == before


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"results": 1}' * 100)
    assert_left_alone(path, "not a results store, nor any SQLite database")


@pytest.mark.parametrize("statement", ["CREATE TABLE photos (name TEXT)", "PRAGMA application_id = 12345"])
def test_another_programs_database(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "photos.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    assert_left_alone(path, "is an SQLite database of another program")


def test_an_empty_file_is_told_apart_from_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "made-by-mktemp"
    path.touch()
    with pytest.raises(UserError, match=f"{path} is empty"), reading(path):
        pass
    with Store.open(path, create=True):
        pass
    with reading(path) as connection:
        assert connection.execute("SELECT count(*) FROM models").fetchone() == (0,)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("version", "advice"), [(0, "older jaxpaint"), (7, "newer jaxpaint.*update jaxpaint")])
def test_another_version(tmp_path: Path, version: int, advice: str) -> None:
    path = make_store(tmp_path / "study.sqlite")
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    for create in (False, True):
        message = refusal(path, create)
        assert f"has version {version}, made by" in message
        assert "this one reads versions 2 to " in message
    with pytest.raises(UserError, match=advice), reading(path):
        pass


def test_a_damaged_store(tmp_path: Path) -> None:
    path = make_store(tmp_path / "study.sqlite", documents=range(100))
    data = bytearray(path.read_bytes())
    data[8192:] = b"\x55" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"), reading(path) as connection:
        connection.execute("SELECT * FROM loglikelihoods").fetchall()


@pytest.mark.parametrize("name", ["a b#c?d%20.sqlite", "größe.sqlite", "study"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    path = make_store(tmp_path / name)
    assert list(tmp_path.iterdir()) == [path]
    with reading(path) as connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (8,)


def test_a_maker_that_was_killed_leaves_an_empty_file_to_start_from(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    path.touch()
    assert "not a results store" in refusal(path)
    make_store(path)
    assert len(contents(path)["results"]) == 16


# --- writing ------------------------------------------------------------------------------------------------


def test_a_reader_sees_one_moment_while_others_write(tmp_path: Path) -> None:
    path = make_store(tmp_path / "study.sqlite", documents=range(2))
    count = "SELECT count(*) FROM scores"
    with reading(path) as connection, Store.open(path, create=False) as store:
        before = connection.execute(count).fetchone()
        fill(store, documents=range(5))
        assert connection.execute(count).fetchone() == before
        with pytest.raises(UserError, match="cannot be written"), reading(path) as other:
            other.execute("DELETE FROM scores")
    with reading(path) as connection:
        assert connection.execute(count).fetchone() == (80,)
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_that_another_program_keeps(tmp_path: Path) -> None:
    path = make_store(tmp_path / "study.sqlite")
    browser = sqlite3.connect(path, isolation_level=None)
    browser.execute("BEGIN IMMEDIATE")
    with (
        Store.open(path, create=False, timeout=0.2) as store,
        pytest.raises(UserError, match="another program kept it locked"),
    ):
        fill(store)
    browser.close()


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    path = make_store(tmp_path / "study.sqlite")
    before = contents(path)
    with Store.open(path, create=False) as store:
        (pages,) = store.connection.execute("PRAGMA page_count").fetchone()
        store.connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own limit fails as a disk does
        with pytest.raises(UserError, match="the disk is full; everything written before is kept: make room"):
            fill(store, documents=range(4, 2000))
        assert store.connection.execute("SELECT count(*) FROM scores").fetchone() == (64,)
    assert contents(path) == before


LIMITED = """
import resource, signal, sys
from pathlib import Path
from jaxpaint.base.errors import UserError
from jaxpaint.results.store import Store
from tests.helpers.tiny_results import fill
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (260_000, 260_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with Store.open(path, create=True) as store:
        for first in range(0, 10_000, 10):
            fill(store, documents=range(first, first + 10), finish=False)
except UserError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    output, errors = python(LIMITED, path).communicate()
    assert errors == ""
    assert f"results store {path}: the disk" in output
    assert "everything written before is kept" in output
    assert output.count("\n") == 1
    with Store.open(path, create=False) as store:
        assert store.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (scores,) = store.connection.execute("SELECT count(*) FROM scores").fetchone()
        assert scores > 0
        assert scores % 20 == 0  # whole transactions: ten documents of a task, two requests each


KILLED = """
import sys
from pathlib import Path
from jaxpaint.results.store import Store
from tests.helpers.tiny_results import fill
with Store.open(Path(sys.argv[1]), create=True) as store:
    for first in range(0, 1_000_000, 10):
        fill(store, documents=range(first, first + 10), finish=False)
        print(first + 10, flush=True)
"""


def test_a_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    for round in range(3):
        process = python(KILLED, path)
        assert process.stdout is not None
        told = process.stdout.readline()
        time.sleep(0.05 * round)
        process.send_signal(signal.SIGKILL)
        told += process.communicate()[0]
        documents = int(told.split()[-1])
        with reading(path) as connection:
            (scores,) = connection.execute("SELECT count(*) FROM scores").fetchone()
            assert scores >= documents * 2 * 8
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


OPENED = """
import sys
from pathlib import Path
from jaxpaint.results.store import Store
from tests.helpers.tiny_results import fill
sys.stdin.readline()
with Store.open(Path(sys.argv[1]), create=True) as store:
    fill(store)
"""


def test_many_make_one_store_at_once(tmp_path: Path) -> None:
    path, alone = tmp_path / "study.sqlite", make_store(tmp_path / "alone.sqlite")
    processes = [python(OPENED, path, stdin=subprocess.PIPE) for _ in range(5)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in processes] == [""] * 5
    assert contents(path) == contents(alone)


# --- permissions --------------------------------------------------------------------------------------------


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that everybody may reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def powerless() -> Iterator[None]:
    """The administrator may write anywhere, so tests of permissions need to be somebody else for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    yield
    os.setresuid(0, 0, 0)


@pytest.fixture
def forbidden(shelf: Path) -> Path:
    """A store in a folder that nobody may write to."""
    path = make_store(shelf / "study.sqlite")
    path.chmod(0o444)
    shelf.chmod(0o555)
    return path


def test_a_store_that_may_only_be_read(forbidden: Path, powerless: None) -> None:
    with reading(forbidden) as connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (8,)
    for create in (False, True):
        assert f"no permission to write {forbidden}" in refusal(forbidden, create)
    assert f"no permission to write {forbidden.parent}" in refusal(forbidden.with_name("new.sqlite"), True)
    assert list(forbidden.parent.iterdir()) == [forbidden]


@pytest.fixture
def enclosed(forbidden: Path) -> Path:
    """A store that all may write to, in a folder that nobody may write to."""
    forbidden.chmod(0o666)
    return forbidden


def test_a_store_in_a_folder_that_may_only_be_read(enclosed: Path, powerless: None) -> None:
    assert f"no permission to write {enclosed.parent}" in refusal(enclosed)
    with reading(enclosed) as connection:
        assert connection.execute("SELECT count(*) FROM cells").fetchone() == (8,)


@pytest.fixture
def killed(shelf: Path) -> Path:
    """A store whose writer was killed, so that a part of it is in the log still; nobody may write to its folder."""
    path = shelf / "study.sqlite"
    with Store.open(shelf / "living.sqlite", create=True) as store:
        fill(store)
        for suffix in ("", "-wal"):
            shutil.copy(f"{store.path}{suffix}", f"{path}{suffix}")
    shelf.chmod(0o555)
    return path


def test_a_log_that_cannot_be_read_is_not_left_out(killed: Path, powerless: None) -> None:
    with pytest.raises(UserError, match="it cannot be opened"), reading(killed):
        pass


@pytest.fixture
def unreadable(shelf: Path) -> Path:
    path = make_store(shelf / "study.sqlite")
    path.chmod(0)
    return path


def test_a_store_that_may_not_be_read(unreadable: Path, powerless: None) -> None:
    with pytest.raises(UserError, match="no permission"), reading(unreadable):
        pass
    assert "no permission" in refusal(unreadable)
