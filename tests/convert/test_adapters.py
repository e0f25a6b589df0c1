"""LoRA adapters of peft merged at conversion, against the definition written out in torch."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from safetensors.torch import load_file, save_file

import jaxpaint
from convert import config_for, convert, store_for
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from tests.helpers.checkpoints import assert_nothing_written, edit_tensors
from tests.helpers.decoders import make_tiny, stacked_parameters

WEIGHTS = "adapter_model.safetensors"
# As peft 0.21 writes it, what is null or empty there left out but for some.
CONFIG = {
    "peft_type": "LORA",
    "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"},
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "loftq_config": {},
    "lora_alpha": 6,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": 3,
    "revision": None,
    "task_type": "CAUSAL_LM",
    "use_dora": False,
}


class Folders:
    """A tiny model and an adapter of it, both saved; `merged` is transformers' model with the updates in it."""

    def __init__(self, root: Path, variation: str, modules: dict[str, int], scale: Callable[[str], float], **config):
        self.model, self.adapter = root / "model", root / "lora"
        self.merged = copy.deepcopy(make_tiny(variation).torch)
        self.merged.save_pretrained(self.model)
        generator = torch.Generator().manual_seed(1)
        self.tensors = {}
        for name, module in self.merged.named_modules():
            rank = next((each for end, each in modules.items() if f".{name}".endswith(f".{end}")), None)
            if rank is None:
                continue
            a = torch.randn(rank, module.in_features, generator=generator)
            b = torch.randn(module.out_features, rank, generator=generator)
            self.tensors |= {f"base_model.model.{name}.lora_{part}.weight": each for part, each in (("A", a), ("B", b))}
            with torch.no_grad():
                module.weight += (b @ a) * scale(name)
                if config.get("lora_bias"):
                    self.tensors[f"base_model.model.{name}.lora_B.bias"] = bias = torch.randn(
                        len(b), generator=generator
                    )
                    module.bias += bias * scale(name)
        self.adapter.mkdir()
        self.write(base_model_name_or_path=str(self.model), target_modules=[*modules], **config)

    def write(self, **config: Any) -> None:
        file = self.adapter / "adapter_config.json"
        file.write_text(json.dumps({**(json.loads(file.read_text()) if file.exists() else CONFIG), **config}))
        save_file(self.tensors, self.adapter / WEIGHTS)

    def assert_merged(self, store: Path) -> None:
        stored = flatten_dict(checkpoint.restore(store), sep="/")
        weights = stacked_parameters(self.merged.state_dict(), self.merged.config.num_hidden_layers)
        for path, value in flatten_dict(weights, sep="/").items():
            np.testing.assert_allclose(stored[path], value, rtol=1e-6, atol=1e-6, err_msg=path)


@pytest.fixture
def llama(tmp_path: Path) -> Folders:
    return Folders(tmp_path, "grouped-query", {"q_proj": 3, "down_proj": 3}, lambda name: 6 / 3)


def test_every_update_arrives(llama, tmp_path) -> None:
    llama.assert_merged(convert(llama.model, tmp_path / "store", adapter=llama.adapter))
    (llama.adapter / WEIGHTS).unlink()
    torch.save(llama.tensors, llama.adapter / "adapter_model.bin")
    llama.assert_merged(convert(llama.model, tmp_path / "of torch", adapter=llama.adapter))


def test_another_model_than_its_own_is_told(llama, tmp_path, capfd) -> None:
    convert(llama.model, tmp_path / "own", adapter=llama.adapter)
    assert "trained on" not in capfd.readouterr().err
    llama.write(base_model_name_or_path="somebody/another")
    llama.assert_merged(convert(llama.model, tmp_path / "store", adapter=llama.adapter))
    assert (
        f"{llama.adapter} was trained on somebody/another, and is merged into {llama.model}" in capfd.readouterr().err
    )


@pytest.mark.slow
def test_an_adapters_folder_stands_for_its_model_with_it(llama, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    assert config_for(llama.adapter) == config_for(llama.model)
    store = store_for(llama.adapter)
    llama.assert_merged(store)
    assert checkpoint.read_manifest(store)["adapter"]["name"] == "lora"
    assert store_for(llama.model, adapter=llama.adapter) == store != store_for(llama.model)
    tokens = np.arange(6)[None]
    (ours,) = np.asarray(jaxpaint.load(llama.model, adapter=llama.adapter, dtype="float32").logits(tokens))
    theirs = llama.merged(torch.tensor(tokens)).logits[0].detach().numpy()
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    llama.write(lora_alpha=7)
    assert store_for(llama.adapter) != store


def test_patterns_rank_stabilised_scales_and_biases(tmp_path) -> None:
    ranks = {"layers.1.attention.query_key_value": 2, "query_key_value": 3, "attention.dense": 3}
    neox = Folders(
        tmp_path,
        "neox",
        ranks,
        lambda name: 2**0.5 * 5 / 2 if "layers.1.attention.query" in name else (4 if "dense" in name else 6) / 3**0.5,
        use_rslora=True,
        rank_pattern={r"layers\.1\.attention\.query_key_value": 2},
        alpha_pattern={"attention.dense": 4, "gpt_neox.layers.1.*": 5},
        lora_bias=True,
        bias="lora_only",
    )
    trained = "gpt_neox.layers.2.attention.query_key_value"
    with torch.no_grad():  # the layer's own bias, trained beside the updates
        neox.merged.get_submodule(trained).bias += 1
    own = make_tiny("neox").torch.get_submodule(trained).bias.detach()
    neox.tensors[f"base_model.model.{trained}.base_layer.bias"] = own + 1
    neox.write()
    neox.assert_merged(convert(neox.model, tmp_path / "store", adapter=neox.adapter))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'.*merge_and_unload"),
        ({"use_dora": True}, "use_dora=True.*merge_and_unload"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save.*merge_and_unload"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"something_new": "on"}, "something_new='on'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'.*changes the base model"),
        ({"init_lora_weights": 1}, "init_lora_weights=1"),
        ({"r": "many"}, "r='many'"),
        ({"r": 4}, r"lora_A \[3, 48\] and lora_B \[32, 3\].*r=4"),
        ({"lora_alpha": None}, "lora_alpha=None"),
        ({"rank_pattern": {"q_proj(": 3}}, "rank_pattern.*no pattern"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"target_modules": ["q_proj", "down_proj", "up_proj"]}, "no update for model.layers.0.mlp.up_proj.weight"),
    ],
)
def test_configs_that_are_no_plain_lora_are_refused(llama, tmp_path, change, named) -> None:
    llama.write(**change)
    with pytest.raises(UserError, match=named):
        convert(llama.model, tmp_path / "store", adapter=llama.adapter)
    assert_nothing_written(tmp_path / "store")


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), r"no lora_A for .*layers\.0\.self_attn\.q_proj"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "no lora_B"),
        (lambda t: [t.pop(f"{Q}.lora_{part}.weight") for part in "AB"], r"no update for model\.layers\.0\.self_attn"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(3, 31)}), r"\[32, 31\].*\[32, 32\].*trained on"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(32, 2)}), r"lora_B \[32, 2\]"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(3, 32).int()}), "dtype I32"),
        (lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.ones(32)}), "lora_magnitude_vector.*no part of plain"),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(61, 32)}), "lm_head.*no part of plain"),
        (lambda t: t.update({f"{Q}.bias": torch.ones(32)}), r"q_proj\.bias \[32\], and the model none"),
        (dict.clear, "no lora_A and lora_B"),
        (
            lambda t: t.update(
                {key.replace("layers.0", "layers.7"): value.clone() for key, value in t.items() if Q in key}
            ),
            r"layers\.7\.self_attn\.q_proj, and the model has no linear layer.*trained on",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(llama, tmp_path, change, named) -> None:
    change(llama.tensors)
    llama.write()
    with pytest.raises(UserError, match=named):
        convert(llama.model, tmp_path / "store", adapter=llama.adapter)
    assert_nothing_written(tmp_path / "store")


def test_folders_that_are_no_adapter_or_have_no_model(llama, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"not a peft adapter: it has no adapter_config\.json"):
        convert(llama.model, tmp_path / "store", adapter=llama.model)
    with pytest.raises(UserError, match="is an adapter itself"):
        convert(llama.adapter, tmp_path / "store", adapter=llama.adapter)
    with pytest.raises(UserError, match="is a converted store; give the checkpoint"):
        store_for(store_for(llama.model), adapter=llama.adapter)
    llama.write(base_model_name_or_path=None)
    with pytest.raises(UserError, match=r"names no base model; convert it with .* --adapter"):
        store_for(llama.adapter)
    (llama.adapter / WEIGHTS).write_bytes(b"short")
    with pytest.raises(UserError, match="truncated or corrupt"):
        convert(llama.model, tmp_path / "store", adapter=llama.adapter)
    (llama.adapter / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"no {WEIGHTS}"):
        convert(llama.model, tmp_path / "store", adapter=llama.adapter)


def test_an_adapter_of_a_tied_head_is_refused(tmp_path) -> None:
    folders = Folders(tmp_path, "tied embeddings", {"lm_head": 3}, lambda name: 2.0)
    with pytest.raises(UserError, match=r"lm_head.*tied to the embedding"):
        convert(folders.model, tmp_path / "store", adapter=folders.adapter)


def test_a_base_model_that_is_narrow_is_rounded_once(llama, tmp_path) -> None:
    edit_tensors(llama.model, lambda tensors: tensors.update({name: each.half() for name, each in tensors.items()}))
    store = convert(llama.model, tmp_path / "store", adapter=llama.adapter)
    name = f"{Q}.lora_{{}}.weight".format
    update = llama.tensors[name("B")] @ llama.tensors[name("A")] * 2
    base = load_file(llama.model / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"]
    stored = checkpoint.read_tensor(store, "blocks/self_attn/q_proj/kernel", 0)
    np.testing.assert_allclose(stored, (base.float() + update).half().numpy().T, rtol=1e-3, atol=1e-6)
    assert stored.dtype == np.float16
