"""Heads of checkpoints: tied or not, left out, lacking. Oracle: what transformers loads from the same folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import jaxpaint as jp
from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.cli import main
from jaxpaint.engine.packing import Request
from jaxpaint.engine.score import score
from jaxpaint.models import checkpoint
from jaxpaint.models.checkpoint import read_config
from tests.helpers.bert_models import SIZES as BERT_SIZES
from tests.helpers.checkpoints import assert_converted, assert_nothing_written, edit_tensors, make_model
from tests.helpers.decoders import make_tiny, randomise

TOKENS = np.random.default_rng(0).integers(0, 40, (2, 12))


def _told(folder: Path, store: Path) -> list[str]:
    said: list[str] = []
    convert(folder, store, progress=lambda what, done, total: None if total else said.append(what))
    return [line for line in said if "no tokenizer" not in line]


def _logits(folder: Path) -> np.ndarray:
    network = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return network(torch.tensor(TOKENS)).logits.numpy()


def _close(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=1e-4, atol=1e-4)


def _rename(tensors: dict[str, torch.Tensor], change: Any) -> None:
    renamed = {change(name): value for name, value in tensors.items()}
    tensors.clear()
    tensors.update(renamed)


def test_a_tied_head_equal_to_the_embedding_is_kept_once(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", tied=True)
    embedding = model.model.embed_tokens.weight.detach()
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    assert _told(tmp_path / "model", tmp_path / "store") == []
    assert_converted(tmp_path / "store", model)


@pytest.mark.parametrize("plan", ["0-2", "0 2 1 1"])
@pytest.mark.few(1)
def test_a_head_that_differs_from_the_embedding_is_used_whatever_the_config_says(tmp_path: Path, plan: str) -> None:
    """As transformers 5 reads it; and exported so that every version does."""
    model = make_model(tmp_path / "model", tied=True)
    other = model.model.embed_tokens.weight.detach() + 0.5 * torch.randn(model.lm_head.weight.shape)
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update({"lm_head.weight": other}))
    (line,) = _told(tmp_path / "model", tmp_path / "store")
    assert "head differs" in line
    assert "tie_word_embeddings" in line
    loaded = jp.load(tmp_path / "store", dtype="float32")
    _close(loaded.logits(TOKENS), _logits(tmp_path / "model"))
    exported = export(tmp_path / "store", tmp_path / "exported", jp.Plan.parse(plan))
    assert json.loads((exported / "config.json").read_text())["tie_word_embeddings"] is False
    _close(loaded.logits(TOKENS, jp.Plan.parse(plan)), _logits(exported))


def test_a_tied_head_alone_is_the_embedding_too(tmp_path: Path) -> None:
    make_model(tmp_path / "model", tied=True)
    edit_tensors(
        tmp_path / "model",
        lambda tensors: tensors.update({"lm_head.weight": tensors.pop("model.embed_tokens.weight")}),
    )
    assert _told(tmp_path / "model", tmp_path / "store") == []
    _close(jp.load(tmp_path / "store", dtype="float32").logits(TOKENS), _logits(tmp_path / "model"))


def test_a_language_model_that_lacks_its_head_is_refused(tmp_path: Path) -> None:
    """transformers would make one up."""
    make_model(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"lacks: lm_head\.weight"):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")


@pytest.mark.parametrize("variation", ["grouped-query", "sliding window", "qwen2", "neox"])
@pytest.mark.few(1)
def test_a_decoder_saved_by_itself_gives_hidden_states(tmp_path: Path, variation: str) -> None:
    """As sentence embeddings are: without the base model's name before each, and without a head."""
    tiny = make_tiny(variation)
    tiny.torch.base_model.save_pretrained(tmp_path / "model")
    (line,) = _told(tmp_path / "model", tmp_path / "store")
    assert "no language model's head" in line
    model = jp.load(tmp_path / "store", dtype="float32")
    network = transformers.AutoModel.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        theirs = network(torch.tensor(TOKENS), output_hidden_states=True).hidden_states
    states = model.hidden_states(TOKENS)
    for ours, expected in zip(states[:-1], theirs[:-1], strict=True):  # transformers norms the last
        _close(ours, expected)
    for call in (
        lambda: model.logits(TOKENS),
        lambda: score(model, [Request.of([1, 2], [3], 40)]),
        lambda: jp.generate(model, [[1, 2]], [model.full_plan]) if hasattr(jp, "generate") else model.logits(TOKENS),
    ):
        with pytest.raises(UserError, match="saved without its head"):
            call()
    exported = export(tmp_path / "store", tmp_path / "exported", jp.Plan.parse("0 2 1"))
    again = transformers.AutoModel.from_pretrained(exported).eval()
    with torch.no_grad():
        last = again(torch.tensor(TOKENS), output_hidden_states=True).hidden_states[-2]
    _close(model.hidden_states(TOKENS, jp.Plan.parse("0 2 1"))[-2], last)


def test_a_tied_decoder_saved_by_itself_keeps_its_logits(tmp_path: Path) -> None:
    make_model(tmp_path / "whole", tied=True).model.save_pretrained(tmp_path / "model")
    assert _told(tmp_path / "model", tmp_path / "store") == []
    _close(jp.load(tmp_path / "store", dtype="float32").logits(TOKENS), _logits(tmp_path / "whole"))


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "DataParallel": lambda name: f"module.{name}",
    "peft": lambda name: f"base_model.model.{name}",
    "peft, its adapter merged": lambda name: f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."),
    "compiled within DataParallel": lambda name: f"module._orig_mod.{name}",
    "compiled layers": lambda name: name.replace(".self_attn", "._orig_mod.self_attn").replace(
        ".mlp", "._orig_mod.mlp"
    ),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(".self_attn", "._checkpoint_wrapped_module.self_attn"),
    "a trainer's module": lambda name: f"model.{name}",
    "a value head's": lambda name: f"pretrained_model.{name}",
}


@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.few(1)
def test_names_of_wrappers_are_taken_off(tmp_path: Path, wrapper: str) -> None:
    model = make_model(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: _rename(tensors, WRAPPED[wrapper]))
    assert _told(tmp_path / "model", tmp_path / "store") == []
    assert_converted(tmp_path / "store", model)


def test_a_reward_models_head_is_left_out_and_told(tmp_path: Path, capsys: Any) -> None:
    values = make_model(tmp_path / "model").config.to_dict()
    network = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**{**values, "num_labels": 1}))
    randomise(network)
    network.save_pretrained(tmp_path / "model")
    assert main(["convert", str(tmp_path / "model"), str(tmp_path / "store")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert sum("left out score.weight" in line for line in said) == 1
    assert not read_config(tmp_path / "store").capabilities.lm_head
    with torch.no_grad():
        theirs = network.model(torch.tensor(TOKENS), output_hidden_states=True).hidden_states[1]
    _close(jp.load(tmp_path / "store", dtype="float32").hidden_states(TOKENS)[1], theirs)


@pytest.mark.parametrize("outer", ["", "pretrained_model."])
@pytest.mark.few(1)
def test_a_value_head_beside_the_language_models_is_left_out(tmp_path: Path, outer: str) -> None:
    model = make_model(tmp_path / "model")

    def add(tensors: dict[str, torch.Tensor]) -> None:
        _rename(tensors, lambda name: outer + name)
        tensors["v_head.summary.weight"] = torch.ones(1, 16)
        tensors["v_head.summary.bias"] = torch.ones(1)
        tensors["v_head.steps"] = torch.ones(1, dtype=torch.int64)  # no weight of ours: its dtype does not matter

    edit_tensors(tmp_path / "model", add)
    (line,) = _told(tmp_path / "model", tmp_path / "store")
    assert "left out v_head.steps; v_head.summary.bias; v_head.summary.weight" in line
    assert_converted(tmp_path / "store", model)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(2, 16)}, "lora_A.*merge"),
        ({"model.layers.0.self_attn.q_proj.lora_B.default.weight": torch.ones(16, 2)}, "lora_B.*merge"),
        ({"lm_head.modules_to_save.default.weight": torch.ones(48, 16)}, "modules_to_save.*merge"),
        ({"lm_head.bias": torch.ones(48)}, "does not imply: lm_head.bias"),
        ({"model.layers.0.self_attn.q_norm.weight": torch.ones(4)}, "does not imply: model.layers.0.self_attn.q_norm"),
        ({"layers.0.self_attn.q_norm.weight": torch.ones(4)}, "does not imply: model.layers.0.self_attn.q_norm"),
        ({"model.layers.3.mlp.up_proj.weight": torch.ones(24, 16)}, "does not imply: model.layers.3"),
        ({"_orig_mod.model.norm.weight": torch.ones(16)}, "are the same weight; keep one"),
    ],
)
def test_what_would_change_the_result_is_refused_by_name(tmp_path: Path, more: Any, named: str) -> None:
    make_model(tmp_path / "model")
    edit_tensors(tmp_path / "model", lambda tensors: tensors.update(more))
    with pytest.raises(UserError, match=named):
        convert(tmp_path / "model", tmp_path / "store")
    assert_nothing_written(tmp_path / "store")


def test_two_models_in_one_checkpoint_are_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "model")

    def double(tensors: dict[str, torch.Tensor]) -> None:
        critic = {f"critic.{name}": value.clone() for name, value in tensors.items()}
        _rename(tensors, lambda name: f"actor.{name}")
        tensors.update(critic)

    edit_tensors(tmp_path / "model", double)
    with pytest.raises(UserError, match=r"more than one model \(actor\.model\.embed_tokens.*critic\.model"):
        convert(tmp_path / "model", tmp_path / "store")


BERTS = {
    "BertModel": None,
    "BertForMaskedLM": None,
    "BertForPreTraining": "cls.seq_relationship.bias; cls.seq_relationship.weight",
    "BertForNextSentencePrediction": "cls.seq_relationship.bias; cls.seq_relationship.weight",
    "BertForSequenceClassification": "classifier.bias; classifier.weight",
    "BertForTokenClassification": "classifier.bias; classifier.weight",
    "BertForMultipleChoice": "classifier.bias; classifier.weight",
    "BertForQuestionAnswering": "qa_outputs.bias; qa_outputs.weight",
}


@pytest.mark.parametrize("prefix", ["", "model.", "0.auto_model."])
@pytest.mark.parametrize("kind", BERTS)
@pytest.mark.few(1)
def test_a_bert_of_any_task_is_taken_as_an_encoder(tmp_path: Path, kind: str, prefix: str) -> None:
    network = getattr(transformers, kind)(transformers.BertConfig(**BERT_SIZES)).eval()
    randomise(network)
    network.save_pretrained(tmp_path / "model")
    if prefix:
        edit_tensors(tmp_path / "model", lambda tensors: _rename(tensors, lambda name: prefix + name))
    told = _told(tmp_path / "model", tmp_path / "store")
    heads = BERTS[kind]
    listed = heads and "; ".join(prefix + name for name in heads.split("; "))
    assert [line.split(": ", 1)[1] for line in told] == (
        [f"left out {listed}, which are no part of it"] if heads else []
    )
    model = jp.load(tmp_path / "store", dtype="float32")
    encoder = getattr(network, "bert", network)
    with torch.no_grad():
        found = encoder(torch.tensor(TOKENS), output_hidden_states=True)
    for ours, theirs in zip(model.hidden_states(TOKENS), found.hidden_states, strict=True):
        _close(ours, theirs)
    assert model.config.capabilities.pooler == (found.pooler_output is not None)
    if found.pooler_output is not None:
        _close(model.pooled(TOKENS), found.pooler_output)
    masked = kind in ("BertForMaskedLM", "BertForPreTraining")
    assert model.config.capabilities.masked_lm_head == masked
    if masked:
        with torch.no_grad():
            _close(model.logits(TOKENS), network.cls.predictions(found.last_hidden_state))


@pytest.mark.parametrize("there", ["bias", "decoder.bias", "both"])
@pytest.mark.few(1)
def test_a_masked_lm_heads_bias_by_either_name(tmp_path: Path, there: str) -> None:
    """Where both are there and differ, transformers reads the decoder's."""
    network = transformers.BertForMaskedLM(transformers.BertConfig(**BERT_SIZES))
    randomise(network)
    network.save_pretrained(tmp_path / "model")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        bias = tensors.pop("cls.predictions.bias", None)
        bias = tensors.pop("cls.predictions.decoder.bias", bias)
        assert bias is not None
        if there in ("bias", "both"):
            tensors["cls.predictions.bias"] = bias
        if there in ("decoder.bias", "both"):
            tensors["cls.predictions.decoder.bias"] = bias + 1

    edit_tensors(tmp_path / "model", change)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        theirs = loaded(torch.tensor(TOKENS)).logits
    _close(jp.load(convert(tmp_path / "model", tmp_path / "store"), dtype="float32").logits(TOKENS), theirs)


def test_the_bound_of_a_rope_scaling_is_told(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    raw = {name: value for name, value in json.loads(file.read_text()).items() if name != "rope_parameters"}
    file.write_text(json.dumps({**raw, "rope_scaling": {"type": "dynamic", "factor": 4.0}}))
    (line,) = _told(tmp_path / "model", tmp_path / "store")
    assert "texts may have 64 tokens" in line
    assert "dynamic" in line
    _close(jp.load(tmp_path / "store", dtype="float32").logits(TOKENS), _logits(tmp_path / "model"))


def test_layer_types_of_a_shortened_llama_are_as_many(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "layer_types": ["full_attention"] * 3}))
    store = convert(tmp_path / "model", tmp_path / "store")
    exported = export(store, tmp_path / "exported", jp.Plan.parse("0 2"))
    _close(jp.load(store, dtype="float32").logits(TOKENS, jp.Plan.parse("0 2")), _logits(exported))


def test_what_a_store_says_of_a_whole_model_is_as_it_was(tmp_path: Path) -> None:
    """Fingerprints hang on it."""
    make_model(tmp_path / "model")
    store = convert(tmp_path / "model", tmp_path / "store")
    kept = json.loads((store / "config.json").read_text())
    assert "has_lm_head" not in kept
    assert checkpoint.read_config(store).to_dict() == kept
