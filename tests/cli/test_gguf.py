"""jaxpaint export of a GGUF file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.gguf_models import expected_bytes, keys_of, tensor_bytes, write_layers

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def source(tmp_path) -> Path:
    return write_layers(tmp_path / "full.gguf")


def test_export(run, refused, source, tmp_path) -> None:
    short = tmp_path / "short.gguf"
    assert run("export", source, short, "--plan", "0 3 2 4*2") == (
        0,
        f"exported 0 3 2 4*2 (5 layers) into {short}\n",
        "",
    )
    assert tensor_bytes(short) == expected_bytes(source, [0, 3, 2, 4, 4])
    assert keys_of(short)["jaxpaint.layer_plan"][1] == "0 3 2 4*2"
    refused("export", source, short, "--plan", "0", expected=("exists already", "--overwrite"))
    assert run("export", source, short, "--plan", "0 1m", "--overwrite")[0] == 0
    assert keys_of(short)["llama.block_count"][1] == 2


def test_a_file_by_another_name(run, source, tmp_path) -> None:
    """As caches have them."""
    source.rename(tmp_path / "sha256-0123")
    assert run("export", tmp_path / "sha256-0123", tmp_path / "short.gguf", "--plan", "1 0")[0] == 0
    assert keys_of(tmp_path / "short.gguf")["jaxpaint.source"][1] == "sha256-0123"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("SOURCE", "short.gguf", "--plan", "0 {1 2}"), ("only series plans", "{1 2}", "jaxpaint serve")),
        (("SOURCE", "short.gguf", "--plan", "7"), ("layer 7", "5 layers, 0-4")),
        (("SOURCE", "short", "--plan", "0"), ("name it", "short.gguf")),
        (("SOURCE", "short.gguf", "--plan", "0", "--scores", "s.sqlite"), ("--scores", "a GGUF file has none")),
        (("absent.gguf", "short.gguf", "--plan", "0"), ("absent.gguf", "No such file")),
        (("owner/name", "short.gguf", "--plan", "0"), ("exported of a GGUF file", "owner/name is none")),
        (("TEXT", "short.gguf", "--plan", "0"), ("text.gguf", "not a GGUF file")),
    ],
)
def test_what_cannot_be_exported(refused, source, tmp_path, monkeypatch, arguments, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.gguf").write_text("text")
    places = {"SOURCE": source, "TEXT": tmp_path / "text.gguf"}
    refused("export", *(places.get(each, each) for each in arguments), expected=expected)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["full.gguf", "text.gguf"]


def test_other_commands_ask_for_a_whole_model(refused, source, tmp_path, cache) -> None:
    for command in (("logits", "--model", source, "--text", "A"), ("convert", source, tmp_path / "store")):
        refused(*command, expected=("full.gguf lacks llama.embedding_length", "is it a whole model"))


def test_nothing_is_computed(source, tmp_path) -> None:
    """Layers are copied: JAX, torch and transformers stay away."""
    code = (
        "import sys; from jaxpaint.cli import main; assert main(sys.argv[1:]) == 0; "
        "print(*{'jax', 'jaxlib', 'torch', 'transformers'} & set(sys.modules))"
    )
    arguments = ["export", str(source), str(tmp_path / "short.gguf"), "--plan", "4-0"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [""]
