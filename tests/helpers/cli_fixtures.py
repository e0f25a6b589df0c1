"""Fixtures of the command line's tests: a tiny model, local data, and the command run in this process or another."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest

from jaxpaint import cli
from jaxpaint.base import progress
from tests.helpers.tiny_folder import make_folder

NOUNS = ["kettle", "lantern", "harbour", "ladder", "violin", "orchard", "saddle", "compass"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def nothing_of_the_users(cache, monkeypatch):
    """No caches of the user's, no network, numbers that do not depend on the device, output that does not on time."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    # Off a terminal there is a line of progress a minute, and a busy machine takes minutes for these tests.
    monkeypatch.setattr(progress, "LOG_INTERVAL", 1e9)


@pytest.fixture
def own_datasets(tmp_path_factory, monkeypatch):
    """A cache of datasets that no other test has written to."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def store(folder) -> Path:
    from convert import convert

    return convert(folder, folder.parent / "store")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    """A folder with `lambada_openai.jsonl` and `arc_challenge.jsonl`, 8 documents each."""
    path = tmp_path_factory.mktemp("data")
    lambada = [{"text": f"{n}: she put the {NOUNS[n]} where she had found the {NOUNS[n - 3]}"} for n in range(8)]
    arc = [
        {
            "id": str(n),
            "question": f"Which is number {n}?",
            "choices": {"text": [NOUNS[(n + k) % 8] for k in range(4)], "label": list("ABCD")},
            "answerKey": "ABCD"[n % 4],
        }
        for n in range(8)
    ]
    for name, rows in (("lambada_openai", lambada), ("arc_challenge", arc)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def run(capfd, nothing_of_the_users):
    """Runs the command in this process: (exit status, standard output, standard error)."""

    def command(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code
        return (status, *capfd.readouterr())

    return command


@pytest.fixture
def refused(run):
    """Asserts that the command ends with status 2 and one line that holds all of `expected`; returns the line."""

    def command(*arguments: object, expected: tuple[str, ...] = ()) -> str:
        status, out, err = run(*arguments)
        assert status == 2, (out, err)
        assert out == ""
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1, err
        assert err.startswith("jaxpaint")
        assert not [part for part in expected if part not in err], err
        return err.strip()

    return command


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def scoring(model: object, files: Path) -> tuple[object, ...]:
    """An evaluation of ARC-Challenge's local documents."""
    data = ("--data", f"arc_challenge={files / 'arc_challenge.jsonl'}")
    return ("eval", "--model", model, "--tasks", "arc_challenge", *data)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_process(
    *arguments: object, code: str = "from jaxpaint.cli import script; script()", **environment: str
) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **environment},
        timeout=120,
    )
