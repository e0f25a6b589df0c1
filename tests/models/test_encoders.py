"""Encoders beside BERT against transformers: plans of all kinds, poolers, states, training, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tokenizers
import torch
import transformers

import jaxpaint as jp
from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.engine.masked import encode_texts, score_masked
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.checkpoint import read_config
from jaxpaint.models.dropout import Dropout
from jaxpaint.models.fields import ConfigError
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.glue import Examples
from jaxpaint.training.batches import labelled_batches, shuffled
from jaxpaint.training.features import Encoded, encode, pooled_features
from jaxpaint.training.planned import first_parameters, planned_classifier
from jaxpaint.training.settings import ENCODER
from jaxpaint.training.tune import tune_encoder
from tests.helpers.encoders import (
    DISTINCT,
    LONGEST,
    NUM_LAYERS,
    VARIATIONS,
    VOCAB_SIZE,
    config_of,
    encoder_of,
    torch_encoder,
    torch_inputs,
    torch_logits,
    torch_plan,
    torch_states,
)

PLANS = [
    *("4-0", "0 2 1 3 4", "0 {1-3} 4", "0 {1-3}*2 4", "0 (1 2)*3 4", "0 {(1 {2 3}) 2} 4", "0 sum{1 2} 3 4"),
    *("0 {1@0.25 (2 3)@1.5}@0.5*2 4@-0.5", "0 1a {3a (1m 2) 4m}*2 2m@0.5 3", "3"),
]
RANDOM = np.random.default_rng(0)
LENGTHS = np.array([LONGEST, 3, 15])
TOKENS = RANDOM.integers(4, VOCAB_SIZE, (3, LONGEST))


def close(ours: Any, theirs: Any) -> None:
    """Within 1e-5 of the largest number, wherever there is text."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    largest = np.abs(theirs).max()
    for row, length in enumerate(LENGTHS):
        assert np.abs(ours[row, :length] - theirs[row, :length]).max() <= 1e-5 * largest


@pytest.fixture(scope="module", params=VARIATIONS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=DISTINCT)
def distinct(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def stored(name: str, task: str = "MaskedLM") -> Path:
    """A store of transformers' model of a task."""
    folder = Path(STORES.name) / name / (task or "base")
    if not folder.exists():
        torch_encoder(name, task).save_pretrained(folder / "model")
        convert(folder / "model", folder / "store")
    return folder / "store"


@pytest.fixture(scope="module", autouse=True)
def stores(tmp_path_factory: pytest.TempPathFactory) -> None:
    STORES.name = str(tmp_path_factory.mktemp("encoders"))
    stored.cache_clear()


class STORES:
    name = ""


def loaded(name: str, task: str = "MaskedLM") -> jp.Model:
    return jp.load(stored(name, task), dtype="float32")


@pytest.mark.few(1)
def test_logits_under_plans_are_transformers_with_its_layers_rearranged(name: str) -> None:
    model = loaded(name)
    expected = torch_logits(name, TOKENS, LENGTHS)
    assert expected.std() > 0.5, "logits this flat would not show a difference"
    close(model.logits(TOKENS, lengths=LENGTHS), expected)
    if name not in DISTINCT:
        return
    for text in PLANS:
        close(model.logits(TOKENS, text, LENGTHS), torch_logits(name, TOKENS, LENGTHS, Plan.parse(text)))
    compiled = model.logits(TOKENS, PLANS[5], LENGTHS, static=True)
    close(compiled, torch_logits(name, TOKENS, LENGTHS, Plan.parse(PLANS[5])))


@pytest.mark.slow
def test_states_are_transformers(distinct: str) -> None:
    theirs = torch_states(distinct, TOKENS, LENGTHS)
    ours = loaded(distinct).hidden_states(TOKENS, lengths=LENGTHS)
    assert len(ours) == len(theirs) == NUM_LAYERS + 1
    for state, expected in zip(ours, theirs, strict=True):
        close(state, expected)
    observed = loaded(distinct).run(TOKENS, lengths=LENGTHS)
    close(observed.states[-1], theirs[-1])


@pytest.mark.few(1)
def test_the_longest_text_and_no_longer(distinct: str) -> None:
    most = VARIATIONS[distinct].positions
    tokens = np.random.default_rng(1).integers(4, VOCAB_SIZE, (3, most))
    found = np.asarray(loaded(distinct).logits(tokens))
    theirs = torch_logits(distinct, tokens, [most] * 3)
    assert np.abs(found - theirs).max() <= 1e-5 * np.abs(theirs).max()
    with pytest.raises(UserError, match=rf"{most + 1} positions are more than the model's {most}"):
        loaded(distinct).logits(np.full((1, most + 1), 5))


@pytest.mark.few(1)
def test_padding_tokens_within_a_text_have_the_position_that_transformers_gives_them(distinct: str) -> None:
    tokens = TOKENS.copy()
    tokens[0, 4:7] = VARIATIONS[distinct].config["pad_token_id"]
    close(loaded(distinct).logits(tokens, lengths=LENGTHS), torch_logits(distinct, tokens, LENGTHS))


@pytest.mark.few(1)
def test_a_base_model_alone_has_its_pooler_and_no_logits(distinct: str) -> None:
    network, model = torch_encoder(distinct, ""), loaded(distinct, "")
    with pytest.raises(UserError, match="no masked-LM head"):
        model.logits(TOKENS)
    if not VARIATIONS[distinct].pooler:
        with pytest.raises(UserError, match="no pooler"):
            model.pooled(TOKENS)
        return
    with torch.no_grad():
        expected = network(**torch_inputs(distinct, TOKENS, LENGTHS)).pooler_output.numpy()
    found = np.asarray(model.pooled(TOKENS, lengths=LENGTHS))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def _classifier_logits(name: str, network: Any, pooled: Any) -> np.ndarray:
    last = network.classifier.out_proj if hasattr(network.classifier, "out_proj") else network.classifier
    with torch.no_grad():
        return last(torch.tensor(np.asarray(pooled))).numpy()


@pytest.mark.slow
def test_a_fine_tuned_classifiers_first_layer_is_its_pooler(distinct: str) -> None:
    """Under a plan too; pooled features as GLUE reads them frozen; written back, the same classifier reads them."""
    network, model = torch_encoder(distinct, "SequenceClassification"), loaded(distinct, "SequenceClassification")
    plan = Plan.parse("0 {1-3}*2 4")
    encoder, layers = encoder_of(network), encoder_of(network).layer
    with torch.no_grad():
        encoder.layer = torch.nn.ModuleList([torch_plan(distinct, plan, layers)])
        expected = network(**torch_inputs(distinct, TOKENS, LENGTHS)).logits.numpy()
        encoder.layer = layers
    found = _classifier_logits(distinct, network, model.pooled(TOKENS, plan, LENGTHS))
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    texts = tuple(row[:length].astype(np.int32) for row, length in zip(TOKENS, LENGTHS, strict=True))
    encoded = Encoded(texts, tuple(map(np.zeros_like, texts)))
    features = pooled_features(model, encoded, [model.full_plan, plan])
    assert np.abs(features[1] - np.asarray(model.pooled(TOKENS, plan, LENGTHS))).max() <= 1e-5


@pytest.mark.slow
def test_a_rearranged_encoder_is_written_back(distinct: str, tmp_path: Path) -> None:
    plan = Plan.of([0, 3, 2, 2])
    exported = export(stored(distinct), tmp_path / "exported", plan)
    network, told = transformers.AutoModelForMaskedLM.from_pretrained(exported, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert network.config.num_hidden_layers == 4
    with torch.no_grad():
        theirs = network.eval()(**torch_inputs(distinct, TOKENS, LENGTHS)).logits.numpy()
    close(loaded(distinct).logits(TOKENS, plan, LENGTHS), theirs)
    close(jp.load(convert(exported, tmp_path / "again"), dtype="float32").logits(TOKENS, lengths=LENGTHS), theirs)

    classifier = export(stored(distinct, "SequenceClassification"), tmp_path / "classifier", plan)
    network, told = transformers.AutoModelForSequenceClassification.from_pretrained(
        classifier, output_loading_info=True
    )
    assert not told["unexpected_keys"]
    last = "classifier.out_proj." if hasattr(network.classifier, "out_proj") else "classifier."
    assert told["missing_keys"] == {f"{last}weight", f"{last}bias"}, "labels are left out, as a BERT's"


@pytest.mark.parametrize("task", ["TokenClassification", "QuestionAnswering"])
def test_heads_of_other_tasks_are_left_out(distinct: str, task: str, tmp_path: Path) -> None:
    torch_encoder(distinct, task).save_pretrained(tmp_path / "model")
    told: list[str] = []
    store = convert(tmp_path / "model", tmp_path / "store", progress=lambda line, *_: told.append(line))
    joint = VARIATIONS[distinct].joint_head
    head = "classifier" if joint or task == "TokenClassification" else "qa_outputs"
    assert any(f"left out {head}.bias; {head}.weight, which are no part of it" in line for line in told)
    has = read_config(store).capabilities
    assert (has.pooler, has.new_pooler, has.masked_lm_head) == (joint, True, False)


def test_a_byte_level_tokenizer(tmp_path: Path) -> None:
    """RoBERTa's: pairs as transformers encodes them, without token types, and texts to mask."""
    letters = ["\u0120", *"abcdefghijklmnopqrstuvwxyz"]
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, "ab", "\u0120c"]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(
            {word: i for i, word in enumerate(words)}, [("a", "b"), ("\u0120", "c")], unk_token="<unk>"
        )
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    special = {
        "bos": "<s>",
        "cls": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "sep": "</s>",
        "unk": "<unk>",
        "mask": "<mask>",
    }
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{f"{name}_token": token for name, token in special.items()}
    ).save_pretrained(tmp_path / "model")
    torch_encoder("roberta").save_pretrained(tmp_path / "model")
    model = jp.load(convert(tmp_path / "model", tmp_path / "store"), dtype="float32")
    assert model.tokenizer.encode("ab ca", "b") == [0, 32, 33, 6, 2, 2, 7, 2]
    encoded = encode(model, Examples((("ab ca", "b"),), np.zeros(1, np.int32)), 16)
    assert encoded.tokens[0].tolist() == [0, 32, 33, 6, 2, 2, 7, 2]
    assert not encoded.token_types[0].any()
    texts = encode_texts(model, ["ab ca"])
    assert (texts.mask_token, texts.masked) == (4, 3)


@pytest.mark.slow
def test_masked_scores_and_similarity(distinct: str) -> None:
    model = loaded(distinct)
    texts = [row[:length].tolist() for row, length in zip(TOKENS, LENGTHS, strict=True)]
    (score,) = score_masked(model, texts[1:2], ["0 {1-3} 4"], mask_token=2)
    masked = np.tile(TOKENS[1:2, :3], (3, 1))
    np.fill_diagonal(masked, 2)
    logits = torch.tensor(torch_logits(distinct, masked, np.array([3, 3, 3]), Plan.parse("0 {1-3} 4")))
    each = logits.log_softmax(dim=-1)[range(3), range(3), TOKENS[1, :3]]
    assert score.pseudo_loglikelihoods[0] == pytest.approx(each.sum().item(), rel=1e-5)
    (found,) = jp.analyse(model, texts, [model.full_plan])
    states = torch_states(distinct, TOKENS, LENGTHS)
    expected = np.zeros((NUM_LAYERS + 1, NUM_LAYERS + 1))
    for row, length in enumerate(LENGTHS):
        flat = np.stack([state[row, :length].ravel() for state in states]).astype(np.float64)
        flat /= np.linalg.norm(flat, axis=1, keepdims=True)
        expected += flat @ flat.T / len(LENGTHS)
    np.testing.assert_allclose(found.similarity, expected, atol=1e-5)


RATES = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2, "classifier_dropout": 0.5}
SETTINGS = dataclasses.replace(ENCODER, learning_rate=1e-4, epochs=1, batch_size=8, dropout=0.0)


def _examples() -> tuple[Encoded, np.ndarray]:
    random = np.random.default_rng(0)
    tokens = tuple(random.integers(4, VOCAB_SIZE, 32).astype(np.int32) for _ in range(16))
    return Encoded(tokens, tuple(map(np.zeros_like, tokens))), random.integers(0, 2, 16).astype(np.int32)


def _torch_classifier(name: str, parameters: Any, **rates: float) -> Any:
    """transformers' classifier of the stored one's weights and of ours beside them."""
    values = {ours: rates[ours] for ours in rates}
    network = transformers.AutoModelForSequenceClassification.from_config(config_of(name, **torch_rates(name, values)))
    network.load_state_dict(torch_encoder(name, "SequenceClassification").state_dict())
    last = network.classifier.out_proj if hasattr(network.classifier, "out_proj") else network.classifier
    with torch.no_grad():
        last.weight.copy_(torch.tensor(np.asarray(parameters["classifier"]["kernel"]).T))
        last.bias.copy_(torch.tensor(np.asarray(parameters["classifier"]["bias"])))
    return network.train()


def torch_rates(name: str, rates: dict[str, float]) -> dict[str, float]:
    names = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}
    of_distilbert = {**names, "classifier_dropout": "seq_classif_dropout"}
    of_modernbert = {**names, "hidden_dropout_prob": "embedding_dropout"}
    theirs = {"distilbert": of_distilbert, "modernbert": of_modernbert}.get(name, {})
    return {theirs.get(ours, ours): rate for ours, rate in rates.items()}


@pytest.mark.slow
def test_dropout_is_where_transformers_has_it(distinct: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same masks in both, made from nothing but a shape, at rates of their own; and three steps of training."""

    def kept(shape: tuple[int, ...], rate: float) -> np.ndarray:
        return (np.random.default_rng(shape).random(shape) >= rate) / (1 - rate)

    def theirs(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * torch.tensor(kept(tuple(x.shape), p), dtype=x.dtype) if training else x

    def ours(x: jax.Array, drawn: Dropout | None) -> jax.Array:
        return x if drawn is None else x * kept(x.shape, drawn.rate).astype(x.dtype)

    model = loaded(distinct, "SequenceClassification")
    config: Any = model.config
    known = {rate: RATES[rate] for rate in RATES if getattr(config, rate) is not None or distinct != "mpnet"}
    known |= {"mlp_dropout": 0.4} if hasattr(config, "mlp_dropout") else {}
    model = dataclasses.replace(model, config=dataclasses.replace(config, **known))
    encoded, labels = _examples()
    (batch,) = next(labelled_batches(encoded, labels, *shuffled(16, 8, 1, seed=0))(0))
    parameters = first_parameters(model, 2, seed=0)
    network = _torch_classifier(distinct, parameters, **known)
    monkeypatch.setattr("torch.nn.functional.dropout", theirs)
    of_models = (f"models.{name}" for name in ("encoder", "prenorm_encoder", "attention", "parts"))
    for module in (*of_models, "training.planned"):
        monkeypatch.setattr(f"jaxpaint.{module}.dropout", ours)
    classifier = planned_classifier(model, model.full_plan)
    with_dropout = float(classifier(parameters, jax.device_put(batch), jax.random.key(0)))
    tokens, lengths, _ = batch.inputs
    inputs = {**torch_inputs(distinct, tokens, lengths), "labels": torch.tensor(batch.targets).long()}
    assert with_dropout == pytest.approx(network(**inputs).loss.item(), rel=1e-5)
    assert abs(with_dropout - float(classifier(parameters, jax.device_put(batch), None))) > 1e-3


@pytest.mark.slow
def test_fine_tuned_steps_equal_torch(distinct: str) -> None:
    model, (encoded, labels) = loaded(distinct, "SequenceClassification"), _examples()
    plan = Plan.parse("0 2-1 {3 4}")
    first = first_parameters(model, 2, seed=0)
    no_rates = dict.fromkeys(RATES if distinct != "mpnet" else list(RATES)[:2], 0.0)
    network = _torch_classifier(distinct, first, **no_rates).double()
    parameters = list(network.parameters())
    encoder = encoder_of(network)
    encoder.layer = torch.nn.ModuleList([torch_plan(distinct, plan, encoder.layer)])
    every = torch_inputs(distinct, np.stack(encoded.tokens), np.full(16, 32))
    with torch.no_grad():
        before = network.eval()(**every).logits.numpy()
    network.train()
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.learning_rate, weight_decay=0.0)
    batches = labelled_batches(encoded, labels, *shuffled(16, SETTINGS.batch_size, 1, seed=0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    for (batch,) in batches(0):
        tokens, lengths, _ = batch.inputs
        loss = network(**torch_inputs(distinct, tokens, lengths), labels=torch.tensor(batch.targets).long()).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
        optimizer.step()
        schedule.step()
    tuned = tune_encoder(model, plan, encoded, labels, 2, 0, SETTINGS)
    with torch.no_grad():
        expected = network.eval()(**every).logits.numpy()
    assert np.abs(expected - before).max() > 1e-3, "so little training would show no difference"
    np.testing.assert_allclose(tuned.logits(encoded), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_without_a_pooler_training_makes_one_and_frozen_is_refused(distinct: str) -> None:
    from jaxpaint.models.family import require_pooler

    model, (encoded, labels) = loaded(distinct, "" if VARIATIONS[distinct].joint_head else "MaskedLM"), _examples()
    with pytest.raises(UserError, match=r"no pooler.*fine-tuned, it gets a new one"):
        require_pooler(model.config)
    tuned = tune_encoder(model, Plan.parse("0-4"), encoded, labels, 2, 0, SETTINGS)
    pooler = tuned.parameters["encoder"]["classifier_dense"]
    assert pooler.get("dense", pooler)["kernel"].shape == (32, 32)
    assert np.isfinite(tuned.logits(encoded)).all()


def test_config(name: str) -> None:
    raw = json.loads(config_of(name).to_json_string())
    config = from_huggingface(raw)
    assert config.max_position_embeddings == VARIATIONS[name].positions
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for change, named in (
        ({"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"something_new": 3}, "something_new=3"),
        *REFUSED.get(name, ()),
    ):
        with pytest.raises(ConfigError, match=named):
            from_huggingface({**raw, **change})


REFUSED: dict[str, Any] = {
    "roberta": (
        ({"pad_token_id": 61}, "pad_token_id=61"),
        ({"pad_token_id": 39}, "max_position_embeddings=40"),
        ({"num_attention_heads": 5}, "num_attention_heads=5"),
    ),
    "distilbert": (
        ({"hidden_size": 16}, "hidden_size=16 and dim=32"),
        ({"hidden_act": "relu"}, "hidden_act='relu' and activation='gelu'"),
        ({"attention_dropout": 1.0}, "attention"),
    ),
    "mpnet": (({"relative_attention_num_buckets": 64}, "relative_attention_num_buckets=64"),),
    "modernbert": (
        ({"decoder_bias": False}, "decoder_bias=false"),
        ({"deterministic_flash_attn": True}, "deterministic_flash_attn=True"),
        ({"classifier_pooling": "max"}, "classifier_pooling='max'"),
        ({"hidden_activation": "tanh"}, "hidden_activation='tanh'"),
        ({"classifier_activation": "mish"}, "classifier_activation='mish'"),
        ({"layer_types": ["full_attention"] * 4}, "layer_types=.* for 5 layers"),
        ({"layer_types": ["chunked_attention"] * 5}, "layer_types=.* for 5 layers"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling="),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}}, "rope_parameters="),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}, "rope_parameters="),
        ({"rope_parameters": {"full_attention": {"factor": 2.0}}}, "full_attention .*'factor': 2.0"),
        ({"rope_parameters": None, "local_rope_theta": None}, "local_rope_theta=null"),
        ({"sliding_window": 3}, "sliding_window=3"),
        ({"num_attention_heads": 32}, "heads of 1 numbers"),
    ),
}


def test_buckets_of_distances_are_transformers() -> None:
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    from jaxpaint.models.encoder import distance_buckets

    distances = np.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(distances)).numpy()
    np.testing.assert_array_equal(distance_buckets(distances, 32), expected)
