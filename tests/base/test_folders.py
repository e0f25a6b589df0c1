"""Folders that replace others: whenever the process is killed, whatever fails, the old one or the new one is there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from unittest.mock import patch

import pytest

from jaxpaint.base import folders
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import new_folder, recover, working_folder
from tests.helpers.faults import contents, fail, faults, killed_at

OLD, NEW = {"a": "old", "b/c": "old"}, {"a": "new", "b/d": "new", "e": "new"}
WAYS = {"one step": True, "two steps": False}  # of file systems that exchange names, and of those that do not


def make(destination: Path, files: dict[str, str], **options) -> None:
    with new_folder(destination, overwrite=True, replaces=lambda folder: True, **options) as folder:
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)


def way(exchanges: bool):
    return nullcontext() if exchanges else patch.object(folders, "_exchange", lambda *_: False)


def there(destination: Path, exchanges: bool) -> object:
    if not exchanges:  # a reader finds it again
        recover(destination)
    return contents(destination)


def kill_everywhere(root: Path, exchanges: bool) -> None:
    """Run in a process of its own, which forks."""
    for before in (OLD, None):
        for number in count(1):
            destination = root / f"{'old' if before else 'nothing'} {number}" / "out"
            destination.parent.mkdir()
            if before:
                make(destination, before)
            with way(exchanges):
                killed = killed_at(number, lambda destination=destination: make(destination, NEW))
                after = there(destination, exchanges)
                assert after in ((before, NEW) if killed else (NEW,)), (number, after)
                make(destination, {"a": "newer"})
            assert contents(destination) == {"a": "newer"}
            assert os.listdir(destination.parent) == ["out"], number
            if not killed:
                break
        assert number > 15


@pytest.mark.parametrize("exchanges", WAYS.values(), ids=WAYS)
@pytest.mark.few(1)
def test_killed_at_every_step(tmp_path, exchanges):
    code = "import sys; from pathlib import Path; from tests.base.test_folders import kill_everywhere as k; "
    code += "k(Path(sys.argv[1]), sys.argv[2] == 'True')"
    command = [sys.executable, "-c", code, str(tmp_path), str(exchanges)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("exchanges", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("lasts", [True, False], ids=["for good", "once"])
@pytest.mark.few(1)
def test_whatever_fails_the_old_one_or_the_new_one_is_there(tmp_path, exchanges, lasts, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    for number in count(1):
        destination, failed, error = tmp_path / str(number) / "out", [], None
        destination.parent.mkdir()
        make(destination, OLD)

        def act(name: str, failed: list[str] = failed) -> None:
            failed.append(name)
            fail(name)

        with way(exchanges):
            try:
                with faults(number, 10**9 if lasts else number, act):
                    make(destination, NEW)
            except UserError as caught:
                error = str(caught)
            after = there(destination, exchanges)
            if not lasts:  # it has the means to tidy up
                assert {*os.listdir(destination.parent)} <= {"out", ".out.jaxpaint-lock"}
            make(destination, {"a": "newer"})
        assert after in ((OLD, NEW) if error else (NEW,)), (number, failed)
        assert error is None or error.endswith(": Input/output error")
        assert os.listdir(destination.parent) == ["out"]
        if not failed:
            break
    assert number > 15


def test_the_exchange_is_one_step(tmp_path):
    """Where this system has it: there is no moment without a folder."""
    make(tmp_path / "out", OLD)
    (tmp_path / "other").mkdir()
    if not folders._exchange(tmp_path / "out", tmp_path / "other"):
        pytest.skip("this file system does not exchange names")
    folders._exchange(tmp_path / "out", tmp_path / "other")

    def present(name: str) -> None:
        assert (tmp_path / "out").is_dir()

    with faults(1, 10**9, present):
        make(tmp_path / "out", NEW)
    assert contents(tmp_path / "out") == NEW


def test_what_a_kill_left_under_a_hidden_name_outlives_a_failing_successor(tmp_path):
    hidden = tmp_path / ".out.partial-99999999-replaced"  # as earlier versions call it, too
    make(hidden, OLD)
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "out"):
        pass
    assert contents(tmp_path / "out") == OLD
    (tmp_path / "out").rename(hidden)
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out", overwrite=True, replaces=Path.is_dir):
        raise ZeroDivisionError
    assert contents(tmp_path / "out") == OLD
    (tmp_path / "out").rename(hidden)
    recover(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]


def test_nobody_elses_hidden_folder_is_touched(tmp_path):
    """A name is a name: not a pattern, not the beginning of another."""
    precious = (
        ".abc.partial-1",
        ".a.partial-1.partial-2",
        ".a.partial-old",
        ".a.partial-1-replaced-2",
        ".aa.partial-1",
    )
    for name in precious:
        (tmp_path / name).mkdir()
    for name in ("a*", "a", "[a]", "a?"):
        (tmp_path / f".{name}.partial-99999999").mkdir()
        make(tmp_path / name, NEW)
        assert not (tmp_path / f".{name}.partial-99999999").exists()
        assert [each for each in precious if not (tmp_path / each).is_dir()] == []


def test_links_are_followed(tmp_path):
    (tmp_path / "disk").mkdir()
    make(tmp_path / "disk" / "real", OLD)
    (tmp_path / "out").symlink_to("disk/real")
    (tmp_path / "to nothing").symlink_to("disk/new")
    make(tmp_path / "out", NEW)
    make(tmp_path / "to nothing", NEW)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "to nothing").is_symlink()
    assert contents(tmp_path / "disk" / "real") == contents(tmp_path / "disk" / "new") == NEW
    assert sorted(os.listdir(tmp_path / "disk")) == ["new", "real"]
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(UserError, match="circle"):
        make(tmp_path / "circle", NEW)


def test_a_replaced_folder_leaves_its_mode(tmp_path):
    make(tmp_path / "out", OLD)
    (tmp_path / "out").chmod(0o700)
    make(tmp_path / "out", NEW)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    if os.geteuid() == 0:
        os.chown(tmp_path / "out", 12345, 12345)
        make(tmp_path / "out", OLD)
        assert {path.stat().st_uid for path in (tmp_path / "out", *(tmp_path / "out").rglob("*"))} == {12345}


def test_names_as_long_as_the_file_system_allows(tmp_path):
    for name in ("n" * 255, "ñ" * 127):
        make(tmp_path / name, OLD)
        make(tmp_path / name, NEW)
        assert contents(tmp_path / name) == NEW
    with pytest.raises(UserError, match="File name too long"):
        make(tmp_path / ("n" * 256), NEW)
    assert len(os.listdir(tmp_path)) == 2


def test_what_changes_meanwhile_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="left alone"), new_folder(tmp_path / "out", overwrite=True):
        (tmp_path / "out" / "thesis.tex").write_text("irreplaceable")
    assert contents(tmp_path / "out") == {"thesis.tex": "irreplaceable"}
    assert os.listdir(tmp_path) == ["out"]


def test_folders_on_the_way_go_with_what_failed(tmp_path):
    with pytest.raises(UserError), new_folder(tmp_path / "a" / "b" / "out"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []
    make(tmp_path / "a" / "b" / "out", NEW)
    assert contents(tmp_path / "a" / "b" / "out") == NEW


def test_errors_of_a_disk_are_told_and_others_are_not_hidden(tmp_path):
    full = r"cannot write .*out: No space left on device$"
    for error in (OSError(28, "No space left on device"), ValueError("RESOURCE_EXHAUSTED: No space left on device")):
        with pytest.raises(UserError, match=full), new_folder(tmp_path / "out"):
            raise error
    for other in (ValueError("a bug"), FileNotFoundError(2, "No such file or directory", "/elsewhere/file")):
        with pytest.raises(type(other)), new_folder(tmp_path / "out"):
            raise other
    assert os.listdir(tmp_path) == []


def test_a_working_folder_vanishes(tmp_path):
    with working_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("")
    assert os.listdir(tmp_path) == []
