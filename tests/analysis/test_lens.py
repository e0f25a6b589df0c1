"""The logit lens and what is read of it: equal to transformers' final norm and head on each plan's states."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util

from jaxpaint.analysis import states as analysis
from jaxpaint.analysis.cka import CKA
from jaxpaint.analysis.clock import CLOCK
from jaxpaint.analysis.lens import AGREEMENT, ENTROPY, LOGIT_LENS, read
from jaxpaint.analysis.ridge_lens import RIDGE_LENS
from jaxpaint.analysis.states import analyse
from jaxpaint.base import budgets
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import from_parameters
from jaxpaint.plans.plan import Plan
from tests.helpers.bert_models import tiny_bert
from tests.helpers.decoders import LONGEST, PLANS, VOCAB_SIZE, Tiny, make_tiny

PROBES = (LOGIT_LENS, ENTROPY, AGREEMENT)
FEW = [Plan.parse(text) for text in ("4-0", "0 {1-3}*2 4")]


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    draw = np.random.default_rng(4)
    return [draw.integers(0, VOCAB_SIZE, length).tolist() for length in (7, LONGEST, 2, 1, 15)]


def padded(texts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(text) for text in texts])
    tokens = np.zeros((len(texts), lengths.max()), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    return tokens, lengths


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def lens_of_torch(tiny: Tiny, states: np.ndarray) -> np.ndarray:
    """transformers' final norm and head on states: logits."""
    base = tiny.torch.base_model
    norm = base.norm if hasattr(base, "norm") else base.final_layer_norm
    with torch.no_grad():
        return tiny.torch.get_output_embeddings()(norm(torch.tensor(states))).numpy()


def expected(logits: np.ndarray, answers: np.ndarray, texts: list[list[int]]) -> dict[str, np.ndarray]:
    """The definitions, token by token, of logits [states, texts, S, V]."""
    of_next, of_answer, entropy, agree = [], [], [], []
    for state in logits:
        following, last, entropies, same = [], [], [], []
        for row, text in enumerate(texts):
            logprobs = log_softmax(state[row, : len(text)])
            for place, own in enumerate(logprobs):
                is_last = place == len(text) - 1
                target = answers[row, place] if is_last else text[place + 1]
                (last if is_last else following).append((own[target], (own > own[target]).sum()))
                entropies.append(-(np.exp(own) * own).sum())
                same.append(own.argmax() == answers[row, place])
        of_next.append(np.mean(following, axis=0))
        of_answer.append(np.mean(last, axis=0))
        entropy.append(np.mean(entropies))
        agree.append(np.mean(same))
    lens = np.concatenate([of_next, of_answer], axis=1)
    return {"logit_lens": lens, "entropy": np.array(entropy), "agreement": np.array(agree)}


def assert_close(found: analysis.Analysis, wanted: dict[str, np.ndarray], tolerance: float) -> None:
    for name, target in wanted.items():
        values = getattr(found, name)
        assert values.shape == target.shape
        assert np.abs(values - target).max() <= tolerance, name


@pytest.mark.parametrize("variation", ["grouped-query", "tied embeddings", "neox"])
@pytest.mark.slow
def test_every_plan_equals_transformers_norm_and_head(variation, texts):
    tiny = make_tiny(variation)
    tokens, lengths = padded(texts)
    answers = tiny.torch_logits(tokens, lengths).argmax(axis=-1)
    plans = PLANS[1::2] if variation == "grouped-query" else FEW
    for plan, found in zip(plans, analyse(tiny.model, texts, plans, probes=PROBES), strict=True):
        states = np.asarray(tiny.model.hidden_states(tokens, plan, lengths))
        assert_close(found, expected(lens_of_torch(tiny, states), answers, texts), 1e-5)


def test_the_last_state_gives_the_models_logits_under_every_plan(texts):
    model = make_tiny("grouped-query").model
    tokens, lengths = padded(texts)
    answers = np.asarray(model.logits(tokens, None, lengths)).argmax(axis=-1)
    for plan, found in zip(PLANS, analyse(model, texts, PLANS, probes=PROBES), strict=True):
        logits = np.asarray(model.logits(tokens, plan, lengths))[None]
        last = {name: getattr(found, name)[-1:] for name in ("logit_lens", "entropy", "agreement")}
        assert_close(analysis.Analysis(**last), expected(logits, answers, texts), 1e-5)
        if plan == model.full_plan:
            assert found.agreement[-1] == 1
            assert found.logit_lens[-1, 3] == 0


def test_positions_and_vocabulary_in_parts_give_the_same(texts, monkeypatch):
    model = make_tiny("grouped-query").model
    plans = [Plan.parse("0-4"), Plan.parse("0 {1-3} 4")]
    whole = analyse(model, texts, plans, probes=PROBES)
    # 61 tokens in blocks of at most 9, the last of which reaches back; 5 positions at a time.
    monkeypatch.setattr(budgets, "CPU", replace(budgets.CPU, vocabulary_block=9, logits_bytes=4 * 9 * 5))
    executables = (analysis._embed, analysis._step, analysis._most_likely)
    try:
        for executable in executables:
            executable.clear_cache()
        parts = analyse(model, texts, plans, probes=PROBES, batch_tokens=64)
    finally:
        for executable in executables:
            executable.clear_cache()
    for first, second in zip(parts, whole, strict=True):
        assert_close(first, {name: getattr(second, name) for name in ("logit_lens", "entropy", "agreement")}, 1e-5)
        for name in ("logit_lens_stderr", "entropy_stderr", "agreement_stderr"):
            np.testing.assert_allclose(getattr(first, name), getattr(second, name), atol=1e-5)


@pytest.mark.parametrize("cap", [None, 0.8])
def test_a_reading_of_one_state(cap):
    model = make_tiny("tied embeddings").model
    module = nnx.merge(model.graphdef, model.state)
    module.traits = replace(module.traits, logit_cap=cap)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 32)), jnp.float32)
    wanted = np.asarray(module.logits(x))
    assert cap is None or np.abs(wanted).max() <= cap
    targets = wanted.argsort(axis=-1)[..., -4]  # the fourth most likely
    reading = read(module, x, jnp.asarray(targets))
    assert (np.asarray(reading.rank) == 3).all()
    assert (np.asarray(reading.top) == wanted.argmax(axis=-1)).all()
    logprobs = np.take_along_axis(log_softmax(wanted), targets[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(reading.logprob, logprobs, atol=1e-5)


def test_a_lens_that_is_not_finite_says_nothing(texts):
    tiny = make_tiny("grouped-query")
    flat = traverse_util.flatten_dict(nnx.to_pure_dict(tiny.model.state), sep="/")
    flat["blocks/input_layernorm/scale"] = flat["blocks/input_layernorm/scale"].at[3].set(np.nan)
    model = from_parameters(tiny.model.config, traverse_util.unflatten_dict(flat, sep="/"))
    broken, whole = analyse(model, texts, [Plan.parse("0-4"), Plan.parse("0-2 4")], probes=PROBES)
    for name in ("logit_lens", "entropy", "agreement"):
        assert np.isfinite(getattr(broken, name)[:4]).all()
        assert np.isnan(getattr(broken, name)[4:]).all()
        assert np.isfinite(getattr(whole, name)).all()


def test_texts_of_one_token_have_no_next_one():
    (found,) = analyse(make_tiny("grouped-query").model, [[3], [5]], [Plan.parse("0-4")], probes=[LOGIT_LENS])
    assert np.isnan(found.logit_lens[:, :2]).all()
    assert np.isfinite(found.logit_lens[:, 2:]).all()


def test_an_encoder_is_refused_in_a_sentence():
    model = tiny_bert()
    for probe in (*PROBES, RIDGE_LENS):
        with pytest.raises(UserError, match="needs a decoder"):
            analyse(model, [[1, 2]], [model.full_plan], probes=[probe])


def test_an_encoder_has_what_needs_no_head():
    model = tiny_bert()
    texts = [[1, 2, 3, 4, 5], [6, 7, 8, 9], [3, 2, 1, 6, 9, 8]]
    (found,) = analyse(model, texts, [model.full_plan], probes=[CKA, CLOCK])
    assert np.isfinite(found.cka).all()
    assert np.isfinite(found.clock).all()
