"""--push-to-hub, by huggingface_hub itself, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import huggingface_hub
import pytest
import yaml

from jaxpaint.results.store import Store
from tests.helpers.hub_server import Hub, Repository, serving
from tests.helpers.tiny_results import make_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    with serving({"me/public": Repository({"main": {}})}) as hub:
        for name, value in (
            ("ENDPOINT", hub.url),
            ("HF_HUB_OFFLINE", False),
            ("HF_HUB_DISABLE_XET", True),
            ("HF_TOKEN_PATH", str(tmp_path / "no token")),
        ):
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        yield hub


def test_what_is_written_is_uploaded(run, store, tmp_path, hub) -> None:
    asked = ("export", store, tmp_path / "short", "--plan", "0 2-4", "--push-to-hub", "me/short")
    status, out, err = run(*asked, "--private", "--json")
    assert status == 0, err
    assert json.loads(out)["pushed"] == f"{hub.url}/me/short"
    repository = hub.repositories["me/short"]
    assert repository.private
    written = {file.name: file.read_bytes() for file in (tmp_path / "short").iterdir()}
    assert "model.safetensors" in written
    assert repository.revisions["main"] == written
    # Once more, into what is there, and another plan.
    status, out, err = run(*(word if word != "0 2-4" else "0-3" for word in asked), "--overwrite")
    assert status == 0, err
    assert out.splitlines()[1] == f"uploaded it to {hub.url}/me/short"
    again = {file.name: file.read_bytes() for file in (tmp_path / "short").iterdir()}
    assert repository.revisions["main"] == again != written
    assert "hf_good" not in out + err


def test_a_study_becomes_a_dataset(run, refused, tmp_path, hub) -> None:
    file, folder = tmp_path / "study.sqlite", tmp_path / "out"
    make_store(file)
    asked = ("report", file, "-o", folder, "--push-to-hub", "me/study", "--private")
    status, out, err = run(*asked, "--json")
    assert status == 0, err
    assert json.loads(out)["pushed"] == f"{hub.url}/datasets/me/study"
    repository = hub.repositories["me/study"]
    assert (repository.private, repository.kind) == (True, "dataset")
    there = dict(repository.revisions["main"])
    card = there.pop("README.md").decode()
    (tmp_path / "there.sqlite").write_bytes(there.pop(file.name))
    assert _rows(tmp_path / "there.sqlite") == _rows(file)
    written = {str(each.relative_to(folder)): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    assert there == {name: content for name, content in written.items() if not name.startswith(".")}
    assert "report.html" in there
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["tags"] == ["jaxpaint", "layer-plan"]
    assert f"jaxpaint results {file.name}" in card
    # Once more, with nothing that changed; and what cannot be, before the report is written.
    assert run(*asked)[0] == 0
    refused("report", file, "-o", tmp_path / "none", "--private", expected=("--push-to-hub OWNER/NAME",))
    assert not (tmp_path / "none").exists()
    told = ("may not write", f"{folder} is written, and can be uploaded later: by the same command")
    refused("report", file, "-o", folder, "--push-to-hub", "they/study", expected=told)


def test_a_store_that_is_written_is_uploaded_whole(run, tmp_path, hub) -> None:
    file = tmp_path / "study.sqlite"
    make_store(file)
    task = {"version": "1", "num_fewshot": 0, "bos": "auto", "settings": {}, "main_metric": "acc"}
    with Store.open(file, create=False) as store:  # a study that goes on keeps what is newest in a log beside the file
        store.task(name="newest", chance=None, **task)
        status, _, err = run("report", file, "-o", tmp_path / "out", "--push-to-hub", "me/study")
    assert status == 0, err
    there = tmp_path / "there.sqlite"
    there.write_bytes(hub.repositories["me/study"].revisions["main"][file.name])
    assert _rows(there) == _rows(file)
    assert "newest" in str(_rows(there))


def _rows(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as connection:
        return list(connection.iterdump())


def test_what_is_wrong_is_a_line_with_what_to_do(refused, store, tmp_path, hub, monkeypatch) -> None:
    def asked(name: str, repository: str, *more: object) -> tuple[object, ...]:
        return ("export", store, tmp_path / name, "--plan", "0 2-4", "--push-to-hub", repository, *more)

    def kept(name: str) -> tuple[str, ...]:
        return (f"{tmp_path / name} is written", "hf upload")

    for name, token, repository, more, expected in (
        ("read", "hf_read", "me/short", (), ("your token may not write to me/short",)),
        ("theirs", "hf_good", "they/short", (), ("your token may not write to they/short",)),
        ("bad", "hf_bad", "me/short", (), ("does not accept your token; log in anew (hf auth login)",)),
    ):
        monkeypatch.setenv("HF_TOKEN", token)
        line = refused(*asked(name, repository, *more), expected=(*expected, *kept(name)))
        assert "hf_good" not in line
        assert token not in line
        assert (tmp_path / name / "model.safetensors").exists()
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    there = ("me/public is there already, and public: nothing was uploaded",)
    refused(*asked("public", "me/public", "--private"), expected=there)
    assert hub.repositories["me/public"].revisions == {"main": {}}
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(*asked("away", "me/short"), expected=("cannot be reached", *kept("away")))
    # What is known before anything is written.
    for name, repository, expected in (
        ("short", "short", "give the repository's owner and name, as OWNER/NAME"),
        ("short", "me/short@main", "as OWNER/NAME"),
    ):
        refused(*asked(name, repository), expected=(expected,))
    refused("export", store, tmp_path / "short", "--plan", "0", "--private", expected=("--push-to-hub OWNER/NAME",))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(*asked("short", "me/short"), expected=("HF_HUB_OFFLINE=1 keeps away",))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN")
    refused(*asked("short", "me/short"), expected=("log in (hf auth login), or set HF_TOKEN",))
    assert not (tmp_path / "short").exists()
