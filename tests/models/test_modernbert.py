"""What ModernBERT alone has: a first layer without a norm, heads of published checkpoints, older config.json files."""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import jaxpaint as jp
from convert import compose, convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import from_parameters
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.whole import start
from jaxpaint.models.checkpoint import read_config
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import randomise
from tests.helpers.encoders import MODERNBERT
from tests.helpers.oracle import run_slowly

RANDOM = np.random.default_rng(0)
TOKENS = RANDOM.integers(4, MODERNBERT["vocab_size"], (2, 16))
LENGTHS = np.array([16, 6])
# As answerdotai/ModernBERT-base has it: no biases but the head's, read by transformers 4's names.
PUBLISHED = {
    **{name: MODERNBERT[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
    **{"model_type": "modernbert", "num_attention_heads": 4, "max_position_embeddings": 40, "pad_token_id": 1},
    **{"global_rope_theta": 700.0, "local_rope_theta": 20.0, "global_attn_every_n_layers": 2, "local_attention": 6},
    **{"attention_bias": False, "norm_bias": False, "mlp_bias": False, "classifier_bias": False, "decoder_bias": True},
    **{"layer_norm_eps": 1e-05, "norm_eps": 1e-2, "position_embedding_type": "absolute", "classifier_pooling": "cls"},
    **{"deterministic_flash_attn": False, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02},
    **{"hidden_activation": "gelu", "classifier_activation": "gelu", "embedding_dropout": 0.0, "mlp_dropout": 0.0},
    **{"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "tie_word_embeddings": True},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[transformers.PreTrainedModel, Path]:
    """transformers' classifier of such a config.json, and the store of it."""
    folder = tmp_path_factory.mktemp("modernbert")
    config = transformers.AutoConfig.for_model(**PUBLISHED, attn_implementation="eager")
    network = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    randomise(network)
    network.save_pretrained(folder / "model")
    (folder / "model" / "config.json").write_text(json.dumps(PUBLISHED))
    return network, convert(folder / "model", folder / "store")


def _close(ours: object, theirs: object) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.slow
def test_a_published_classifier_is_read_as_transformers_reads_it(published: tuple) -> None:
    network, store = published
    seen = torch.tensor(np.arange(16) < LENGTHS[:, None]).long()
    with torch.no_grad():
        expected = network(torch.tensor(TOKENS), attention_mask=seen).logits.numpy()
        pooled = torch.tensor(np.array(jp.load(store, dtype="float32").pooled(TOKENS, lengths=LENGTHS)))
        _close(network.classifier(pooled), expected)
    assert not {"blocks/attention/qkv_proj/bias", "blocks/mlp_norm/bias", "norm/bias"} & _paths(store)


def _paths(store: Path) -> set[str]:
    return set(json.loads((store / "manifest.json").read_text())["tensors"])


@pytest.mark.slow
def test_a_layer_without_a_norm_stays_one_in_other_models(published: tuple, tmp_path: Path) -> None:
    _, store = published
    model = jp.load(store, dtype="float32")
    composed = compose({"A": store}, "3 0 1 0", tmp_path / "composed")
    assert read_config(composed).attention_norms == (True, False, True, False)  # type: ignore[attr-defined]
    found = jp.load(composed, dtype="float32").pooled(TOKENS, lengths=LENGTHS)
    _close(found, model.pooled(TOKENS, Plan.of([3, 0, 1, 0]), LENGTHS))
    for given, plan in ((store, "1-4"), (store, "0 1 0 2"), (composed, "0-3")):
        with pytest.raises(UserError, match=r"no norm before the attention of its first layer.*begins with a layer"):
            export(given, tmp_path / "exported", Plan.parse(plan))
    with pytest.raises(UserError, match=r"layers 0, 2 are of different kinds: \[False, True\]"):
        compose({"A": store}, "merge(0 2) 3", tmp_path / "merged")


def test_the_norm_that_it_lacks_is_nothing_that_is_read(published: tuple) -> None:
    model = jp.load(published[1], dtype="float32")
    parameters = nnx.to_pure_dict(model.state)
    norm = parameters["blocks"]["attention_norm"]
    norm["scale"] = norm["scale"].at[0].set(jnp.nan)
    changed = from_parameters(model.config, parameters)
    np.testing.assert_array_equal(changed.pooled(TOKENS, "4-0"), model.pooled(TOKENS, "4-0"))


@pytest.mark.slow
def test_feed_forwards_share_norms_as_the_slow_twin_has_it(published: tuple) -> None:
    model = jp.load(published[1], dtype="float32")
    module = nnx.merge(model.graphdef, model.state)
    block, stacked = layer_stack(module)
    inputs = Inputs(jnp.array(TOKENS), jnp.array(LENGTHS), None)
    for plan in map(Plan.parse, ("0 lp{1 2} 3m~0 4", "1 {0a 3m~0} 4")):
        expected, _ = run_slowly(block, stacked, plan, *start(module, inputs))
        _close(model.pooled(TOKENS, plan, LENGTHS), module.pooled(expected, inputs.lengths))
