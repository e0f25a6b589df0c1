"""Qwen2 beyond what runs over every variation: windows in some of its layers, under plans, exported and with caches."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from convert import convert, export
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import start
from jaxpaint.engine.rows import Inputs
from jaxpaint.models import from_dict, from_huggingface, with_layers
from jaxpaint.models.fields import ConfigError
from jaxpaint.plans.plan import Plan
from tests.generation.test_generation import by_full_passes, generated, random_prompts
from tests.helpers.decoders import LONGEST, NUM_LAYERS, WINDOW, make_tiny
from tests.helpers.oracle import run_slowly

VARIATIONS = ["qwen2", "qwen2, windows in turn"]
LENGTHS = np.array([LONGEST, 3, 15])


def _close(ours: Any, theirs: Any) -> None:
    """Within 1e-5 of the largest logit, wherever there is text."""
    for row, length in enumerate(LENGTHS):
        part = np.asarray(theirs)[row, :length]
        np.testing.assert_allclose(np.asarray(ours)[row, :length], part, rtol=0, atol=1e-5 * np.abs(part).max())


@pytest.mark.smoke
@pytest.mark.parametrize("plan", ["0-4", "4-0", "0 2 1 3 4", "0 (1 2)*2 4", "2*3"])
@pytest.mark.parametrize("variation", VARIATIONS)
def test_series_plans_are_transformers_with_its_layers_rearranged(variation: str, plan: str, texts: np.ndarray) -> None:
    tiny, order = make_tiny(variation), Plan.parse(plan)
    theirs = tiny.torch_logits(texts, LENGTHS, order.sequence())
    for static in (False, True):
        _close(tiny.model.logits(texts, order, LENGTHS, static=static), theirs)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_parallel_plans_are_the_slow_twin(variation: str, texts: np.ndarray) -> None:
    tiny = make_tiny(variation)
    block, stacked = layer_stack(tiny.module)
    layer, inputs = jax.jit(block), Inputs(jnp.array(texts), jnp.array(LENGTHS), None)
    for text in ("0 {1-3} 4", "0 {(1 {2 3}) 2}*2 4", "0 sum{1 2} 3 4", "{0-4}*2", "0 {1 3}*3 4"):
        plan = Plan.parse(text)
        expected, _ = run_slowly(layer, stacked, plan, *start(tiny.module, inputs))
        _close(tiny.model.logits(texts, plan, LENGTHS), tiny.module.logits(expected))


@pytest.mark.parametrize("variation", VARIATIONS)
def test_an_exported_plan_keeps_each_layers_window(variation: str, tmp_path: Any, texts: np.ndarray) -> None:
    tiny, plan = make_tiny(variation), Plan.parse("0 3 1*2")
    tiny.torch.save_pretrained(tmp_path / "model")
    exported = export(convert(tmp_path / "model", tmp_path / "store"), tmp_path / "exported", plan)
    network = AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    with torch.no_grad():
        theirs = network(torch.tensor(texts)).logits.numpy()
    np.testing.assert_allclose(tiny.model.logits(texts, plan), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variation", VARIATIONS)
def test_what_is_written_with_a_cache(variation: str) -> None:
    tiny, prompts = make_tiny(variation), random_prompts(1, 3, 34)
    plans = [tiny.model.full_plan, Plan.parse("0 {1-3}*2 4")]
    for (plan, number), tokens in generated(tiny, prompts, plans).items():
        prompt = prompts[number]
        assert tokens == by_full_passes(tiny, prompt, plans[plan])
        if plan == 0:
            theirs = tiny.torch.generate(
                torch.tensor([prompt.tokens]),
                attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
                max_new_tokens=prompt.max_new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
            assert tokens == tuple(theirs[0, len(prompt.tokens) :].tolist())


def test_windows_are_read_as_transformers_reads_them() -> None:
    raw = make_tiny("qwen2, windows in turn").raw_config
    config = from_huggingface(raw)
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.traits.windows == (None, WINDOW, None, WINDOW, None)
    assert with_layers(config, (3, 0)).traits.windows == (WINDOW, None)
    older = {**{name: value for name, value in raw.items() if name != "layer_types"}, "max_window_layers": 3}
    assert from_huggingface(older).traits.windows == (None,) * 3 + (WINDOW,) * 2
    assert from_huggingface({**older, "use_sliding_window": False}).traits.windows == (None,) * NUM_LAYERS


@pytest.mark.parametrize(
    "change", [{"layer_types": ["full_attention"]}, {"layer_types": ["chunked"] * 5}, {"use_sliding_window": False}]
)
def test_other_kinds_of_layers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="layer_types"):
        from_huggingface({**make_tiny("qwen2, windows in turn").raw_config, **change})
