"""jaxpaint cache and list: what is kept, removed, refused, and what there is to name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from jaxpaint.base.bundled import FOLDER
from jaxpaint.base.locks import held
from jaxpaint.plans.strategies import EVERY
from tests.helpers.cli_fixtures import in_process
from tests.helpers.tiny_results import PLANS, TASKS, make_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
NAME = "painter-16"


@pytest.fixture
def kept(run, tmp_path, monkeypatch, nothing_of_the_users):
    """A cache of one's own with painter-16 converted, two compiled programs, one of them old; lists what is there."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "kept"))
    from convert import store_for

    store = store_for("painter-16")
    compiled = tmp_path / "kept" / "compiled"
    compiled.mkdir()
    (compiled / "new").write_bytes(b"12345")
    (compiled / "old").write_bytes(b"123")
    os.utime(compiled / "old", (time.time() - 40 * 86_400,) * 2)

    def listed() -> dict[str, dict]:
        found = json.loads(run("cache", "ls", "--json")[1])
        assert found["folder"] == str(tmp_path / "kept")
        return {each["name"]: each for each in found["kept"]}

    listed.store = store
    return listed


def test_what_is_kept_and_removed_by_name(kept, run) -> None:
    size = sum(file.stat().st_size for file in kept.store.rglob("*") if file.is_file())
    assert {name: each["bytes"] for name, each in kept().items()} == {kept.store.name: size, "compiled": 8}
    assert time.time() - kept()["compiled"]["last_used"] < 600
    status, out, err = run("cache", "ls")
    assert (status, err) == (0, "")
    assert kept.store.name in out
    assert "compiled programs" in out
    status, out, err = run("cache", "rm", kept.store.name)
    assert (status, err) == (0, "")
    assert out.startswith(f"removed {kept.store.name}: ")
    assert not kept.store.exists()
    assert list(kept.store.parent.iterdir()) == []
    assert kept().keys() == {"compiled"}


def test_what_was_not_used_for_long(kept, run) -> None:
    assert json.loads(run("cache", "rm", "--older-than", "30d", "--json")[1])["freed_bytes"] == 3
    assert kept()["compiled"]["bytes"] == 5
    assert kept.store.name in kept()
    assert run("cache", "rm", "--older-than", "8w") == (0, "nothing was that old\n", "")


def test_what_another_process_uses_or_writes_stays(kept, refused) -> None:
    code = "import sys, time; file = open(sys.argv[1]); print('open', flush=True); time.sleep(60)"
    reader = subprocess.Popen(
        [sys.executable, "-c", code, str(kept.store / "manifest.json")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert reader.stdout.readline() == "open\n"
        refused("cache", "rm", kept.store.name, expected=(kept.store.name, f"in use by process {reader.pid}"))
    finally:
        reader.kill()
        reader.wait()
    code = "import sys; from jaxpaint.cli import script; sys.argv[1:] = ['cache', 'rm', sys.argv[1]]; script()"
    with held(kept.store):
        done = in_process(kept.store.name, code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert "in use by another process" in done.stderr
    assert kept.store.is_dir()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("rm", ("removes what it is told", "--older-than 30d")),
        ("rm compiled --older-than 3d", ("removes what it is told",)),
        ("rm ../stores", ("nothing named ../stores is kept; the names are",)),
        ("rm --older-than soon", ("expected hours, days or weeks",)),
        ("ls compiled", ("are of cache rm",)),
        ("list", ("invalid choice: 'list'",)),
    ],
)
def test_mistakes(refused, kept, words, expected) -> None:
    before = kept()
    refused("cache", *words.split(), expected=expected)
    assert kept() == before


def test_models_and_strategies(kept, run) -> None:
    rows = json.loads(run("list", "models", "--json")[1])["rows"]
    assert [row["name"] for row in rows] == [NAME, NAME]
    assert [row["num_layers"] for row in rows] == [16, 16]
    assert rows[0]["dtype"] == json.loads((FOLDER / "config.json").read_text())["torch_dtype"]
    assert rows[1]["path"] == str(kept.store)
    rows = json.loads(run("list", "strategies", "--json")[1])["rows"]
    assert [row["name"] for row in rows] == list(EVERY)
    assert {row["name"]: row["options"] for row in rows}["looped-parallel"] == {"start": None, "iterations": 3}
    shown = run("list", "strategies", "skip-*")[1].splitlines()
    assert [line.split()[0] for line in shown] == ["skip-attention", "skip-mlp", "skip-one"]


def test_stores_of_a_folder(run, tmp_path) -> None:
    (tmp_path / "deep").mkdir()
    made = make_store(tmp_path / "deep" / "any-name")
    (tmp_path / "text.sqlite").write_text("no store")
    (row,) = json.loads(run("list", "stores", tmp_path, "--json")[1])["rows"]
    size = made.stat().st_size
    assert row == {
        **{"path": str(made), "models": ["models/tiny"], "plans": len(PLANS), "tasks": len(TASKS)},
        **{"results": len(PLANS) * len(TASKS), "bytes": size},
    }


@pytest.mark.slow
def test_tasks_are_those_that_lm_eval_has(run) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    rows = json.loads(run("list", "tasks", "arc_e", "--json")[1])["rows"]
    kinds = {row["name"]: row["kind"] for row in rows}
    assert kinds["arc_easy"] == "task"
    assert {name for name in manager.all_tasks if "arc_e" in name} <= kinds.keys()
    assert {name for name in manager.all_groups if "arc_e" in name} == {
        n for n, kind in kinds.items() if kind == "group"
    }
    offline = json.loads(run("list", "tasks", "--offline", "--json")[1])["rows"]
    assert {row["name"] for row in offline} >= {"painter_facts", "painter_places"}
    assert len(offline) < 100


def test_kinds_are_of_tasks(refused) -> None:
    refused("list", "models", "--kind", "group", expected=("--kind and --offline are of tasks",))
    refused("list", "stores", "no/such/folder", expected=("is not a folder",))
    refused("list", "taks", expected=("did you mean tasks?",))
