"""Checkpoints that were cut, flipped or made up: one line of what is wrong, never half a store."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from tests.helpers.checkpoints import LAYERS, SIZES, assert_nothing_written, make_model
from tests.helpers.hostile import Damage, damage, documents, refused

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """One model in its forms: one file, shards, torch's file, Meta's."""
    root = tmp_path_factory.mktemp("hostile")
    make_model(root / "single")
    make_model(root / "shards", shard="4KB")
    tensors = load_file(root / "single" / "model.safetensors")
    shutil.copytree(root / "single", root / "torch", ignore=shutil.ignore_patterns("*.safetensors"))
    torch.save(tensors, root / "torch" / "pytorch_model.bin")
    (root / "meta").mkdir()
    names = {"self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk", "self_attn.v_proj": "attention.wv"}
    names |= {"self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3"}
    names |= {"mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm"}
    names |= {"post_attention_layernorm": "ffn_norm", "model.embed_tokens": "tok_embeddings", "lm_head": "output"}
    of_meta = {}
    for name, tensor in tensors.items():
        for theirs, metas in (*names.items(), ("model.", "")):
            name = name.replace(theirs, metas)
        of_meta[name] = tensor
    torch.save(of_meta, root / "meta" / "consolidated.00.pth")
    parameters = {"dim": 16, "n_layers": LAYERS, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 48, "norm_eps": 1e-5}
    parameters |= {"rope_theta": 5e5, "use_scaled_rope": True, "rope_scaling_factor": 8.0, "max_seq_len": 64}
    (root / "meta" / "params.json").write_text(json.dumps(parameters))
    return {form: root / form for form in ("single", "shards", "torch", "meta")}


def converts(folder: Path, file: str, content: bytes) -> None:
    """Converts a folder with another content of a file: a whole store is there afterwards, or nothing."""
    changed, store = folder.with_name("changed"), folder.with_name("store")
    shutil.rmtree(changed, ignore_errors=True)
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(folder, changed)
    (changed / file).write_bytes(content)
    if refused(lambda: convert(changed, store)):
        assert_nothing_written(store)
    else:
        checkpoint.restore(store)


@pytest.mark.parametrize("form", ["single", "shards", "torch", "meta"])
def test_they_are_checkpoints_before(checkpoints, form) -> None:
    assert not refused(lambda: convert(checkpoints[form], checkpoints[form].with_name(f"{form}-store")))


JSON_FILES = [("single", "config.json"), ("shards", "model.safetensors.index.json"), ("meta", "params.json")]


@pytest.mark.parametrize(("form", "file"), JSON_FILES)
@pytest.mark.slow
def test_any_json(checkpoints, form, file) -> None:
    folder = checkpoints[form]

    @quick
    @given(documents(json.loads((folder / file).read_text())))
    def check(content: bytes) -> None:
        converts(folder, file, content)

    check()


@pytest.mark.parametrize(
    ("form", "file", "head"),
    [
        ("single", "model.safetensors", 2000),
        ("torch", "pytorch_model.bin", 4000),
        ("torch", "pytorch_model.bin", None),
        ("meta", "consolidated.00.pth", 4000),
    ],
)
@pytest.mark.few(1)
def test_any_bytes(checkpoints, form, file, head) -> None:
    folder = checkpoints[form]

    whole = (folder / file).read_bytes()

    @quick
    @given(damage(len(whole), head))
    def check(done: Damage) -> None:
        converts(folder, file, done.of(whole))

    check()


NAMES = st.sampled_from(
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "x",
        1,
        2.5,
    ]
)
VALUES = st.sampled_from(
    [torch.ones(()), torch.ones(3), torch.ones(48, 16), torch.ones(0, 16), torch.ones(2, 2, 2), torch.ones(3).long()]
) | st.sampled_from([None, 1, "x", [torch.ones(3)], {"a": torch.ones(3)}, {}])


@quick
@given(entries=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), added=st.booleans())
def test_any_entries_of_a_torch_file(checkpoints, entries, added) -> None:
    folder = checkpoints["torch"]
    file = folder.with_name("any.bin")
    torch.save({**(torch.load(folder / "pytorch_model.bin") if added else {}), **entries}, file)
    converts(folder, "pytorch_model.bin", file.read_bytes())


@pytest.mark.parametrize("saved", [torch.ones(3), [1, 2], None, "x", {}], ids=str)
def test_torch_files_of_something_else(checkpoints, saved) -> None:
    folder = checkpoints["torch"]
    file = folder.with_name("else.bin")
    torch.save(saved, file)
    converts(folder, "pytorch_model.bin", file.read_bytes())


SENSELESS = {
    "num_hidden_layers": [10**7, 10**12, 10**400, -1, 0, 2.5, "3", [3], True],
    "hidden_size": [10**9, 10**12, -16, 16.5],
    "vocab_size": [10**12, 10**9],
    "intermediate_size": [10**12],
    "num_attention_heads": [10**9, 3],
    "head_dim": [10**9],
    "max_position_embeddings": [10**12],
    "rms_norm_eps": [1e300, "1e-5"],
    "rope_theta": [1e300, [1]],
    "hidden_act": [["silu"], 5],
    "model_type": [["llama"], 5, None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in SENSELESS for value in SENSELESS[name]])
def test_senseless_numbers_are_told_at_once(checkpoints, tmp_path, name, value) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["single"], folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES, name: value}))
    began = time.process_time()
    with pytest.raises(UserError, match=name):
        convert(folder, tmp_path / "store")
    assert time.process_time() - began < 2
    assert_nothing_written(tmp_path / "store")


def test_as_many_layers_as_any_model_has_are_compared_quickly(checkpoints, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints["single"], folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES, "num_hidden_layers": 10_000}))
    began = time.process_time()
    with pytest.raises(UserError, match="do not match its config"):
        convert(folder, tmp_path / "store")
    assert time.process_time() - began < 5


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dangling link", "link to itself"])
@pytest.mark.parametrize(("form", "file"), [("single", "model.safetensors"), ("torch", "pytorch_model.bin")])
def test_weights_that_are_no_file(checkpoints, tmp_path, form, file, kind) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoints[form], folder)
    weights = folder / file
    weights.unlink()
    if kind == "pipe":
        os.mkfifo(weights)
    elif kind == "folder":
        weights.mkdir()
    else:
        weights.symlink_to({"device": "/dev/zero", "dangling link": "gone", "link to itself": file}[kind])
    with pytest.raises(UserError, match=rf"{file} (is not a regular file|cannot be read)"):
        convert(folder, tmp_path / "store")
