"""Files that are written whole, and what is no file."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.base.files import check_writable, is_stream, new_file, write_whole
from tests.helpers.faults import contents, fail, faults, killed_at

ROOT = Path(__file__).parents[2]


def kill_everywhere(root: Path) -> None:
    """Run in a process of its own, which forks."""
    for before in ("old", None):
        for number in count(1):
            file = root / f"{before} {number}" / "out.csv"
            file.parent.mkdir()
            if before:
                file.write_text(before)
            killed = killed_at(number, lambda file=file: write_whole("new", file))
            assert contents(file) in ((before, "new") if killed else ("new",)), number
            write_whole("newer", file)
            assert contents(file) == "newer"
            assert os.listdir(file.parent) == ["out.csv"]
            if not killed:
                break
        assert number > 5


def test_killed_at_every_step(tmp_path):
    code = "import sys; from pathlib import Path; from tests.base.test_files import kill_everywhere as k; "
    command = [sys.executable, "-c", code + "k(Path(sys.argv[1]))", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def kill_new_files_everywhere(root: Path) -> None:
    """Run in a process of its own, which forks."""

    def write(text: str, file: Path) -> None:
        with new_file(file, overwrite=True, replaces=lambda _: True) as opened:
            opened.write(text.encode())

    for before in ("old", None):
        for number in count(1):
            file = root / f"{before} {number}" / "out.gguf"
            if before:
                file.parent.mkdir()
                file.write_text(before)
            killed = killed_at(number, lambda file=file: write("new", file))
            assert contents(file) in ((before, "new") if killed else ("new",)), number
            write("newer", file)
            assert contents(file) == "newer"
            assert os.listdir(file.parent) == ["out.gguf"]
            if not killed:
                break
        assert number > 5


def test_new_files_killed_at_every_step(tmp_path):
    code = "import sys; from pathlib import Path; from tests.base.test_files import kill_new_files_everywhere as k; "
    command = [sys.executable, "-c", code + "k(Path(sys.argv[1]))", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_new_file_replaces_what_it_is_told_to(tmp_path):
    file = tmp_path / "made" / "out.gguf"
    with pytest.raises(ZeroDivisionError), new_file(file) as opened:
        opened.write(bytes(1 // 0))
    assert not list(tmp_path.iterdir())
    with new_file(file) as opened:
        opened.write(b"first")
        assert [hidden.name[:14] for hidden in file.parent.iterdir() if "lock" not in hidden.name] == [".out.gguf.part"]
    for options, why in (({}, "exists already"), ({"overwrite": True}, "left alone")):
        with pytest.raises(UserError, match=why), new_file(file, **options):
            raise AssertionError("it was begun")
    with pytest.raises(UserError, match="exists already"), new_file(tmp_path / "late") as opened:
        (tmp_path / "late").write_text("mine")
    assert [contents(tmp_path / "late"), contents(file)] == ["mine", "first"]
    with pytest.raises(UserError, match="is a folder"), new_file(tmp_path):
        raise AssertionError("it was begun")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), new_file(tmp_path / "file" / "out.gguf"):
        raise AssertionError("it was begun")


def test_whatever_fails_the_old_one_or_the_new_one_is_there(tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for number in count(1):
        file, failed = tmp_path / str(number) / "out.csv", []
        file.parent.mkdir()
        file.write_text("old")

        def act(name: str, failed: list[str] = failed) -> None:
            failed.append(name)
            fail(name)

        message = None
        try:
            with faults(number, number, act):
                write_whole("new", file)
        except UserError as error:
            message = str(error)
        assert contents(file) in (("old", "new") if message else ("new",)), failed
        assert message in (None, f"cannot write {file}: Input/output error")
        write_whole("newer", file)
        assert os.listdir(file.parent) == ["out.csv"]
        if not failed:
            break
    assert number > 5


def test_links_are_followed_and_stay(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "real").write_text("old")
    (tmp_path / "one").symlink_to("disk/real")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "to nothing").symlink_to("disk/new")
    for name in ("two", "to nothing"):
        check_writable(tmp_path / name, "a file")
        write_whole(name, tmp_path / name)
        assert (tmp_path / name).is_symlink()
    assert contents(tmp_path / "disk") == {"real": "two", "new": "to nothing"}
    (tmp_path / "circle").symlink_to("circle")
    for act in (lambda: write_whole("", tmp_path / "circle"), lambda: check_writable(tmp_path / "circle", "a file")):
        with pytest.raises(UserError, match="circle"):
            act()


def test_modes_and_owners_stay(tmp_path):
    file = tmp_path / "private.csv"
    file.write_text("old")
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 12345, 12346)
    before = file.stat()
    write_whole("new", file)
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    write_whole("new", tmp_path / "new.csv")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "new.csv").stat().st_mode) == 0o666 & ~mask


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_write_protected_files_are_left_alone(tmp_path):
    (tmp_path / "precious.csv").write_text("old")
    (tmp_path / "precious.csv").chmod(0o444)
    with pytest.raises(UserError, match="write-protected"):
        check_writable(tmp_path / "precious.csv", "a file")
    with pytest.raises(UserError, match="write-protected"):
        write_whole("new", tmp_path / "precious.csv")
    assert contents(tmp_path / "precious.csv") == "old"


def test_a_pipe_is_written_into(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (tmp_path / "link").symlink_to(fifo)
    text = "long " * 50_000
    for path in (fifo, tmp_path / "link"):
        check_writable(path, "a file")
        writer = threading.Thread(target=write_whole, args=(text, path))
        writer.start()
        assert fifo.read_text() == text
        writer.join()
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert sorted(os.listdir(tmp_path)) == ["fifo", "link"]


def test_a_device_is_written_into():
    before = os.stat(os.devnull)
    write_whole("nothing of it stays", Path(os.devnull))
    assert os.stat(os.devnull).st_ino == before.st_ino
    if Path("/dev/full").exists():
        with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
            write_whole("text", Path("/dev/full"))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_into_in_its_turn(tmp_path, name):
    """A file that the shell opened stays that file, and what is printed before and after stays too."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    path = tmp_path / name
    code = "import sys; from pathlib import Path; from jaxpaint.base.files import write_whole; "
    code += "print('before', flush=True); write_whole('text\\n', Path(sys.argv[1])); print('after')"
    with (tmp_path / "file").open("w") as output:
        subprocess.run([sys.executable, "-c", code, str(path)], stdout=output, cwd=ROOT, check=True)
    piped = subprocess.run([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT, check=True)
    assert (tmp_path / "file").read_bytes() == piped.stdout == b"before\ntext\nafter\n"


def test_what_cannot_be_a_file(tmp_path):
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "nowhere" / "out", "does not exist"),
        (tmp_path / ("n" * 256), "too long"),
    ):
        with pytest.raises(UserError, match=message):
            check_writable(path, "a file")
        with pytest.raises(UserError, match="cannot write"):
            write_whole("text", path)
    assert os.listdir(tmp_path) == []


def test_a_stream_is_told_from_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    assert not is_stream(tmp_path / "file")
    assert not is_stream(tmp_path / "none")
    assert not is_stream(tmp_path)
    assert is_stream(Path(os.devnull))
    assert is_stream(Path("/dev/stdout"))


def test_text_that_is_no_unicode_is_written(tmp_path):
    write_whole("caf\udce9", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "caf" + chr(92) + "udce9"
