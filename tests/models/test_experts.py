"""Mixtures of experts beyond tests/models/test_families.py: any choice is computed exactly, kernels in integers."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxpaint as jp
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import from_parameters
from jaxpaint.models import from_dict, from_huggingface
from jaxpaint.models.experts import by_expert, routed
from jaxpaint.models.family import Experts
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.quantised import dequantised
from jaxpaint.plans.plan import Plan
from jaxpaint.training.heal import trained_parameters
from tests.helpers.decoders import VOCAB_SIZE, make_tiny
from tests.models.test_checkpoint import save


@pytest.mark.parametrize(
    ("tokens", "count", "favourite"),
    [(1, 6, None), (5, 3, None), (300, 4, None), (300, 4, 2), (40, 64, None)],
    ids=["one token", "few", "whole blocks", "two experts have all", "experts that nobody chooses"],
)
def test_every_token_goes_through_its_experts_and_no_others(tokens: int, count: int, favourite: int | None) -> None:
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(tokens, 8)).astype(np.float32), rng.normal(size=(count, 8, 5)).astype(np.float32)
    chosen = np.argsort(rng.random((tokens, count)))[:, :2]
    if favourite is not None:
        chosen[:] = favourite, count - 1
    run = jax.jit(lambda *given: by_expert(lambda index, rows: rows @ jnp.asarray(kernels)[index], *given, count))
    expected = np.einsum("td,tcdo->tco", x, kernels[chosen])
    np.testing.assert_allclose(run(jnp.asarray(x), jnp.asarray(chosen)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalised", [True, False])
def test_weights_are_probabilities_among_all_experts(normalised: bool) -> None:
    logits = jnp.asarray([[1.0, 3.0, 3.0, 2.0]], jnp.bfloat16)  # of equals the first comes first
    weights, chosen = routed(logits, Experts(4, 3, 8, normalised))
    assert (weights.dtype, chosen.tolist()) == (jnp.float32, [[1, 2, 3]])
    some = np.exp([3.0, 3.0, 2.0]) / (1.0 if normalised else np.exp([1.0, 3.0, 3.0, 2.0]).sum())
    np.testing.assert_allclose(weights[0], some / some.sum() if normalised else some, rtol=1e-6)


@pytest.mark.parametrize("weights", ["int8", pytest.param("int4", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_experts_in_integers_are_the_numbers_that_they_stand_for(weights: Any, tmp_path: Any) -> None:
    tiny = make_tiny("qwen2_moe").model
    model = jp.load(save(tiny, tmp_path / "store"), dtype="float32", weights=weights)
    flat, kept = (flatten_dict(nnx.to_pure_dict(each.state), sep="/") for each in (tiny, model))
    lowered = [path for path in flat if kept[path].dtype.name == weights]
    assert len(lowered) == 10
    assert not [path for path in lowered if path.endswith("gate/kernel")]
    for path in lowered:
        flat[path] = dequantised(kept[path], kept[path.replace("kernel", "scale")])
    twin = from_parameters(tiny.config, unflatten_dict(flat, sep="/"))
    tokens = np.random.default_rng(0).integers(0, VOCAB_SIZE, (2, 12))
    expected = np.asarray(twin.logits(tokens, Plan.parse("0 {1-3}*2 4")))
    found = model.logits(tokens, Plan.parse("0 {1-3}*2 4"))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_adapters_of_experts_are_refused() -> None:
    with pytest.raises(UserError, match="rank 0"):
        trained_parameters(make_tiny("mixtral").model.config, Plan.parse("0 1"), 4)


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("qwen2_moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step=2"),
        ("qwen2_moe", {"layer_types": ["chunked"] * 5}, "layer_types"),
        ("mixtral", {"num_experts_per_tok": 9}, "num_experts_per_tok=9 is more than num_local_experts=4"),
        ("qwen3_moe", {"num_experts": 7}, "num_experts=7, num_local_experts=6"),
        ("mixtral", {"shared_expert_intermediate_size": 8}, "shared_expert_intermediate_size"),
    ],
)
def test_what_changes_the_result_is_refused_by_name(name: str, change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        from_huggingface({**make_tiny(name).raw_config, **change})


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe"])
def test_what_a_store_keeps_is_read_again(name: str) -> None:
    config = make_tiny(name).model.config
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_older_files_count_experts_by_another_name() -> None:
    raw = make_tiny("qwen3_moe").raw_config
    older = {**{key: value for key, value in raw.items() if key != "num_local_experts"}, "num_experts": 6}
    assert from_huggingface(older) == from_huggingface(raw)
