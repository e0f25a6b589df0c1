"""Generation: equal to plain forward passes of the same plan, for many prompts and plans at once."""

from __future__ import annotations

import gc
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.base import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine import model as models
from jaxpaint.generation import Prompt, generate, layout, serve
from jaxpaint.generation import decode as engine
from jaxpaint.models import attention as ops
from jaxpaint.models import blockwise
from jaxpaint.plans.plan import Layer, Plan, PlanError
from jaxpaint.plans.tree import units
from tests.helpers.decoders import NUM_LAYERS, VOCAB_SIZE, Tiny, make_tiny

NEW = 6
LONGEST = 64  # tokens of a text, with what is written
PLANS = [
    Plan.parse(text)
    for text in (
        "0-4",
        "0 {1-3} 4",
        "0 {1-3}*3 4",
        "0 {1-3}*2 4",
        "0 2 1 3 4",
        "0 4",
        "0 2*3 4",
        "0 sum{1 2} 3 4",
        "0@0.5 {1@0.75 (2 {3 1}@2)}*2 4",
        "0 {(1 {2 3}) 2} 4",
        "0 1a {2m 3a (1 2m)} 4",
        "0 lp{1 2} 3 4",
        "0-4",
    )
]


def random_prompts(seed: int, count: int, shared: int = 0, longest: int = 20, new: int = NEW) -> list[Prompt]:
    draw = np.random.default_rng(seed)
    trunk = draw.integers(0, VOCAB_SIZE, shared).tolist()
    own = [draw.integers(0, VOCAB_SIZE, draw.integers(1, longest)).tolist() for _ in range(count)]
    return [Prompt((*trunk, *tokens), int(draw.integers(1, new + 1))) for tokens in own]


def by_full_passes(tiny: Tiny, prompt: Prompt, plan: Plan) -> tuple[int, ...]:
    """One forward pass of the plan over the whole text for every token."""
    tokens = list(prompt.tokens)
    for _ in range(prompt.max_new_tokens):
        padded = np.zeros((1, LONGEST), np.int32)
        padded[0, : len(tokens)] = tokens
        logits = np.asarray(tiny.model.logits(padded, plan, [len(tokens)]))[0, len(tokens) - 1]
        tokens.append(int(logits.argmax()))
    return tuple(tokens[len(prompt.tokens) :])


def generated(tiny: Tiny, prompts, plans, **options) -> dict[tuple[int, int], tuple[int, ...]]:
    found = list(generate(tiny.model, prompts, plans, **options))
    assert len(found) == len(prompts) * len(plans)
    assert all(each.ending == "length" for each in found)
    return {(each.plan, each.prompt): each.tokens for each in found}


@pytest.mark.parametrize("shared", [0, 35], ids=["no trunk", "trunk"])
@pytest.mark.slow
def test_every_plan_writes_what_full_passes_of_it_do(shared):
    tiny = make_tiny("grouped-query")
    prompts = random_prompts(shared, 7, shared)
    found = generated(tiny, prompts, PLANS, batch_size=3)
    for (plan, prompt), tokens in found.items():
        assert tokens == by_full_passes(tiny, prompts[prompt], PLANS[plan]), (PLANS[plan], prompt)


FEW = ["grouped-query", "sliding window", "llama3 rope", "head size", "neox", "neox, residuals in series"]


@pytest.mark.parametrize("tiny", FEW, indirect=True)
@pytest.mark.slow
def test_variations_of_the_family(tiny):
    plan = Plan.parse("0 {1-3}*2 4")
    prompts = random_prompts(1, 4, 34)
    for (_, prompt), tokens in generated(tiny, prompts, [plan]).items():
        assert tokens == by_full_passes(tiny, prompts[prompt], plan)


@pytest.mark.parametrize("tiny", ["tied embeddings", "attention bias", "sliding window", "neox"], indirect=True)
@pytest.mark.few(1)
def test_full_plan_equals_transformers(tiny):
    prompts = random_prompts(2, 3)
    for (_, number), tokens in generated(tiny, prompts, [tiny.model.full_plan]).items():
        prompt = prompts[number]
        with torch.no_grad():
            theirs = tiny.torch.generate(
                torch.tensor([prompt.tokens]),
                attention_mask=torch.ones(1, len(prompt.tokens), dtype=torch.long),
                max_new_tokens=prompt.max_new_tokens,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
            )
        assert tokens == tuple(theirs[0, len(prompt.tokens) :].tolist())


@pytest.mark.parametrize("tiny", ["grouped-query", "sliding window", "gemma3"], indirect=True)
@pytest.mark.few(1)
def test_long_prompts_are_read_block_by_block(tiny, monkeypatch):
    monkeypatch.setattr(serve, "LONG_CHUNK", 32)
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    lookbacks, original = [], engine.prefill

    def noted(*arguments):
        lookbacks.append(arguments[-1])
        return original(*arguments)

    monkeypatch.setattr(engine, "prefill", noted)
    prompts, plan = random_prompts(5, 5, longest=55), Plan.parse("0 {1-3}*2 4")
    for (_, prompt), tokens in generated(tiny, prompts, [plan]).items():
        assert tokens == by_full_passes(tiny, prompts[prompt], plan)
    assert set(lookbacks) == {None}


@pytest.mark.slow
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 9),
    shared=st.sampled_from([0, 33, 38]),
    batch_size=st.integers(1, 9),
    chunk=st.sampled_from([16, 32, 512]),
    cache_tokens=st.sampled_from([400, 700, 10**6]),
)
def test_neither_batches_nor_chunks_nor_waves_change_what_is_written(
    seed, count, shared, batch_size, chunk, cache_tokens
):
    tiny = make_tiny("grouped-query")
    prompts, plans = random_prompts(seed, count, shared), PLANS[:3]
    bytes_per_token = 32 * 2 * 2 * 8 * 4  # slots, keys and values, heads, head size, float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budgets, "CPU", replace(budgets.CPU, prefill_tokens=chunk))
        patch.setattr(serve, "row_length", lambda cost, smallest=16: 32)
        found = generated(tiny, prompts, plans, batch_size=batch_size, cache_bytes=cache_tokens * bytes_per_token)
    for (plan, prompt), tokens in found.items():
        assert tokens == by_full_passes(tiny, prompts[prompt], plans[plan])


@pytest.mark.parametrize(
    "plan", ["0-4", "0 {1-3}*2 4", "0 sum{1 2} 3 4", "0 {(1 {2 3}) 2}*2 4", "0 {1 (2 3)@0.5}@0.5 4"]
)
@pytest.mark.parametrize("static", [False, True], ids=["as data", "compiled"])
@pytest.mark.slow
def test_one_plan_as_data_and_compiled(plan, static):
    tiny, plan = make_tiny("multi-query"), Plan.parse(plan)
    prompts = random_prompts(9, 5, 33, longest=6)
    for (_, prompt), tokens in generated(tiny, prompts, [plan], static=static, batch_size=2).items():
        assert tokens == by_full_passes(tiny, prompts[prompt], plan)


@pytest.mark.parametrize(("kv", "of_means"), [("exact", 0), ("mean", 1)])
@pytest.mark.slow
def test_three_executables_for_any_number_of_plans(kv, of_means):
    """Two read prompts, series of layers and groups. A mean cache has one more, which averages it after that."""
    tiny = make_tiny("multi-head")
    for executable in (engine.prefill, engine.decode, engine.begin_with_means):
        executable.clear_cache()
    prompts = random_prompts(3, 6, 34)
    series = [Plan.parse(text) for text in ("0-4", "4-0", "0 2 1 3 4", "0 4", "2*9")]
    # A loaded model is bound to a device, and so is what is computed of it.
    tiny = replace(tiny, model=replace(tiny.model, state=jax.device_put(tiny.model.state, jax.devices()[0])))
    whole = [plan for plan in PLANS if not plan.has_sublayers]
    several = [Plan.parse("0 {1-3} 4"), *series] if kv == "mean" else [*whole, *series]
    generated(tiny, prompts, several, batch_size=4, kv=kv)
    generated(tiny, prompts, [Plan.parse("{0-4}*3"), *series], batch_size=4, kv=kv)
    assert (engine.prefill.executables(), engine.decode.executables()) == (2, 1)
    assert engine.begin_with_means.executables() == of_means


@pytest.mark.slow
def test_shared_work_is_prefilled_once(monkeypatch):
    """The trunk once, not for each prompt; the layers that plans share once, not for each plan."""
    tiny = make_tiny("grouped-query")
    calls = []
    original = engine.prefill

    def counted(*arguments):
        calls.append((int(arguments[5]), int(arguments[7])))
        return original(*arguments)

    monkeypatch.setattr(engine, "prefill", counted)
    monkeypatch.setattr(budgets, "CPU", replace(budgets.CPU, prefill_tokens=48))
    prompts = random_prompts(4, 6, 40, longest=8)
    generated(tiny, prompts, [Plan.parse("0-3 4"), Plan.parse("0-3 2")])
    # (layers, before) of a chunk of the trunk and one of all prompts' own parts: 0-3 once, then each plan's last.
    assert calls == [(4, 0)] * 2 + [(1, 4)] * 4


@pytest.mark.slow
def test_a_row_whose_text_ended_goes_to_a_prompt_that_waits(monkeypatch):
    """One long answer and eight short ones, in two rows, take no more steps than the long one."""
    tiny = make_tiny("grouped-query")
    steps = []
    original = engine.decode

    def counted(*arguments):
        rows, written, finite = original(*arguments)
        steps.append(int((np.asarray(written) >= 0).any(axis=1).sum()))
        return rows, written, finite

    monkeypatch.setattr(engine, "decode", counted)
    # The longest prompts go first.
    prompts = [Prompt(tuple(range(1, 20)), 16), *(Prompt((number, 3), 2) for number in range(8))]
    generated(tiny, prompts, [tiny.model.full_plan], batch_size=2)
    assert sum(steps) == 16


# --- The mean cache ---------------------------------------------------------------------------------------


def with_mean_slots(tiny: Tiny, prompt: Prompt, plan: Plan) -> tuple[int, ...]:
    """The released code's cache as it describes itself, in plain Python: no batch, no slots but one a group.

    Prompts and slots are padded with what nothing sees, as each length would compile every operation again.
    """
    module, config = tiny.module, tiny.model.config
    steps, kinds, windows = list(units(plan)), module.layer_kinds, module.traits.windows
    slots = np.zeros((len(steps), 2, LONGEST, config.num_key_value_heads, config.head_dim), np.float32)

    def through(index: int, x, context, past) -> tuple:
        key, value = past.transpose(0, 2, 1, 3)[:, None]
        at, back = np.arange(LONGEST), windows[index] or LONGEST
        written = ((at < fed) & (fed + np.arange(x.shape[1])[:, None] - at < back))[None, None]
        context = context if kinds is None else context.of_kind(kinds[index])
        return tiny.block(index).with_past(x, context, [ops.Past(jnp.array(key), jnp.array(value), jnp.array(written))])

    tokens = list(prompt.tokens)
    fed = 0
    while len(tokens) - len(prompt.tokens) < prompt.max_new_tokens:
        count = len(tokens) - fed
        new = jnp.array([tokens[fed:] + [0] * (0 if fed else LONGEST - count)])
        positions = fed + jnp.arange(new.shape[1])[None]
        context = module.context(positions, jnp.full_like(positions, LONGEST))
        x = module.embed(new, positions)
        for number, step in enumerate(steps):
            layers = [step.index] if isinstance(step, Layer) else [branch.index for branch in step.branches]
            outputs = [through(layer, x, context, slots[number]) for layer in layers]
            x = sum(output for output, _ in outputs) / len(outputs)
            for which in (0, 1):
                mean = sum(pair[which][0] for _, pair in outputs) / len(outputs)
                slots[number, which, fed : len(tokens)] = mean[:count]
        fed = len(tokens)
        tokens.append(int(np.asarray(module.logits(x))[0, count - 1].argmax()))
    return tuple(tokens[len(prompt.tokens) :])


@pytest.mark.parametrize("tiny", ["grouped-query", "neox"], indirect=True)
@pytest.mark.parametrize("plan", ["0 {1-3} 4", "0 {1 2}*2 4"])
@pytest.mark.slow
def test_mean_cache_does_as_the_released_code(tiny, plan):
    plan = Plan.parse(plan)
    prompts = [Prompt(prompt.tokens, 8) for prompt in random_prompts(5, 3, 33, longest=6)]
    found = generated(tiny, prompts, [plan], kv="mean")
    for (_, number), tokens in found.items():
        assert tokens == with_mean_slots(tiny, prompts[number], plan)


@pytest.mark.slow
def test_mean_cache_differs_from_the_exact_one_in_groups_only():
    tiny = make_tiny("grouped-query")
    prompts = [Prompt(prompt.tokens, 20) for prompt in random_prompts(6, 8)]
    plans = [Plan.parse("0 {1-3}*3 4"), Plan.parse("0 2 1 3 4")]
    exact, mean = (generated(tiny, prompts, plans, kv=kv) for kv in ("exact", "mean"))
    assert any(exact[0, number] != mean[0, number] for number in range(8))
    assert all(exact[1, number] == mean[1, number] for number in range(8))


def test_mean_cache_knows_groups_of_single_layers_only():
    tiny = make_tiny("grouped-query")
    with pytest.raises(UserError, match="single layers only; use --kv exact"):
        list(generate(tiny.model, [Prompt((1,), 1)], [Plan.parse("0 {(1 2) 3} 4")], kv="mean"))


# --- What cannot be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt((), 3), "the prompt is empty"),
        (Prompt((1, 2), 0), "0 new tokens"),
        (Prompt(tuple(range(60)), 9), "60 tokens and 9 new ones are 5 more than the model's 64 positions"),
        (Prompt((1, VOCAB_SIZE), 3), f"token ids span 1 to {VOCAB_SIZE}"),
    ],
)
def test_prompts_that_cannot_be(prompt, message):
    tiny = make_tiny("grouped-query")
    with pytest.raises(UserError, match=message):
        list(generate(tiny.model, [prompt], [tiny.model.full_plan]))


@pytest.mark.slow
def test_a_prompt_that_fills_the_context():
    tiny = make_tiny("grouped-query")
    prompt = Prompt(tuple(range(60)), 4)
    assert generated(tiny, [prompt], [PLANS[1]])[0, 0] == by_full_passes(tiny, prompt, PLANS[1])


def test_a_plan_with_a_layer_that_is_not_there():
    tiny = make_tiny("grouped-query")
    with pytest.raises(PlanError):
        list(generate(tiny.model, [Prompt((1,), 1)], [Plan.of([NUM_LAYERS])]))


def test_a_cache_that_does_not_fit():
    tiny = make_tiny("grouped-query")
    with pytest.raises(
        UserError, match=r"of one prompt of 20 tokens and 4 new ones in 16 layers take .* set aside; shorten"
    ):
        list(generate(tiny.model, [Prompt(tuple(range(20)), 4)], [tiny.model.full_plan], cache_bytes=1000))


@pytest.mark.slow
def test_a_plan_whose_logits_are_not_finite_stops_alone():
    tiny = make_tiny("grouped-query")
    state = jax.tree.map(lambda leaf: leaf, tiny.model.state)
    kernel = state["blocks"]["mlp"]["down_proj"]["kernel"]
    kernel.set_value(kernel.get_value().at[3].set(jnp.nan))
    model = replace(tiny.model, state=state)
    found = list(generate(model, [Prompt((1, 2, 3), 4)], [Plan.parse("0-4"), Plan.parse("0-2 4")]))
    assert {each.plan: (each.ending, len(each.tokens)) for each in found} == {0: ("not finite", 0), 1: ("length", 4)}


def test_chunks_shrink_where_memory_is_short():
    prompts = [(1,) * 40 + (2 + number,) * 19 for number in range(9)]
    sizes = {"slots": 32, "chunk_tokens": 512, "batch_size": 8, "token_bytes": 1}
    wide = layout.lay_out(prompts, 6, **sizes, cache_bytes=32 * 10**6)
    narrow = layout.lay_out(prompts, 6, **sizes, cache_bytes=32 * 250)
    assert len(wide.waves) == 1 < len(narrow.waves)
    assert narrow.shape.chunk < wide.shape.chunk
    for found, columns in ((wide, 10**6), (narrow, 250)):
        shape = found.shape
        assert shape.stored + shape.rows * (shape.own + shape.made) <= columns
        assert sorted(prompt for wave in found.waves for prompt in wave.prompts) == list(range(9))


@pytest.mark.parametrize("tokens", [1, 17, 129, 513, 1025, 1086, 4000])
def test_a_prompt_is_topped_up_by_at_most_a_sixteenth(tokens):
    sizes = {"slots": 32, "chunk_tokens": 512, "batch_size": 8, "token_bytes": 1}
    shape = layout.lay_out([(1,) * tokens], 6, **sizes, cache_bytes=32 * 10**6).shape
    for size in (shape.chunk, shape.own):
        assert 0 <= size - tokens < max(16, tokens / 16)


def test_layout_wastes_little():
    sizes = np.random.default_rng(0).integers(40, 250, 300)
    prompts = [[1] * 900 + [2] + [3] * int(size) for size in sizes]
    found = layout.lay_out(
        [prompt[:-1] for prompt in prompts],
        256,
        slots=32,
        chunk_tokens=512,
        batch_size=16,
        token_bytes=1536,
        cache_bytes=2 << 30,
    )
    assert found.trunk == 901 + sizes.min() - 1
    assert sorted(prompt for wave in found.waves for prompt in wave.prompts) == list(range(300))
    tokens = sum(sizes) - len(sizes) * (sizes.min() - 1)
    assert sum((len(wave.tokens) - found.shape.trunk // 512) * 512 for wave in found.waves) < 1.2 * tokens


def test_caches_are_let_go_of_at_once():
    """Not when Python next looks for cycles: calls in turn would fill an accelerator with their caches."""
    tiny = make_tiny("grouped-query")
    prompts, plans = random_prompts(3, 6, 40, longest=8), [Plan.parse("0-4"), Plan.parse("0-2 {3 4}")]

    def left() -> int:
        list(generate(tiny.model, prompts, plans))
        return sum(array.nbytes for array in jax.live_arrays())

    left()
    gc.collect()
    gc.disable()
    try:
        assert left() == left()
    finally:
        gc.enable()


@pytest.mark.parametrize(("family", "shared"), [("grouped-query", 0), ("qwen2, windows in turn", 40)])
@pytest.mark.slow
def test_prompts_are_read_as_gpus_do(family, shared, monkeypatch):
    """Layers apart, prompts read by one attention to all keys and by a compiled plan; cuDNN itself is not here."""
    tiny = make_tiny(family)
    plain, called = jax.nn.dot_product_attention, []

    def in_cudnns_place(*arrays, mask, implementation):
        called.append(implementation)
        return plain(*arrays, mask=mask, implementation="xla")

    monkeypatch.setattr(jax.nn, "dot_product_attention", in_cudnns_place)
    monkeypatch.setattr(models, "attention_implementation", lambda *_: "cudnn")
    monkeypatch.setattr(models, "lie_apart", lambda *_: True)
    monkeypatch.setattr(budgets, "CPU", replace(budgets.CPU, least_rows=2, prefill_tokens=48))
    gpu = models.from_parameters(tiny.model.config, nnx.to_pure_dict(tiny.model.state))
    prompts = random_prompts(5, 4, shared)
    for plans in ([Plan.parse("0 {1-3} 4")], [Plan.parse("0-4"), Plan.parse("0-2 4")]):
        found, right = (
            {(each.plan, each.prompt): each.tokens for each in generate(model, prompts, plans)}
            for model in (gpu, tiny.model)
        )
        assert found == right
    assert set(called) == {"cudnn"}
