"""Every call of the system fails once while a folder is made or replaced: the old is there, or the new, whole."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.models.verification import verify
from jaxpaint.plans.plan import Plan
from jaxpaint.report import write_report
from tests.helpers.faults import fail, faults
from tests.helpers.tiny_folder import make_folder
from tests.helpers.tiny_results import make_store

OLD, NEW = "0", "1-0"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("source") / "model")


def names(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def one_fault_each(make: Callable[[], object], destination: Path, is_whole: Callable[[], bool]) -> None:
    """Makes until no call is left that could fail. Only the lock's own removal may leave the lock."""
    for number in count(1):
        failed: list[str] = []

        def act(name: str, failed: list[str] = failed) -> None:
            failed.append(name)
            fail(name)

        with faults(number, number, act), suppress(UserError):  # any other exception is a fault of ours
            make()
        if not failed:
            return
        assert is_whole(), (number, failed)
        left = [file.name for file in destination.parent.iterdir() if file.name.startswith(f".{destination.name}")]
        assert left == [] or (failed == ["unlink"] and left == [f".{destination.name}.jaxpaint-lock"]), (number, left)


def test_export(source: Path, tmp_path: Path) -> None:
    store, out = convert(source, tmp_path / "store"), tmp_path / "out"
    # Of the same name, which their cards have.
    whole = [export(store, tmp_path / plan / "out", Plan.parse(plan)) for plan in (OLD, NEW)]
    expected = [{file.name: file.read_bytes() for file in folder.iterdir()} for folder in whole]
    export(store, out, Plan.parse(OLD))
    one_fault_each(
        lambda: export(store, out, Plan.parse(NEW), overwrite=True),
        out,
        lambda: {file.name: file.read_bytes() for file in out.iterdir()} in expected,
    )


def test_report(tmp_path: Path) -> None:
    store, out = make_store(tmp_path / "results.sqlite"), tmp_path / "report"
    expected = names(write_report(store, out).parent)
    one_fault_each(lambda: write_report(store, out), out, lambda: names(out) == expected)


@pytest.mark.slow
def test_convert(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    out = convert(source, tmp_path / "out")
    fingerprint = verify(out)["fingerprint"]
    one_fault_each(lambda: convert(source, out, overwrite=True), out, lambda: verify(out)["fingerprint"] == fingerprint)
