"""BERT checkpoints of every kind into stores, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from flax import nnx, traverse_util
from safetensors.torch import load_file, save_file

import jaxpaint as jp
from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint
from tests.helpers.bert_models import tiny_bert, torch_bert
from tests.helpers.checkpoints import assert_nothing_written, edit_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As transformers saves a model with all heads of pre-training."""
    torch_bert().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _flat(model: jp.Model) -> dict[str, np.ndarray]:
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(model.state), sep="/")
    return {path: np.asarray(value) for path, value in flat.items()}


def _assert_equal(store: Path, without: tuple[str, ...] = ()) -> None:
    """The store holds the tiny model, but for some of its heads."""
    expected = {path: value for path, value in _flat(tiny_bert()).items() if not path.startswith(without or "-")}
    found = _flat(jp.load(store))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def test_every_tensor_arrives(folder: Path, tmp_path: Path) -> None:
    store = convert(folder, tmp_path / "store")
    _assert_equal(store)
    assert checkpoint.read_config(store) == tiny_bert().config


def test_an_encoder_alone(folder: Path, tmp_path: Path) -> None:
    """As sentence encoders are saved: without `bert.`, without a masked-LM head."""
    torch_bert().bert.save_pretrained(folder)
    assert "encoder.layer.0.output.dense.weight" in load_file(folder / "model.safetensors")
    store = convert(folder, tmp_path / "store")
    _assert_equal(store, without=("masked_lm/",))
    assert not checkpoint.read_config(store).has_masked_lm_head
    with pytest.raises(UserError, match="no masked-LM head"):
        jp.load(store).logits(np.zeros((1, 3), int))


@pytest.mark.slow
def test_a_masked_lm_without_a_pooler(folder: Path, tmp_path: Path) -> None:
    def strip(tensors):
        for name in [name for name in tensors if "pooler" in name or "seq_relationship" in name]:
            del tensors[name]

    edit_tensors(folder, strip)
    store = convert(folder, tmp_path / "store")
    _assert_equal(store, without=("pooler/",))
    with pytest.raises(UserError, match="no pooler"):
        jp.load(store).pooled(np.zeros((1, 3), int))


@pytest.mark.parametrize("saved", ["safetensors", "torch"])
@pytest.mark.few(1)
def test_the_first_generation_of_names(folder: Path, tmp_path: Path, saved: str) -> None:
    """`gamma` and `beta`, counted positions, the decoder and its bias a second time: as bert-base-uncased has them."""

    def age(tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(40)[None]
        tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()

    edit_tensors(folder, age)
    if saved == "torch":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    _assert_equal(convert(folder, tmp_path / "store"))


def test_faults_are_named(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.2.output.LayerNorm.weight"
    for change, named in (
        ({name: None}, f"lacks: {name}"),
        ({"bert.encoder.layer.2.output.LayerNorm.gamma": tensors[name].clone()}, "are the same weight"),
        ({"bert.classifier.weight": torch.ones(2, 32)}, r"does not imply: bert.classifier.weight"),
        ({"cls.predictions.decoder.weight": torch.ones(61, 32)}, "differs from"),
        ({name: torch.ones(7)}, "misshapen"),
    ):
        changed = {key: value for key, value in {**tensors, **change}.items() if value is not None}
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=named):
            convert(folder, tmp_path / "store")
        assert_nothing_written(tmp_path / "store")


def test_a_rearranged_encoder_is_written_back(folder: Path, tmp_path: Path) -> None:
    from transformers import BertForPreTraining

    order = [0, 3, 2, 2, 4]
    store = convert(folder, tmp_path / "store")
    plan = jp.Plan.of(order)
    exported = export(store, tmp_path / "exported", plan)
    assert json.loads((exported / "config.json").read_text())["num_hidden_layers"] == len(order)
    loaded = BertForPreTraining.from_pretrained(exported).eval()
    tokens = np.random.default_rng(0).integers(0, 61, (2, 9))
    with torch.no_grad():
        hidden = loaded.bert(torch.tensor(tokens))
        theirs = loaded.cls.predictions(hidden.last_hidden_state).numpy()
    np.testing.assert_allclose(jp.load(store).logits(tokens, plan), theirs, rtol=1e-4, atol=1e-4)
