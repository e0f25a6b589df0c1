"""GGUF files under a series plan, written as others: their bytes, their keys, and what they compute."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader, GGUFValueType
from transformers import AutoTokenizer

from convert import export_gguf
from jaxpaint.engine.model import from_parameters
from jaxpaint.models import from_huggingface
from jaxpaint.plans.plan import Plan
from tests.helpers import gguf_models
from tests.helpers.decoders import stacked_parameters
from tests.helpers.gguf_models import NUM_LAYERS, expected_bytes, keys_of, tensor_bytes, torch_of
from tests.helpers.tiny_folder import SENTENCES

PLANS = {"0-4": [0, 1, 2, 3, 4], "0 2-4": [0, 2, 3, 4], "4-0": [4, 3, 2, 1, 0], "0 (1 2)*2 4": [0, 1, 2, 1, 2, 4]}
TOKENS = np.arange(24).reshape(2, 12)


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def source(request, tmp_path_factory):
    network = gguf_models.tiny_network(request.param)
    return gguf_models.write_model(tmp_path_factory.mktemp(request.param) / "full.gguf", network)


@pytest.fixture(scope="module")
def ours(source):
    """The model of the source, as transformers dequantises it, here; its config is the one that was written."""
    network = torch_of(source)
    original = gguf_models.tiny_network(network.config.model_type)
    config = from_huggingface(json.loads(original.config.to_json_string()))
    return from_parameters(config, stacked_parameters(network.state_dict(), NUM_LAYERS))


@pytest.mark.parametrize(("plan", "layers"), PLANS.items())
def test_tensors_are_the_sources_to_the_byte(source, tmp_path, plan, layers):
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse(plan))
    found = tensor_bytes(exported)
    assert found == expected_bytes(source, layers)
    order = [int(name.split(".")[1]) for name in found if name.startswith("blk.")]
    assert order == sorted(order)
    types = {type_ for type_, _, _ in found.values()}
    if plan == "0-4":
        assert types == {int(type_) for type_ in (Type.F32, *gguf_models.TYPES)}
        assert list(found) == list(tensor_bytes(source))


def test_keys_are_the_sources_but_for_what_the_plan_changes(source, tmp_path):
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse("0 2*2"))
    before, after = keys_of(source), keys_of(exported)
    text = [GGUFValueType.STRING]
    architecture = before["general.architecture"][1]
    assert after == {
        **before,
        f"{architecture}.block_count": ([GGUFValueType.UINT32], 3),
        "general.name": (text, "Tiny (0 2*2)"),
        "general.size_label": (text, after["general.size_label"][1]),
        "jaxpaint.layer_plan": (text, "0 2*2"),
        "jaxpaint.source": (text, "full.gguf"),
    }
    assert len(before["tokenizer.ggml.tokens"][1]) > 300
    parameters = sum(int(np.prod(shape)) for _, shape, _ in tensor_bytes(exported).values())
    assert after["general.size_label"] != before["general.size_label"]
    assert after["general.size_label"][1] == f"{parameters / 1000:.0f}K"


@pytest.mark.parametrize("plan", [*PLANS, "0m 1a 2a (3m 4a)*2", "0 1a 2m 3 4m"])
@pytest.mark.few(2)
def test_transformers_computes_of_it_what_the_plan_computes(source, ours, tmp_path, plan):
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse(plan))
    with torch.no_grad():
        theirs = torch_of(exported)(torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(ours.logits(TOKENS, Plan.parse(plan)))
    np.testing.assert_allclose(found, theirs, atol=2e-5 * np.abs(theirs).max())
    full = np.asarray(ours.logits(TOKENS, Plan.of(range(NUM_LAYERS))))
    assert plan == "0-4" or np.abs(full - theirs).max() > 0.05 * np.abs(theirs).max()


def test_the_tokenizer_reads_as_before(source, tmp_path):
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse("0 2-4"))
    before, after = (AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name) for file in (source, exported))
    assert [after.encode(text) for text in SENTENCES] == [before.encode(text) for text in SENTENCES]
    assert after.chat_template == before.chat_template


def test_a_sublayers_other_half_is_zeros_of_the_same_type(source, tmp_path):
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse("0 1a 2m 3m 4a"))
    found, before = tensor_bytes(exported), tensor_bytes(source)
    assert keys_of(exported)[f"{keys_of(source)['general.architecture'][1]}.block_count"][1] == 4
    for name, value in found.items():
        if not name.startswith("blk."):
            assert value == before[name]
            continue
        _, new, module = name.split(".", 2)
        attention, mlp = [(0, 0), (1, 2), (None, 3), (4, None)][int(new)]
        own, other = (attention, mlp) if module.startswith("attn_") else (mlp, attention)
        type_, shape, data = before[f"blk.{other if own is None else own}.{module}"]
        is_output = module.split(".")[0] in ("attn_output", "ffn_down")
        assert value == (type_, shape, bytes(len(data)) if own is None and is_output else data), name


@pytest.mark.parametrize(("side_by_side", "layers"), [(True, 4), (False, 3)])
def test_halves_that_read_one_input_are_not_joined(tmp_path, side_by_side, layers):
    source = gguf_models.write_layers(tmp_path / "full.gguf", "gptneox", use_parallel_residual=side_by_side)
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse("0 1a 2m 3"))
    assert keys_of(exported)["gptneox.block_count"][1] == layers


def test_what_adds_a_half_is_zeros_and_nothing_else(tmp_path):
    outputs = {"a": ["attn_output"], "m": ["ffn_down_exps", "ffn_down_shexp"]}
    others = ["attn_output_norm", "attn_q", "ffn_gate_exps", "ffn_gate_inp", "exp_probs_b"]
    modules = [*outputs["a"], *outputs["m"], *others]
    source = gguf_models.write_layers(tmp_path / "full.gguf", "qwen3moe", modules=modules)
    for half, other in (("a", "m"), ("m", "a")):
        exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse(f"2{half}"), overwrite=True)
        zeros = [name.split(".")[2] for name, (_, _, data) in tensor_bytes(exported).items() if not any(data)]
        assert zeros == outputs[other]


def test_zero_bytes_are_zeros_in_every_type():
    """In those that the package can read."""
    seen = set()
    for type_, (block, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            values = gguf.dequantize(np.zeros((2, 2 * size), np.uint8), type_)
        except (NotImplementedError, KeyError):
            continue
        assert values.shape == (2, 2 * block)
        assert not values.any(), type_
        seen.add(type_)
    assert {Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q8_0, Type.Q2_K, Type.Q4_K, Type.Q6_K, Type.IQ4_XS} <= seen


def test_arrays_of_layers_follow_the_plan(tmp_path):
    arrays = {
        "attention__head_count": [1, 2, 3, 4, 5],
        "attention__head_count_kv": [6, 7, 8, 9, 10],
        "feed_forward_length": [11, 12, 13, 14, 15],
        "attention__sliding_window_pattern": [True, False, False, True, False],
        "rope__freq": [0.5, 1.5, 2.5, 3.5, 4.5],
        "rope__sections": [1, 2, 3],
        "names": ["a", "b", "c", "d", "e"],
    }
    source = gguf_models.write_layers(tmp_path / "full.gguf", **arrays)
    before = keys_of(source)
    whole = keys_of(export_gguf(source, tmp_path / "whole.gguf", Plan.parse("3 0 4*2")))
    halves = keys_of(export_gguf(source, tmp_path / "halves.gguf", Plan.parse("3 0a 4m 2m")))
    for name, value in arrays.items():
        key = f"llama.{name.replace('__', '.')}"
        if name in ("rope__sections", "names"):
            assert whole[key] == before[key]
            continue
        assert whole[key] == (before[key][0], [value[layer] for layer in (3, 0, 4, 4)])
        layers = (3, 4, 2) if name == "feed_forward_length" else (3, 0, 2)
        assert halves[key] == (before[key][0], [value[layer] for layer in layers])


@pytest.mark.parametrize("options", [{"alignment": 64}, {"endianess": gguf.GGUFEndian.BIG}])
def test_alignment_and_order_of_bytes_stay(tmp_path, options):
    source = gguf_models.write_model(tmp_path / "full.gguf", gguf_models.tiny_network(), **options)
    exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse("3 1"))
    assert tensor_bytes(exported) == expected_bytes(source, [3, 1])
    readers = [GGUFReader(file) for file in (source, exported)]
    assert readers[0].alignment == readers[1].alignment == options.get("alignment", 32)
    assert readers[0].endianess == readers[1].endianess == options.get("endianess", gguf.GGUFEndian.LITTLE)
    assert keys_of(exported)["jaxpaint.layer_plan"][1] == "3 1"
    assert keys_of(exported)["llama.block_count"][1] == 2


def test_keys_that_the_package_would_not_write_are_kept(tmp_path):
    """An array of nothing, arrays in an array, and a text that is not UTF-8."""
    source = gguf_models.write_layers(tmp_path / "full.gguf", blanks="____", nested=[[1, 2], [3]], odd=b"\xff\xfe")
    text = (8).to_bytes(4, "little") + (4).to_bytes(8, "little") + b"____"
    nothing = (9).to_bytes(4, "little") + (4).to_bytes(4, "little") + bytes(8)  # as long as the text
    source.write_bytes(source.read_bytes().replace(text, nothing))
    before, after = (
        {key: b"".join(part.tobytes() for part in field.parts) for key, field in GGUFReader(file).fields.items()}
        for file in (source, export_gguf(source, tmp_path / "short.gguf", Plan.parse("1 0")))
    )
    assert nothing in before["llama.blanks"]
    for key in ("llama.blanks", "llama.nested", "llama.odd"):
        assert after[key] == before[key]


@pytest.mark.parametrize("plan", ["0-4", "3 1 1"])
def test_parts_are_read_as_one_model(tmp_path, plan):
    network = gguf_models.tiny_network()
    whole = gguf_models.write_model(tmp_path / "whole.gguf", network)
    gguf_models.write_model(tmp_path / "parts.gguf", network, split_max_tensors=9)
    parts = sorted(tmp_path.glob("parts-*.gguf"))
    assert len(parts) == 6
    one = export_gguf(whole, tmp_path / "one.gguf", Plan.parse(plan))
    other = export_gguf(parts[0], tmp_path / "other.gguf", Plan.parse(plan))
    assert tensor_bytes(one) == tensor_bytes(other)
    source = ([GGUFValueType.STRING], parts[0].name)
    assert {**keys_of(one), "jaxpaint.source": source} == keys_of(other)


def test_an_export_is_exported_again(tmp_path):
    source = gguf_models.write_layers(tmp_path / "full.gguf")
    once = export_gguf(source, tmp_path / "once.gguf", Plan.parse("4 2 1"))
    twice = export_gguf(once, tmp_path / "twice.gguf", Plan.parse("2 0"))
    assert tensor_bytes(twice) == expected_bytes(source, [1, 4])
    assert keys_of(twice)["jaxpaint.layer_plan"][1] == "2 0"
    assert keys_of(twice)["jaxpaint.source"][1] == "once.gguf"


def test_layers_in_turn_keep_their_kind(tmp_path):
    source = gguf_models.write_layers(tmp_path / "full.gguf", "gemma3", num_layers=14)
    for plan in ("0-4 11", "6 7 4 3 0 5 1-4 0 11 12", "0"):
        layers = list(Plan.parse(plan).sequence())
        exported = export_gguf(source, tmp_path / "short.gguf", Plan.parse(plan), overwrite=True)
        assert tensor_bytes(exported) == expected_bytes(source, layers)
