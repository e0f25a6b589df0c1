"""What a decoder's traits can say, against families of transformers that have them. Some are of no family here yet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.model import from_parameters
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.whole import start
from jaxpaint.models.family import Capabilities, Sizes, Traits
from jaxpaint.models.parts import OffsetNorm
from jaxpaint.plans.plan import Plan
from tests.generation.test_generation import by_full_passes, generated, random_prompts
from tests.helpers.decoders import LONGEST, NUM_LAYERS, SIZES, VOCAB_SIZE, WINDOW, Tiny, randomise, stacked_parameters
from tests.helpers.oracle import run_slowly

LENGTHS = np.array([LONGEST, 3, 15])
SERIES = ["0-4", "4-0", "0 2 1 4", "0 (1 3)*2 4", "2*3"]
GROUPS = ["0 {1-3} 4", "0 (1 {2@0.5 3})@0.75*2 4", "0 {(1 {2 3}) 2}*2 4", "0 1a sum{1 2m} 3 4"]
COMMON: dict[str, Any] = {**SIZES, "head_dim": 8}
GPT2 = {"n_embd": 32, "n_inner": 48, "n_layer": NUM_LAYERS, "n_head": 4, "n_positions": 64, "layer_norm_epsilon": 1e-2}


@dataclass(frozen=True)
class Declared(Sizes):
    """A decoder that only these tests know."""

    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    hidden_act: str
    tie_word_embeddings: bool
    traits: Traits
    rope_theta: float = 10000.0
    rope_scaling: None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(flash_attention=self.traits.attention_cap is None)

    def to_dict(self) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class Case:
    """transformers' config, the traits that say the same, and whether its kernels are [out, in]."""

    model_type: str
    values: dict[str, Any]
    traits: dict[str, Any]
    windows: tuple[int | None, ...] = (None,) * NUM_LAYERS
    transposed: bool = True
    hidden_act: str = "silu"


KINDS = ["sliding_attention", "full_attention", "full_attention", "sliding_attention", "full_attention"]
CASES = {
    "norms before and after, offset, caps, scales, windows in turn": Case(
        "gemma2",
        {
            **COMMON,
            "query_pre_attn_scalar": 3,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "sliding_window": WINDOW,
            "layer_types": KINDS,
            "hidden_activation": "gelu_pytorch_tanh",
        },
        {
            "norms": (
                "input_layernorm",
                "post_attention_layernorm",
                "pre_feedforward_layernorm",
                "post_feedforward_layernorm",
            ),
            "norm_offset": True,
            "attention_scale": 3**-0.5,
            "attention_cap": 2.0,
            "logit_cap": 3.0,
            "embedding_scale": 32**0.5,
        },
        tuple(WINDOW if kind == "sliding_attention" else None for kind in KINDS),
        hidden_act="gelu_pytorch_tanh",
    ),
    "learned positions": Case(
        "gpt2",
        {**GPT2, "vocab_size": VOCAB_SIZE},
        {
            "norm": "layer",
            "attention": "attn",
            "projections": ("c_attn", "c_proj"),
            "query_key_value": "joined in blocks",
            "mlp": ("c_fc", "c_proj"),
            "gated": False,
            "norms": ("ln_1", None, "ln_2", None),
            "input_bias": True,
            "output_bias": True,
            "mlp_bias": True,
            "rotary_dim": None,
        },
        transposed=False,
        hidden_act="gelu_new",
    ),
}


@cache
def tiny_of(name: str) -> Tiny:
    case = CASES[name]
    torch_config = transformers.AutoConfig.for_model(case.model_type, **case.values, attn_implementation="eager")
    network = transformers.AutoModelForCausalLM.from_config(torch_config)
    randomise(network.eval())
    own = {"norm": "rms", "epsilon": 1e-2, "windows": case.windows, "rotary_dim": 8, **case.traits}
    config = Declared(
        model_type=case.model_type,
        **{key: value for key, value in COMMON.items() if key != "rms_norm_eps"},
        hidden_act=case.hidden_act,
        tie_word_embeddings=torch_config.tie_word_embeddings,
        traits=Traits(**own),
    )
    if case.model_type == "gpt2":
        config = Declared(**{**vars(config), "num_key_value_heads": 4})
    parameters = stacked_parameters(network.state_dict(), NUM_LAYERS, transposed=case.transposed)
    return Tiny(network, from_parameters(config, parameters))


def _close(ours: Any, theirs: np.ndarray) -> None:
    """Within 1e-5 of the largest logit, wherever there is text."""
    assert theirs.std() > 0.3, "logits this flat would not show a difference"
    for row, length in enumerate(LENGTHS):
        np.testing.assert_allclose(
            np.asarray(ours)[row, :length], theirs[row, :length], rtol=0, atol=1e-5 * np.abs(theirs).max()
        )


@pytest.mark.parametrize("name", CASES)
def test_series_plans_are_transformers_with_its_layers_rearranged(name: str, texts: np.ndarray) -> None:
    tiny = tiny_of(name)
    for plan in map(Plan.parse, SERIES):
        theirs = tiny.torch_logits(texts, LENGTHS, plan.sequence())
        _close(tiny.model.logits(texts, plan, LENGTHS), theirs)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_parallel_plans_are_the_slow_twin(name: str, texts: np.ndarray) -> None:
    tiny = tiny_of(name)
    block, stacked = layer_stack(tiny.module)
    inputs = Inputs(jnp.array(texts), jnp.array(LENGTHS), None)
    for plan in map(Plan.parse, GROUPS):
        expected, _ = run_slowly(jax.jit(block, static_argnames="part"), stacked, plan, *start(tiny.module, inputs))
        for static in (False, True):
            found = tiny.model.logits(texts, plan, LENGTHS, static=static)
            _close(found, np.asarray(tiny.module.logits(expected)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_what_is_written_with_a_cache_is_what_full_passes_write(name: str) -> None:
    tiny, plan = tiny_of(name), Plan.parse("0 {1-3}*2 4")
    prompts = random_prompts(1, 4, 34)
    for (_, prompt), tokens in generated(tiny, prompts, [plan]).items():
        assert tokens == by_full_passes(tiny, prompts[prompt], plan)


def test_bfloat16_norms_with_an_offset_keep_their_statistics_in_float32() -> None:
    x = jnp.array(1 + np.random.default_rng(0).random((4, 4096)), jnp.bfloat16)
    exact = torch.nn.functional.rms_norm(torch.tensor(np.asarray(x, np.float64)), (4096,), eps=1e-6).numpy()
    normed = OffsetNorm(4096, 1e-6, jnp.bfloat16)(x)
    assert normed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(normed, np.float64), exact, rtol=2**-8)
