"""Conversion of foreign checkpoints, tensor by tensor against the models they were saved from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file

from convert import convert, store_for
from convert.meta import read_meta_folder
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from tests.helpers.checkpoints import (
    HIDDEN,
    KEY_VALUE_HEADS,
    SIZES,
    assert_converted,
    assert_nothing_written,
    edit_tensors,
    make_model,
    save_as_meta,
)
from tests.helpers.decoders import make_tiny


def test_every_tensor_arrives(tmp_path, tiny):
    tiny.torch.save_pretrained(tmp_path / "model")
    store = convert(tmp_path / "model", tmp_path / "store")
    assert_converted(store, tiny.torch)
    assert checkpoint.read_config(store) == tiny.model.config


@pytest.mark.parametrize("saved", ["safetensors", "torch"])
def test_masks_of_older_pythia_checkpoints_are_passed_over(tmp_path, saved):
    """Each layer's causal mask, in a dtype that no weight has."""
    network, folder = make_tiny("neox").torch, tmp_path / "model"
    network.save_pretrained(folder)

    def add_masks(tensors):
        for layer in range(network.config.num_hidden_layers):
            prefix = f"gpt_neox.layers.{layer}.attention"
            tensors[f"{prefix}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
            tensors[f"{prefix}.masked_bias"] = torch.tensor(-1e9)
            tensors[f"{prefix}.rotary_emb.inv_freq"] = torch.ones(2)

    edit_tensors(folder, add_masks)
    if saved == "torch":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert_converted(convert(folder, tmp_path / "store"), network)


def test_a_mask_in_another_family_is_refused(tmp_path):
    make_model(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda t: t.update({"model.layers.0.attention.bias": torch.ones(2)}))
    with pytest.raises(UserError, match=r"does not imply: model.layers.0.attention.bias"):
        convert(tmp_path / "model", tmp_path / "store")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sharded_and_narrow(tmp_path, dtype):
    model = make_model(tmp_path / "model", dtype=dtype, shard="5KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 2
    store = convert(tmp_path / "model", tmp_path / "store")
    assert_converted(store, model)
    manifest = checkpoint.read_manifest(store)
    assert manifest["dtype"] == str(dtype).removeprefix("torch.")


def test_dtype_is_changed_on_request_and_widened_where_mixed(tmp_path):
    model = make_model(tmp_path / "model")
    store = convert(tmp_path / "model", tmp_path / "narrow", dtype="bfloat16")
    assert checkpoint.read_manifest(store)["dtype"] == "bfloat16"
    assert_converted(store, model.to(torch.bfloat16))
    edit_tensors(tmp_path / "model", lambda t: t.update({n: v.bfloat16() for n, v in t.items() if "mlp" in n}))
    store = convert(tmp_path / "model", tmp_path / "mixed")
    assert checkpoint.read_manifest(store)["dtype"] == "float32"
    edit_tensors(tmp_path / "model", lambda t: t.update({n: v.half() for n, v in t.items() if "mlp" not in n}))
    store = convert(tmp_path / "model", tmp_path / "halves")
    assert checkpoint.read_manifest(store)["dtype"] == "float32"
    with pytest.raises(UserError, match=r"int8.*bfloat16, float16, float32"):
        convert(tmp_path / "model", tmp_path / "strange", dtype="int8")
    assert_nothing_written(tmp_path / "strange")


@pytest.mark.parametrize("sharded", [False, True])
def test_torch_files(tmp_path, sharded):
    model = make_model(tmp_path / "model", dtype=torch.bfloat16)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = [names[::2], names[1::2]] if sharded else [names]
    weight_map = {}
    for number, part in enumerate(parts):
        file = f"pytorch_model-{number}.bin" if sharded else "pytorch_model.bin"
        torch.save({name: tensors[name] for name in part}, tmp_path / "model" / file)
        weight_map |= dict.fromkeys(part, file)
    if sharded:
        index = tmp_path / "model" / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_converted(convert(tmp_path / "model", tmp_path / "store"), model)


def test_nothing_in_a_torch_file_is_executed(tmp_path):
    make_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    marker = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return (os.mkdir, (str(marker),))

    torch.save({"model.norm.weight": Malicious()}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin.*never executed"):
        convert(tmp_path / "model", tmp_path / "store")
    assert not marker.exists()
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"pytorch_model\.bin"):
        convert(tmp_path / "model", tmp_path / "store")


def test_torch_files_without_torch(tmp_path, monkeypatch):
    make_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "model" / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="pip install torch"):
        convert(tmp_path / "model", tmp_path / "store")


@pytest.mark.parametrize(("parts", "embedding_axis"), [(1, 1), (2, 1), (2, 0)])
@pytest.mark.few(2)
def test_meta_folders(tmp_path, parts, embedding_axis, monkeypatch):
    # Blocks so small that they begin and end within shards and heads.
    monkeypatch.setattr("convert.tensors.BLOCK_BYTES", 200)
    model = make_model(tmp_path / "model")
    save_as_meta(model, tmp_path / "meta", parts, embedding_axis=embedding_axis, n_kv_heads=KEY_VALUE_HEADS)
    (tmp_path / "tokenizer.model").write_bytes(b"beside")
    # As on the hub, where a config.json may lie beside Meta's files.
    shutil.copy(tmp_path / "model" / "config.json", tmp_path / "meta")
    store = convert(tmp_path / "meta", tmp_path / "store")
    assert_converted(store, model)
    assert checkpoint.read_config(store).intermediate_size == SIZES["intermediate_size"]
    assert (checkpoint.tokenizer_path(store) / "tokenizer.model").read_bytes() == b"beside"


@pytest.mark.parametrize(("parts", "embedding_axis"), [(1, 1), (2, 1), (2, 0)])
def test_any_part_of_a_meta_tensor_is_that_part_of_the_hugging_face_one(tmp_path, parts, embedding_axis):
    model = make_model(tmp_path / "model")
    save_as_meta(model, tmp_path / "meta", parts, embedding_axis=embedding_axis, n_kv_heads=KEY_VALUE_HEADS)
    _, tensors = read_meta_folder(tmp_path / "meta")
    weights = model.state_dict()
    assert tensors.keys() == weights.keys()
    for name, weight in weights.items():
        assert tensors[name].shape == tuple(weight.shape)
        for axis, size in enumerate(weight.shape):
            for start, stop in ((0, size), (1, size - 3), (size // 2, size // 2 + 1)):
                part = tensors[name].part(axis, start, stop)
                np.testing.assert_array_equal(part, weight.narrow(axis, start, stop - start), err_msg=name)


def test_meta_parameters(tmp_path):
    model = make_model(tmp_path / "model")
    more = {"n_kv_heads": KEY_VALUE_HEADS, "rope_theta": 500000.0, "use_scaled_rope": True}
    save_as_meta(model, tmp_path / "meta", 1, embedding_axis=0, **more)
    config = checkpoint.read_config(convert(tmp_path / "meta", tmp_path / "store"))
    assert config.rope_theta == 500000.0
    assert config.rope_scaling is not None
    assert (config.rope_scaling.rope_type, config.rope_scaling.original_max_position_embeddings) == ("llama3", 8192)
    (tmp_path / "meta" / "params.json").write_text(json.dumps({"dim": HIDDEN, "moe": {"num_experts": 8}}))
    with pytest.raises(UserError, match="moe"):
        convert(tmp_path / "meta", tmp_path / "other")


def test_missing_unexpected_and_misshapen_tensors_are_named_with_both_sides(tmp_path):
    make_model(tmp_path / "model")

    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.extra.weight"] = torch.zeros(5)
        tensors["model.norm.weight"] = torch.zeros(7)

    edit_tensors(tmp_path / "model", change)
    with pytest.raises(UserError) as caught:
        convert(tmp_path / "model", tmp_path / "store")
    message = str(caught.value)
    assert "\n" not in message
    assert "model.layers.1.mlp.up_proj.weight [24, 16]" in message
    assert "model.layers.0.extra.weight [5]" in message
    assert "model.norm.weight is [7] in model.safetensors and [16] by the config" in message
    assert_nothing_written(tmp_path / "store")


def test_a_config_with_more_layers_abbreviates_what_is_missing(tmp_path):
    make_model(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_hidden_layers": 40}))
    with pytest.raises(UserError, match=r"333 that the config implies.*and 329 more") as caught:
        convert(tmp_path / "model", tmp_path / "store")
    assert len(str(caught.value)) < 500


def test_a_tensor_in_two_shards(tmp_path):
    make_model(tmp_path / "model", shard="5KB")
    files = sorted((tmp_path / "model").glob("model-*.safetensors"))
    name = sorted(load_file(files[0]))[0]
    save_file({**load_file(files[1]), name: torch.zeros(3)}, files[1])
    with pytest.raises(UserError, match=rf"{name} is in {files[0].name} .* and in {files[1].name} as \[3\]"):
        convert(tmp_path / "model", tmp_path / "store")


def test_a_shard_that_is_not_there(tmp_path):
    make_model(tmp_path / "model", shard="5KB")
    file = sorted((tmp_path / "model").glob("model-*.safetensors"))[1]
    file.unlink()
    with pytest.raises(UserError, match=file.name):
        convert(tmp_path / "model", tmp_path / "store")


@pytest.mark.parametrize("keep", [0, 4, 60, -100])
def test_truncated_safetensors(tmp_path, keep):
    make_model(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors is truncated or corrupt"):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")


def test_rotary_buffers_are_ignored_and_quantised_weights_refused(tmp_path):
    model = make_model(tmp_path / "model")
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({name: torch.ones(2)}))
    assert_converted(convert(tmp_path / "model", tmp_path / "store"), model)
    name = "model.layers.0.mlp.up_proj.weight"
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    with pytest.raises(UserError, match=rf"{name} .* dtype I8"):
        convert(tmp_path / "model", tmp_path / "other")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "neither config.json"),
        ({"config.json": "{"}, "cannot be read as JSON"),
        ({"config.json": "[]"}, "JSON list"),
        ({"config.json": json.dumps({"model_type": "llama", **SIZES})}, "no weights"),
        ({"config.json": json.dumps({"model_type": "llama"}), "model.safetensors.index.json": "{}"}, "not an index"),
    ],
)
def test_folders_that_are_no_checkpoint(tmp_path, files, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        convert(folder, tmp_path / "store")


def test_the_store_describes_its_source(tmp_path):
    make_model(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "model" / "notes.txt").write_text("not needed")
    told = []
    store = convert(tmp_path / "model", tmp_path / "store", progress=lambda *report: told.append(report))
    manifest = checkpoint.read_manifest(store)
    assert manifest["source"] == str(tmp_path / "model")
    assert manifest["tokenizer"] == ["tokenizer.json"]
    assert (checkpoint.tokenizer_path(store) / "tokenizer.json").read_text() == "{}"
    source_config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert json.loads((store / "huggingface_config.json").read_text()) == source_config
    done = [done for _, done, _ in told]
    assert done == sorted(done)
    assert done[-1] == told[-1][2] == sum(value.nbytes for value in flatten_dict(checkpoint.restore(store)).values())


def test_a_source_without_tokenizer_converts_and_says_so(tmp_path):
    make_model(tmp_path / "model")
    told = []
    store = convert(tmp_path / "model", tmp_path / "store", progress=lambda *report: told.append(report))
    assert "no tokenizer" in told[0][0]
    with pytest.raises(UserError, match=r"no tokenizer.*tokenizer\.json"):
        checkpoint.tokenizer_path(store)


def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    make_model(tmp_path / "model")

    def interrupt(message, done, total):
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "model", tmp_path / "store", progress=interrupt)
    assert_nothing_written(tmp_path / "store")


KILLED = """
import sys, time
from convert import convert
def stop(message, done, total):
    if done > total / 2:
        print("half", flush=True)
        time.sleep(60)
convert(sys.argv[1], sys.argv[2], progress=stop)
"""


def test_a_killed_conversion_leaves_nothing_that_loads_and_the_next_cleans_up(tmp_path):
    model = make_model(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "model"), str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout.readline() == b"half\n"
    process.kill()
    process.communicate()
    left = list(tmp_path.glob(".store.partial-*"))
    assert left
    assert not (tmp_path / "store").exists()
    assert not any(checkpoint.is_store(folder) for folder in left)
    assert_converted(convert(tmp_path / "model", tmp_path / "store"), model)
    assert not list(tmp_path.glob(".store*"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_store_for_converts_once_and_again_when_the_checkpoint_changes(tmp_path, cache):
    model = make_model(tmp_path / "model")
    store = store_for(tmp_path / "model")
    assert store.is_relative_to(cache)
    assert_converted(store, model)
    written = (store / "manifest.json").stat().st_mtime_ns
    started = time.perf_counter()
    assert store_for(str(tmp_path / "model")) == store
    assert time.perf_counter() - started < 0.5
    assert (store / "manifest.json").stat().st_mtime_ns == written
    assert store_for(store) == store
    edit_tensors(tmp_path / "model", lambda tensors: tensors["model.norm.weight"].add_(1))
    changed = store_for(tmp_path / "model")
    assert changed != store
    np.testing.assert_array_equal(
        checkpoint.restore(changed)["norm"]["scale"], np.asarray(checkpoint.restore(store)["norm"]["scale"]) + 1
    )


@pytest.mark.slow
def test_two_processes_may_convert_at_once(tmp_path, cache):
    model = make_model(tmp_path / "model")
    code = "import sys; from convert import store_for; print(store_for(sys.argv[1]))"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "model")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )
        for _ in range(2)
    ]
    answers = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert_converted(Path(answers[0][0].decode().strip()), model)


def test_a_slower_process_uses_the_store_of_the_faster(tmp_path, cache, monkeypatch):
    make_model(tmp_path / "model")
    real = convert

    def beaten(source, destination, **options):
        real(source, destination, **options)
        return real(source, destination, **options)

    monkeypatch.setattr("convert.cache.convert", beaten)
    assert checkpoint.is_store(store_for(tmp_path / "model"))


@pytest.mark.parametrize("model", ["/nowhere/at/all", "nowhere", "./nowhere/model"])
def test_unknown_models(model, cache):
    with pytest.raises(UserError, match=r"no folder .* not a hub id"):
        store_for(model)


def test_a_file_is_not_a_model(tmp_path, cache):
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(UserError, match="is a file, and no GGUF file; give the folder"):
        store_for(tmp_path / "model.safetensors")


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    make_model(tmp_path / "model")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="GB free and conversion needs"):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")
