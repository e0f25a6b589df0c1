"""Hub ids by huggingface_hub itself, against a small server that speaks the hub's protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxpaint.models import checkpoint
from tests.helpers.checkpoints import assert_converted, make_model
from tests.helpers.hub_server import Hub, Repository, serving

pytestmark = pytest.mark.slow  # each process imports all of it anew

# Converts models one after the other, as [model, revision, store], and says what became of each.
CODE = """
import json, sys, time
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1024  # what is kept of a part that breaks; 10 MB otherwise
time.sleep = lambda seconds: None
from convert import convert
from jaxpaint.base.errors import UserError
for model, revision, store in json.loads(sys.argv[1]):
    try:
        convert(model, store, revision=revision, overwrite=True)
        print(json.dumps("converted"))
    except UserError as error:
        print(json.dumps(str(error)))
"""


class Hubbed:
    """The server, its models, and programs that ask it."""

    def __init__(self, hub: Hub, root: Path, models: dict[str, Any]):
        self.hub, self.root, self.models = hub, root, models

    def convert(self, *asked: tuple[str, str | None], home: str = "home", **environment: str) -> list[str]:
        """What becomes of each; stores are `0`, `1` … in a folder of the home's name."""
        stores = self.root / f"{home} stores"
        rows = [[model, revision, str(stores / str(place))] for place, (model, revision) in enumerate(asked)]
        stores.mkdir(exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        answer = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(rows)],
            env={
                **clean,
                "HF_ENDPOINT": self.hub.url,
                "HF_HOME": str(self.root / home),
                "HF_HUB_DISABLE_XET": "1",
                **environment,
            },
            cwd=Path(__file__).resolve().parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        assert "Traceback" not in answer.stderr
        assert "hf_bad" not in answer.stdout + answer.stderr
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def assert_stored(self, place: int, revision: str, home: str = "home") -> None:
        assert_converted(self.root / f"{home} stores" / str(place), self.models[revision])


@pytest.fixture(scope="module")
def hubbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubbed]:
    root = tmp_path_factory.mktemp("hub")
    models = {"main": make_model(root / "main"), "v2/fixed": make_model(root / "v2", hidden_act="gelu")}
    revisions = {
        name: {file.name: file.read_bytes() for file in (root / folder).iterdir()}
        for name, folder in (("main", "main"), ("v2/fixed", "v2"))
    }
    revisions["main"]["pytorch_model.bin"] = b"not needed"
    repositories = {
        "me/model": Repository(revisions),
        "me/gated": Repository(revisions, gated=True),
        "me/adapter": Repository({"main": {"adapter_config.json": b"{}", "adapter_model.safetensors": b""}}),
        "me/inside": Repository({"main": {"small/config.json": b"{}", "small/model.safetensors": b""}}),
        "me/breaks-once": Repository(revisions, breaks=1),
        "me/breaks": Repository(revisions, breaks=100),
    }
    with serving(repositories) as hub:
        yield Hubbed(hub, root, models)


def test_revisions_and_what_there_is_not(hubbed: Hubbed) -> None:
    first, second, third, absent, lacking, adapter, inside, twice, gated = hubbed.convert(
        ("me/model", None),
        ("me/model", "v2/fixed"),
        ("me/model@v2/fixed", None),
        ("me/absent", None),
        ("me/model", "v3"),
        ("me/adapter", None),
        ("me/inside", None),
        ("me/model@main", "v2"),
        ("me/gated", None),
    )
    assert first == second == third == "converted"
    hubbed.assert_stored(0, "main")
    hubbed.assert_stored(1, "v2/fixed")
    hubbed.assert_stored(2, "v2/fixed")
    manifest = checkpoint.read_manifest(hubbed.root / "home stores" / "2")
    assert (manifest["source"], manifest["revision"]) == (
        "me/model",
        hubbed.hub.repositories["me/model"].commit("v2/fixed"),
    )
    assert not any("pytorch_model" in path for _, path, _ in hubbed.hub.asked)
    assert "no repository me/absent on the Hugging Face hub" in absent
    assert "me/model has no revision 'v3'" in lacking
    assert "me/adapter is an adapter of peft" in adapter
    assert "--adapter" in adapter
    assert "it has small/model.safetensors: download it" in inside
    assert "two revisions; give one" in twice
    assert f"me/gated is gated: accept its terms at {hubbed.hub.url}/me/gated, then log in (hf auth login)" in gated


def test_tokens(hubbed: Hubbed) -> None:
    (denied,) = hubbed.convert(("me/gated", None), home="tokens", HF_TOKEN="hf_bad")
    assert "me/gated is gated, and your token's account has no access: ask for it at" in denied
    assert hubbed.convert(("me/gated", None), home="tokens", HF_TOKEN="hf_good") == ["converted"]
    hubbed.assert_stored(0, "main", "tokens")


def test_a_connection_that_breaks(hubbed: Hubbed) -> None:
    assert hubbed.convert(("me/breaks-once", None), ("me/breaks", None), home="breaks") == [
        "converted",
        "the connection to the Hugging Face hub broke while me/breaks was downloaded; run it again: files that are "
        "complete are kept",
    ]
    hubbed.assert_stored(0, "main", "breaks")
    half = len(hubbed.hub.repositories["me/breaks-once"].revisions["main"]["model.safetensors"]) // 2
    assert f"bytes={half // 1024 * 1024}-" in [asked for _, path, asked in hubbed.hub.asked if "breaks-once" in path]
    hubbed.hub.repositories["me/breaks"].breaks = 0
    hubbed.hub.asked.clear()
    assert hubbed.convert(("me/breaks", None), home="breaks") == ["converted"]
    assert not [path for method, path, _ in hubbed.hub.asked if method == "GET" and path.endswith("/config.json")]


def test_offline(hubbed: Hubbed) -> None:
    hubbed.convert(("me/model", None), home="offline")
    hubbed.hub.asked.clear()
    there, at_name, lacking, other = hubbed.convert(
        ("me/model", None),
        ("me/model@main", None),
        ("me/gated", None),
        ("me/model", "v2/fixed"),
        home="offline",
        HF_HUB_OFFLINE="1",
    )
    assert there == at_name == "converted"
    hubbed.assert_stored(1, "main", "offline")
    assert "me/gated is not in its cache; to work offline" in lacking
    assert "me/model at revision v2/fixed is not in its cache" in other
    assert not hubbed.hub.asked
