"""Stores under a series plan, written back as folders that transformers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import NUM_LAYERS, Tiny, make_tiny, randomise
from tests.helpers.hostile import as_first_stores

PLANS = {
    f"0-{NUM_LAYERS - 1}": list(range(NUM_LAYERS)),
    "0 2-4": [0, 2, 3, 4],
    "4-0": [4, 3, 2, 1, 0],
    "0 (1 2)*3 4": [0, 1, 2, 1, 2, 1, 2, 4],
    "3": [3],
}


def make_store(folder: Path, tiny: Tiny) -> Path:
    tiny.torch.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text("{}")
    return convert(folder / "model", folder / "store")


def assert_rearranged(exported: Path, original, layers: list[int]) -> None:
    """The exported model, loaded by transformers, has the original's tensors, its layers those of the plan."""
    loaded, report = AutoModelForCausalLM.from_pretrained(exported, dtype="auto", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.num_hidden_layers == len(layers)
    expected = {}
    for name, value in original.state_dict().items():
        if ".layers." not in name:
            expected[name] = value
    for new, old in enumerate(layers):
        for name, value in original.base_model.layers[old].state_dict().items():
            expected[f"{original.base_model_prefix}.layers.{new}.{name}"] = value
    found = loaded.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_the_whole_model_comes_back(tmp_path, tiny):
    store = make_store(tmp_path, tiny)
    exported = export(store, tmp_path / "exported", Plan.of(range(NUM_LAYERS)))
    assert_rearranged(exported, tiny.torch, list(range(NUM_LAYERS)))
    tokens = torch.arange(12).reshape(2, 6)
    loaded = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    with torch.no_grad():
        np.testing.assert_array_equal(loaded(tokens).logits, tiny.torch(tokens).logits)


@pytest.mark.parametrize(("plan", "layers"), PLANS.items())
@pytest.mark.few(4)
def test_layers_are_dropped_repeated_and_reordered(tmp_path, plan, layers):
    tiny = make_tiny("grouped-query")
    store = make_store(tmp_path, tiny)
    exported = export(store, tmp_path / "exported", Plan.parse(plan))
    assert_rearranged(exported, tiny.torch, layers)
    assert (exported / "tokenizer.json").read_text() == "{}"
    assert not list(tmp_path.glob(".exported*"))


def test_bfloat16_in_bounded_shards(tmp_path):
    tiny = make_tiny("tied embeddings")
    original = type(tiny.torch)(tiny.torch.config)
    randomise(original)
    original = original.to(torch.bfloat16)
    original.save_pretrained(tmp_path / "model")
    store = convert(tmp_path / "model", tmp_path / "store")
    exported = export(store, tmp_path / "exported", Plan.parse("4 0*2 1"), shard_bytes=9000)
    assert_rearranged(exported, original, [4, 0, 0, 1])
    shards = sorted(exported.glob("*.safetensors"))
    index = json.loads((exported / "model.safetensors.index.json").read_text())
    sizes = []
    for file in shards:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        assert all(index["weight_map"][name] == file.name for name in tensors)
        sizes.append(sum(value.nbytes for value in tensors.values()))
    assert len(shards) > 2
    assert max(sizes) <= 9000
    assert index["metadata"]["total_size"] == sum(sizes)


def test_an_exported_model_converts_again(tmp_path):
    store = make_store(tmp_path, make_tiny("multi-query"))
    exported = export(store, tmp_path / "exported", Plan.parse("2 1"))
    again = convert(exported, tmp_path / "again")
    assert_rearranged(export(again, tmp_path / "twice", Plan.parse("1 0")), make_tiny("multi-query").torch, [1, 2])


@pytest.mark.parametrize(
    ("name", "plan", "layers"),
    [
        ("grouped-query", "0 1a 2m 3 4", 4),  # attention of 1 and feed-forward of 2 in one layer
        ("grouped-query", "0m 1a 2a (3m 4a)*2", 5),
        ("attention bias", "0-4m", 5),
        ("neox", "0 1a 2m 3m 4", 5),
        ("neox, residuals in series", "0 1a 2m 3m 4", 4),
        ("qwen2, windows in turn", "0 1a 3m 2m 4a", 4),
    ],
)
@pytest.mark.few(2)
def test_a_sublayer_is_a_layer_whose_other_half_adds_zeros(tmp_path, name, plan, layers):
    tiny, plan = make_tiny(name), Plan.parse(plan)
    exported = export(make_store(tmp_path, tiny), tmp_path / "exported", plan)
    config = json.loads((exported / "config.json").read_text())
    assert (config["num_hidden_layers"], config["layer_plan"]) == (layers, str(plan))
    tokens = torch.arange(24).reshape(2, 12)
    loaded = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    with torch.no_grad():
        theirs = loaded(tokens).logits.numpy()
    np.testing.assert_allclose(
        np.asarray(tiny.model.logits(tokens.numpy(), plan)), theirs, atol=2e-5 * np.abs(theirs).max()
    )


@pytest.mark.parametrize(("plan", "why"), [("0 lp{1 2} 3", "no layers side by side"), ("0-2 3m~1", "share norms")])
def test_shared_norms_are_refused(tmp_path, plan, why):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    with pytest.raises(UserError, match=why):
        export(store, tmp_path / "exported", Plan.parse(plan))


@pytest.mark.parametrize("plan", ["0 {1 2} 3", "sum{1 2}", "({1 2} 3)*2"])
def test_parallel_plans_are_refused(tmp_path, plan):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    with pytest.raises(UserError, match="only series plans can be exported"):
        export(store, tmp_path / "exported", Plan.parse(plan))
    assert not (tmp_path / "exported").exists()


def test_a_layer_outside_the_model_is_refused(tmp_path):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    with pytest.raises(UserError, match=f"layer {NUM_LAYERS}, but the model has {NUM_LAYERS} layers"):
        export(store, tmp_path / "exported", Plan.parse(f"0-{NUM_LAYERS}"))


def test_an_existing_destination_is_refused_and_replaced_only_on_request(tmp_path):
    tiny = make_tiny("grouped-query")
    store = make_store(tmp_path, tiny)
    exported = export(store, tmp_path / "exported", Plan.parse("0"))
    with pytest.raises(UserError, match="exists already"):
        export(store, exported, Plan.parse("1"))
    assert_rearranged(export(store, exported, Plan.parse("1"), overwrite=True), tiny.torch, [1])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("kept")
    with pytest.raises(UserError, match="left alone"):
        export(store, tmp_path / "other", Plan.parse("1"), overwrite=True)


def test_an_interrupted_export_leaves_nothing(tmp_path):
    store = make_store(tmp_path, make_tiny("grouped-query"))

    def interrupt(message, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(store, tmp_path / "exported", Plan.parse("0"), progress=interrupt)
    assert not list(tmp_path.glob("*exported*"))


@pytest.mark.parametrize(
    "name",
    ["../.bashrc", "/etc/passwd", "a/../../.bashrc", "..", "sub/tokenizer.json", "", "a\0b", "C:\\x", "link", "absent"],
)
def test_a_manifest_names_only_files_of_the_tokenizer(tmp_path, name):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    (store / ".bashrc").write_text("of the store")
    (store / "tokenizer" / "sub").mkdir()
    (store / "tokenizer" / "sub" / "tokenizer.json").write_text("{}")
    (tmp_path / "secret").write_text("mine")
    (store / "tokenizer" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".bashrc").write_text("mine")
    change_tokenizer(store, ["tokenizer.json", name])
    with pytest.raises(UserError, match=r"manifest\.json|damaged"):
        export(store, tmp_path / "home" / "out", Plan.parse("0-4"))
    assert (tmp_path / "home" / ".bashrc").read_text() == "mine"
    assert [file.name for file in (tmp_path / "home").iterdir()] == [".bashrc"]


@pytest.mark.parametrize("names", [["config.json"], ["model.safetensors"], "tokenizer.json", {"a": 1}, [1], [["a"]], 5])
def test_a_manifest_names_nothing_that_export_writes_itself(tmp_path, names):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    (store / "tokenizer" / "model.safetensors").write_text("other weights")
    change_tokenizer(store, names)
    with pytest.raises(UserError, match=r"manifest\.json"):
        export(store, tmp_path / "out", Plan.parse("0-4"))
    assert not (tmp_path / "out").exists()


def change_tokenizer(store: Path, names: object) -> None:
    """Of a store that has no hashes which would tell."""
    as_first_stores(store)
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": names}))


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    store = make_store(tmp_path, make_tiny("grouped-query"))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="GB free and the export needs"):
        export(store, tmp_path / "out", Plan.parse("0-4"))
    assert not list(tmp_path.glob("*out*"))
