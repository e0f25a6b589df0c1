"""Hub ids: what is downloaded, what is cached, and what each failure is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convert import config_for, hub, store_for
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from tests.helpers.checkpoints import assert_converted, make_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class FakeHub:
    """The hub's client, answering from a local folder or with an error, and noting what is downloaded."""

    def __init__(self, monkeypatch, folder: Path, error: Exception | None = None):
        self.folder, self.error, self.downloaded, self.asked = folder, error, [], 0
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", self.model_info)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.snapshot_download)

    def model_info(self, repository, *, revision=None):
        self.asked += 1
        if self.error:
            raise self.error
        siblings = [type("File", (), {"rfilename": file.name}) for file in self.folder.iterdir()]
        return type("Info", (), {"sha": self.folder.name, "siblings": siblings})

    def snapshot_download(self, repository, *, revision=None, allow_patterns):
        self.downloaded.append((repository, revision, sorted(allow_patterns)))
        return str(self.folder)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_hub_ids(tmp_path, cache, monkeypatch):
    model = make_model(tmp_path / COMMIT)
    for name in ("pytorch_model.bin", "consolidated.00.pth", "README.md", "tokenizer.json"):
        (tmp_path / COMMIT / name).write_text("{}")
    fake = FakeHub(monkeypatch, tmp_path / COMMIT)
    store = store_for("owner/name")
    assert_converted(store, model)
    manifest = checkpoint.read_manifest(store)
    assert (manifest["source"], manifest["revision"]) == ("owner/name", COMMIT)
    assert fake.downloaded == [
        ("owner/name", COMMIT, ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"])
    ]
    asked = fake.asked
    assert store_for("owner/name", revision=COMMIT) == store
    assert fake.asked == asked
    assert store_for("owner/name") == store
    assert len(fake.downloaded) == 1


def test_the_hubs_cache_serves_where_there_is_no_network(tmp_path, cache, monkeypatch):
    from huggingface_hub.errors import OfflineModeIsEnabled

    model = make_model(tmp_path / COMMIT)
    fake = FakeHub(monkeypatch, tmp_path / COMMIT, error=OfflineModeIsEnabled("offline"))
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, name, revision=None: str(tmp_path / COMMIT / name) if name == "config.json" else None,
    )
    store = store_for("owner/name")
    assert_converted(store, model)
    assert checkpoint.read_manifest(store)["revision"] == COMMIT
    assert not fake.downloaded


def hub_error(name: str, status: int = 404) -> Exception:
    """An error of huggingface_hub's as its client makes them, whose text quotes the request."""
    import huggingface_hub.errors as errors

    error = getattr(errors, name).__new__(getattr(errors, name))
    Exception.__init__(error, "Authorization: Bearer hf_secret")
    error.response = type("Response", (), {"status_code": status})
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (lambda: hub_error("RepositoryNotFoundError"), "no repository owner/name on the Hugging Face hub"),
        (lambda: hub_error("GatedRepoError", 403), "gated.*HF_TOKEN"),
        (lambda: hub_error("RevisionNotFoundError"), "no revision 'v2'"),
        (lambda: hub_error("HfHubHTTPError", 503), "cannot be reached.*HF_HUB_OFFLINE=1"),
        (lambda: hub_error("HfHubHTTPError", 400), "HfHubHTTPError"),
        (lambda: hub_error("OfflineModeIsEnabled"), "cannot be reached.*HF_HUB_OFFLINE=1"),
        (lambda: ConnectionError("Bearer hf_secret"), "cannot be reached.*HF_HUB_OFFLINE=1"),
    ],
)
def test_hub_errors_are_one_line_without_the_token(tmp_path, cache, monkeypatch, error, message):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    FakeHub(monkeypatch, tmp_path, error=error())
    with pytest.raises(UserError, match=message) as caught:
        store_for("owner/name", revision="v2")
    assert "hf_secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_that_refuses_connections(tmp_path):
    code = "from convert import store_for\nfrom jaxpaint.base.errors import UserError\n"
    code += "try: store_for('owner/name')\nexcept UserError as error: print(error)"
    environment = {
        **os.environ,
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
        "HF_TOKEN": "hf_secret",
        "HF_HUB_OFFLINE": "0",
    }
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HF_HUB_OFFLINE" in answer.stdout
    assert "hf_secret" not in answer.stdout + answer.stderr


def test_which_files_of_a_repository_are_needed():
    files = ["config.json", "tokenizer.model", "README.md", "original/consolidated.00.pth", "model.fp16.bin"]
    sharded = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert hub.needed([*files, *sharded, "pytorch_model.bin"]) == ["config.json", "tokenizer.model", *sharded]
    assert hub.needed([*files, "pytorch_model.bin"]) == ["config.json", "tokenizer.model", "pytorch_model.bin"]
    meta = ["params.json", "consolidated.00.pth"]
    assert hub.needed([*files, *meta]) == ["config.json", "tokenizer.model", *meta]


def test_the_config_of_a_hub_id_without_its_weights(tmp_path, cache, monkeypatch):
    make_model(tmp_path / COMMIT)
    fake = FakeHub(monkeypatch, tmp_path / COMMIT)
    config = config_for("owner/name")
    assert fake.downloaded == [("owner/name", COMMIT, ["config.json"])]
    assert not cache.exists()
    assert checkpoint.read_config(store_for("owner/name")) == config
    (tmp_path / COMMIT / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        config_for("owner/other")
    assert fake.downloaded[-1] == ("owner/other", COMMIT, ["config.json"])
