"""Families beside Llama against transformers: plans, caches, training, export, devices. One joins by a name below."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict
from jax.sharding import AbstractMesh

from convert import convert, export
from jaxpaint.base.precision import ROUTERS
from jaxpaint.engine.layers import layer_stack
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.whole import start
from jaxpaint.generation import Prompt
from jaxpaint.models import abstract_parameters, from_huggingface
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.sharding import DATA, MODEL, parameter_sharding
from jaxpaint.plans.plan import Plan
from jaxpaint.training.heal import distillation
from tests.generation.test_generation import by_full_passes, generated, random_prompts, with_mean_slots
from tests.helpers.decoders import LONGEST, Tiny, make_tiny, named, stacked_parameters
from tests.helpers.oracle import run_slowly
from tests.training.test_heal import ALL_WEIGHTS, last_batch, loss_and_gradient, torch_loss

# Variations of `tests.helpers.decoders`; each is of a family of its own, or of other code.
FAMILIES = [
    *("falcon", "falcon, new", "gemma", "gemma2", "gemma3", "gpt2", "mixtral", "olmo2", "olmo3", "phi3"),
    *("qwen2, windows in turn", "qwen2_moe", "qwen3", "qwen3_moe", "stablelm"),
]
LENGTHS = np.array([LONGEST, 3, 15])
SERIES = ("0-4", "4-0", "0 2 1 3 4", "0 (1 2)*2 4", "2*3")
GROUPS = ("0 {1-3} 4", "0 {(1 {2@0.5 3})@0.75 2}*2 4", "0 sum{1 2} 3 4", "{0-4}*2", "0 1a {3 2m} 4m")
STATIC = GROUPS[1]

# What the others have of their own, a series shows; their groups and caches are as those of these.
FIRST = ("gemma3", "gpt2", "mixtral", "olmo2")
SOME = [each if each in FIRST else pytest.param(each, marks=pytest.mark.slow) for each in FAMILIES]

of_each_family = pytest.mark.parametrize("tiny", FAMILIES, indirect=True)
of_some_families = pytest.mark.parametrize("tiny", SOME, indirect=True)


def _close(ours: Any, theirs: Any) -> None:
    """Within 1e-5 of the largest logit, wherever there is text."""
    assert np.asarray(theirs).std() > 0.3, "logits this flat would not show a difference"
    for row, length in enumerate(LENGTHS):
        part = np.asarray(theirs)[row, :length]
        np.testing.assert_allclose(np.asarray(ours)[row, :length], part, rtol=0, atol=1e-5 * np.abs(part).max())


@of_each_family
@pytest.mark.few(3)
def test_series_plans_are_transformers_with_its_layers_rearranged(tiny: Tiny, texts: np.ndarray) -> None:
    for plan in map(Plan.parse, SERIES):
        theirs = tiny.torch_logits(texts, LENGTHS, plan.sequence())
        _close(tiny.model.logits(texts, plan, LENGTHS), theirs)


@of_some_families
@pytest.mark.few(1)
def test_parallel_plans_are_the_slow_twin(tiny: Tiny, texts: np.ndarray) -> None:
    block, stacked = layer_stack(tiny.module)
    layer, inputs = jax.jit(block, static_argnames="part"), Inputs(jnp.array(texts), jnp.array(LENGTHS), None)
    for plan in map(Plan.parse, GROUPS):
        expected, _ = run_slowly(layer, stacked, plan, *start(tiny.module, inputs))
        for static in (False, True) if str(plan) == STATIC else (False,):
            _close(tiny.model.logits(texts, plan, LENGTHS, static=static), tiny.module.logits(expected))


@of_some_families
@pytest.mark.few(1)
def test_what_is_written_with_a_cache_is_what_full_passes_write(tiny: Tiny) -> None:
    prompts = random_prompts(1, 3, 34)
    plans = [tiny.model.full_plan, Plan.parse("0 {1-3}*2 4")]
    for (plan, number), tokens in generated(tiny, prompts, plans).items():
        assert tokens == by_full_passes(tiny, prompts[number], plans[plan])
        if plan == 0:
            text, count = torch.tensor([prompts[number].tokens]), prompts[number].max_new_tokens
            greedy = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": count}
            theirs = tiny.torch.generate(text, attention_mask=torch.ones_like(text), **greedy)
            assert tokens == tuple(theirs[0, text.shape[1] :].tolist())


@pytest.mark.slow
@of_each_family
def test_what_is_written_with_a_mean_cache(tiny: Tiny) -> None:
    plan, prompts = Plan.parse("0 {1 2}*2 4"), [Prompt(each.tokens, 5) for each in random_prompts(5, 1, 33, longest=6)]
    for (_, number), tokens in generated(tiny, prompts, [plan], kv="mean").items():
        assert tokens == with_mean_slots(tiny, prompts[number], plan)


@of_some_families
def test_an_exported_plan_has_the_logits_of_the_plan(tiny: Tiny, tmp_path: Any, texts: np.ndarray) -> None:
    plan = Plan.parse("0 3 1*2")
    tiny.torch.save_pretrained(tmp_path / "model")
    exported = export(convert(tmp_path / "model", tmp_path / "store"), tmp_path / "exported", plan)
    network = transformers.AutoModelForCausalLM.from_pretrained(exported, attn_implementation="eager")
    with torch.no_grad():
        theirs = network(torch.tensor(texts)).logits.numpy()
    ours = np.asarray(tiny.model.logits(texts, plan))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.slow
@of_each_family
def test_healing_has_the_gradient_of_torch(tiny: Tiny) -> None:
    plan = Plan.parse("0 1 4")
    (batch,), student = last_batch(tiny.model), _with_layers(tiny, plan.sequence())
    expected = torch_loss(tiny, student, batch, 1.0)
    expected.backward()
    loss, first = distillation(tiny.model, plan, ALL_WEIGHTS)
    value, gradient = loss_and_gradient(loss, first, batch)
    assert value == pytest.approx(expected.item(), rel=1e-5)
    gradients = {name: each.grad for name, each in student.named_parameters()}
    wanted = flatten_dict({"blocks": stacked_parameters(gradients, 3)["blocks"]}, sep="/")
    found = flatten_dict(gradient, sep="/")
    assert found.keys() == wanted.keys()
    assert max(float(abs(each).max()) for each in wanted.values()) > 1e-2
    for path, leaf in wanted.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=1e-5, err_msg=path)


@of_each_family
def test_silence_is_what_transformers_writes_out(tiny: Tiny) -> None:
    """A config.json of the sizes alone is that in which transformers has written every default."""
    sizes = {"vocab_size": 64, "hidden_size": 256, "intermediate_size": 32, "num_hidden_layers": 9}
    raw = named({"model_type": tiny.model.config.model_type, **sizes, "num_attention_heads": 32})
    theirs = transformers.AutoConfig.for_model(**raw)
    config = from_huggingface(raw)
    assert config == from_huggingface(json.loads(theirs.to_json_string()))
    # Qwen2-MoE writes a window of 0 for none, Mixtral no size of a head.
    implied = {"sliding_window": None, "head_dim": 256 // 32}
    for name in vars(config).keys() & vars(theirs).keys() - {"rope_scaling"}:
        value, expected = getattr(config, name), getattr(theirs, name)
        expected = expected or implied.get(name, expected)
        assert (list(value) if isinstance(value, tuple) else value) == expected, name


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("qwen3", {"layer_types": ["full_attention"]}),
        ("qwen3", {"num_experts": 8}),
        ("qwen3", {"partial_rotary_factor": 0.5}),
        ("olmo2", {"sliding_window": 4}),
        ("olmo2", {"clip_qkv": 8.0}),
        ("olmo3", {"rope_local_base_freq": 30.0}),
        ("olmo3", {"sliding_window": None}),
        ("falcon", {"alibi": True}),
        ("falcon", {"num_ln_in_parallel_attn": 2}),
        ("falcon, new", {"parallel_attn": False}),
        ("falcon, new", {"num_kv_heads": 3}),
        ("phi3", {"attention_bias": True}),
        ("phi3", {"full_attn_mod": 2}),
        ("phi3", {"sliding_window": -1}),
        ("phi3", {"rope_parameters": {"partial_rotary_factor": 0.4}}),
        ("stablelm", {"use_parallel_residual": True}),
        ("stablelm", {"qk_layernorm": True}),
        ("stablelm", {"head_dim": 4}),
        ("stablelm", {"rope_parameters": {"partial_rotary_factor": 0.1}}),
    ],
)
def test_what_changes_the_result_is_refused_by_name(family: str, change: dict[str, Any]) -> None:
    raw = make_tiny(family).raw_config
    from_huggingface(raw)
    (name,) = change
    with pytest.raises(ConfigError, match=name.replace("rope_parameters", "partial_rotary_factor")):
        from_huggingface({**raw, **change})


@of_each_family
def test_every_kernel_of_layers_is_split(tiny: Tiny) -> None:
    """Of what tensor parallelism may split no family's kernel is forgotten."""
    place = parameter_sharding(AbstractMesh((1, 2), (DATA, MODEL)))
    parameters = abstract_parameters(tiny.model.config, jnp.float32)
    whole = [path for path, leaf in parameters.items() if MODEL not in place(path, leaf.shape).spec]
    assert not [
        path
        for path in whole
        if path.startswith("blocks/") and path.endswith("kernel") and path.split("/")[-2] not in ROUTERS
    ]


SPLIT = """
import numpy as np
from flax import nnx
from jaxpaint.engine.model import from_parameters
from jaxpaint.models.sharding import device_mesh, placed
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import make_tiny

tokens, plan = np.random.default_rng(0).integers(0, 61, (4, 24)), Plan.parse("0 {1-3}*2 4")
for name in NAMES:
    model, mesh = make_tiny(name).model, device_mesh(2)
    split = from_parameters(model.config, placed(nnx.to_pure_dict(model.state), mesh), mesh=mesh)
    expected = np.asarray(model.logits(tokens, plan))
    difference = np.abs(expected - split.logits(tokens, plan)).max()
    assert difference < 1e-5 * np.abs(expected).max(), (name, difference)
    print("equal", name)
"""


@pytest.mark.slow
def test_logits_of_split_weights_are_those_of_one_device() -> None:
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", f"NAMES = {FAMILIES}" + SPLIT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"equal {name}" for name in FAMILIES], done.stderr


def _with_layers(tiny: Tiny, layers: tuple[int, ...]) -> Any:
    """A copy of the torch model in float64 with some of its layers, each of its own kind."""
    network = copy.deepcopy(tiny.torch).double().train()
    kept = torch.nn.ModuleList(getattr(network.base_model, tiny.layers_name)[index] for index in layers)
    setattr(network.base_model, tiny.layers_name, kept)
    network.config.num_hidden_layers = len(layers)
    kinds = getattr(network.config, "layer_types", None)
    if kinds:
        network.config.layer_types = [kinds[index] for index in layers]
    return network
