"""Stores of layers of several models, against transformers' models with the same layers, and merged ones by numpy."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM

import jaxpaint as jp
from convert import compose, convert, export
from convert.card import model_card
from convert.composition import Origin, composition
from jaxpaint.base.errors import UserError
from jaxpaint.models.checkpoint import read_config, read_manifest, read_tensor
from jaxpaint.models.derived import save_derived
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import VOCAB_SIZE, make_tiny, randomise

TOKENS = np.arange(12).reshape(2, 6) % VOCAB_SIZE
WINDOWS = "qwen2, windows in turn"


def make_stores(folder: Path, variation: str = "grouped-query") -> tuple[dict[str, Path], dict[str, torch.nn.Module]]:
    """Two models of one architecture with other weights, as stores and in torch."""
    first = make_tiny(variation).torch
    second = copy.deepcopy(first)
    randomise(second, seed=1)
    stores = {}
    for name, network in (("A", first), ("B", second)):
        network.save_pretrained(folder / name)
        (folder / name / "tokenizer.json").write_text("{}")
        stores[name] = convert(folder / name, folder / f"{name}-store")
    return stores, {"A": first, "B": second}


def of_torch(networks: dict[str, torch.nn.Module], layers: list[tuple[str, int]]) -> np.ndarray:
    """The logits of the first network with these layers in the place of its own."""
    network = copy.deepcopy(networks["A"])
    network.base_model.layers = torch.nn.ModuleList(
        copy.deepcopy(networks[name].base_model.layers[layer]) for name, layer in layers
    )
    if kinds := getattr(network.config, "layer_types", None):
        network.config.layer_types = [kinds[layer] for _, layer in layers]
    network.config.num_hidden_layers = len(layers)
    with torch.no_grad():
        return network(torch.tensor(TOKENS), use_cache=False).logits.numpy()


@pytest.mark.parametrize("variation", ["grouped-query", "neox", WINDOWS])
@pytest.mark.few(1)
def test_any_plan_of_both_models(tmp_path: Path, variation: str) -> None:
    stores, networks = make_stores(tmp_path, variation)
    store = compose(stores, "A:0-4 B:0-4", tmp_path / "both")
    assert read_config(store).num_hidden_layers == 10
    model, every = jp.load(store, dtype="float32"), [*(("A", n) for n in range(5)), *(("B", n) for n in range(5))]
    for plan in ("0-1 7-9", "9 0 (6 1)*2", "0-9"):
        layers = [every[place] for place in Plan.parse(plan).sequence()]
        expected = of_torch(networks, layers)
        np.testing.assert_allclose(model.logits(TOKENS, Plan.parse(plan)), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("variation", ["grouped-query", WINDOWS])
@pytest.mark.few(1)
def test_transformers_loads_what_is_exported_of_it(tmp_path: Path, variation: str) -> None:
    stores, networks = make_stores(tmp_path, variation)
    store = compose(stores, "B:3 A:4-2 B:0", tmp_path / "mixed")
    folder = export(store, tmp_path / "exported", Plan.parse("0-4"))
    loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        found = loaded(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_array_equal(found, of_torch(networks, [("B", 3), ("A", 4), ("A", 3), ("A", 2), ("B", 0)]))
    card = ModelCard.load(folder / "README.md").text
    assert "Its layers are `B:3 A:4-2 B:0` of A (`A`), B (`B`)." in card
    assert str(tmp_path) not in card


def test_a_merged_layer_is_the_first_and_the_differences_of_the_others(tmp_path: Path) -> None:
    stores, networks = make_stores(tmp_path)
    store = compose({"A": stores["A"]}, "0 merge(1-3) 4", tmp_path / "merged")
    layers = networks["A"].base_model.layers
    kernels = [layer.mlp.up_proj.weight.detach().numpy().T for layer in layers]
    found = [read_tensor(store, "blocks/mlp/up_proj/kernel", layer) for layer in range(3)]
    expected = kernels[1] + (kernels[2] - kernels[1]) + (kernels[3] - kernels[1])
    np.testing.assert_allclose(found[1], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found[2], kernels[4])
    norms = [layer.input_layernorm.weight.detach().numpy() for layer in layers]
    np.testing.assert_allclose(
        read_tensor(store, "blocks/input_layernorm/scale", 1), norms[2] + norms[3] - norms[1], atol=1e-6
    )
    assert read_manifest(store)["fingerprint"] != read_manifest(stores["A"])["fingerprint"]
    assert read_manifest(store)["composed"]["layers"] == "0 merge(1-3) 4"


def test_what_is_no_layer_is_the_first_models(tmp_path: Path) -> None:
    stores, _ = make_stores(tmp_path)
    store = compose({"B": stores["B"], "A": stores["A"]}, "A:0-4", tmp_path / "other")
    for path in ("embed/embedding", "norm/scale"):
        np.testing.assert_array_equal(read_tensor(store, path), read_tensor(stores["B"], path))
    np.testing.assert_array_equal(
        read_tensor(store, "blocks/mlp/up_proj/kernel"), read_tensor(stores["A"], "blocks/mlp/up_proj/kernel")
    )


def test_what_was_trained_or_composed_before_is_still_said(tmp_path: Path) -> None:
    """Of every model that is used, and by what is made of the store afterwards."""
    stores, _ = make_stores(tmp_path)

    def derived(store: Path, name: str, **history: Any) -> Path:
        def same(path: str, layer: int | None, out: np.ndarray) -> None:
            out[...] = read_tensor(store, path, layer)

        return save_derived(store, read_manifest(store), tmp_path / name, read_config(store), same, **history)

    healed = derived(stores["B"], "healed", healed=[{"plan": "0 2 4"}])
    both = compose({"A": stores["A"], "B": healed}, "A:0-1 B:2-4", tmp_path / "both")
    assert "healed for the plan `0 2 4`" in model_card("short", Plan.parse("0-4"), read_manifest(both), (), None)
    again = read_manifest(derived(both, "again"))
    assert again["composed"] == read_manifest(both)["composed"]
    assert again["healed"] == [{"plan": "0 2 4"}]


def test_texts() -> None:
    assert composition(" A:0-1  merge( B:3-4 B:1 ) B:2-1 ", ("A", "B")) == (
        Origin("A", (0,)),
        Origin("A", (1,)),
        Origin("B", (3, 4, 1)),
        Origin("B", (2,)),
        Origin("B", (1,)),
    )
    assert composition("0 merge(1 2)", ("only",)) == (Origin("only", (0,)), Origin("only", (1, 2)))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "names 0 layers; expected 1 to 10,000"),
        ("A:0 x", "column 5: expected layers such as"),
        ("A:0 A:1-", "column 5: expected layers"),
        ("A:0 )", "column 5"),
        ("merge(A:0 merge(A:1 A:2))", "column 11"),
        ("merge(A:0 A:1", "has no \\) after it"),
        ("merge(A:0)", "takes two layers or more of one model"),
        ("merge(A:0 B:0)", "takes two layers or more of one model"),
        ("0-3", "say whose layer 0-3 is, such as A:0-3"),
        ("C:0", "there is no model C; there is A, B"),
        ("A:0-99999", "more than 10,000 layers"),
        ("A:0-9999 A:0", "names 10001 layers"),
    ],
)
def test_texts_that_name_no_layers(text: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composition(text, ("A", "B"))


def test_what_cannot_be_composed(tmp_path: Path) -> None:
    stores, _ = make_stores(tmp_path)
    with pytest.raises(UserError, match="there is no layer 5 in B, which has 5: 0-4"):
        compose(stores, "A:0 B:3-5", tmp_path / "made")
    with pytest.raises(UserError, match="exists"):
        compose(stores, "A:0", stores["A"])
    other = convert_of(tmp_path / "other", "neox")
    with pytest.raises(UserError, match="A and B are not of one architecture: model_type is llama and gpt_neox"):
        compose({"A": stores["A"], "B": other}, "A:0", tmp_path / "made")
    windows = convert_of(tmp_path / "windows", WINDOWS)
    with pytest.raises(UserError, match="layers 0, 1 are of different kinds"):
        compose({"A": windows}, "merge(0 1)", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def convert_of(folder: Path, variation: str) -> Path:
    make_tiny(variation).torch.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return convert(folder, folder.with_name(f"{folder.name}-store"))
