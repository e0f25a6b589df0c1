"""The clock and the ridge lens: scikit-learn's ridge regression on the full model's states, read along other plans."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from jaxpaint.analysis.clock import CLOCK
from jaxpaint.analysis.fits import held_out, passes
from jaxpaint.analysis.ridge import PENALTIES, Moments, chosen, ridge
from jaxpaint.analysis.ridge_lens import RIDGE_LENS
from jaxpaint.analysis.states import analyse, analysis_rows, fit
from jaxpaint.base import memory
from jaxpaint.base.bundled import TASKS
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import load
from jaxpaint.painter import language, world
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import LONGEST, VOCAB_SIZE, make_tiny

PROBES = (CLOCK, RIDGE_LENS)
FEW = [Plan.parse(text) for text in ("0-4", "4-0", "0 {1-3} 4", "0 (1 2)*5 4")]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(3, 40), st.integers(1, 6), st.integers(1, 3), st.floats(1e-3, 1e3))
def test_ridge_equals_scikit_learns(seed, samples, inputs, outputs, penalty):
    draw = np.random.default_rng(seed)
    x, y = draw.normal(3, 2, (samples, inputs)), draw.normal(-1, 5, (samples, outputs))
    parts = Moments.of(x[: samples // 2], y[: samples // 2]) + Moments.of(x[samples // 2 :], y[samples // 2 :])
    weights, intercept = ridge(parts, penalty)
    wanted = Ridge(alpha=penalty).fit(x, y)
    np.testing.assert_allclose(weights, wanted.coef_.reshape(outputs, inputs).T, atol=1e-8)
    np.testing.assert_allclose(intercept, np.atleast_1d(wanted.intercept_), atol=1e-8)


def by_scikit_learn(x, y, held_x, held_y) -> tuple[Ridge, float]:
    """The best of the penalties on held-out samples, and its R² over all outputs together."""
    scale = np.square(x - x.mean(axis=0)).sum() / x.shape[1]
    found = []
    for penalty in PENALTIES:
        model = Ridge(alpha=penalty * scale, solver="svd").fit(x, y)
        errors = np.square(held_y - model.predict(held_x).reshape(held_y.shape)).sum()
        found.append((1 - errors / np.square(held_y - held_y.mean(axis=0)).sum(), model))
    r2, model = max(found, key=lambda each: each[0])
    return model, r2


def test_the_penalty_that_fits_held_out_samples_is_chosen():
    draw = np.random.default_rng(0)
    x, weights = draw.normal(size=(60, 20)), draw.normal(size=(20, 2))
    y = x @ weights + draw.normal(0, 3, (60, 2))
    found = chosen(Moments.of(x[:25], y[:25]), Moments.of(x[25:], y[25:]))
    wanted, r2 = by_scikit_learn(x[:25], y[:25], x[25:], y[25:])
    assert abs(found.r2 - r2) <= 1e-9
    assert abs(found.penalty / wanted.alpha - 1) <= 1e-9
    np.testing.assert_allclose(found.weights, wanted.coef_.T, atol=1e-8)


@pytest.fixture(scope="module")
def texts() -> list[list[int]]:
    draw = np.random.default_rng(7)
    return [draw.integers(0, VOCAB_SIZE, length).tolist() for length in (7, LONGEST, 12, 1, 15, 24, 9, 18)]


def states_of(model, texts: list[list[int]], plan: Plan | None = None) -> list[np.ndarray]:
    """Of each text [states, tokens, D]."""
    lengths = [len(text) for text in texts]
    tokens = np.zeros((len(texts), max(lengths)), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = text
    states = np.asarray(model.hidden_states(tokens, plan, lengths), np.float64)
    return [states[:, row, :length] for row, length in enumerate(lengths)]


def halves(of_texts: list) -> tuple[list, list]:
    """What is of the texts that are fitted, and of those held out."""
    is_held = held_out(len(of_texts))
    return tuple([each for each, held in zip(of_texts, is_held, strict=True) if held == half] for half in (False, True))


def scaled(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True))


def clock_samples(states: list[np.ndarray], role: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = [], []
    for own in states:
        tokens = slice(-1, None) if role == 0 else slice(None, -1)
        for depth, state in enumerate(own):
            x.append(scaled(state[tokens]))
            y.append(np.full((len(x[-1]), 1), depth / (len(own) - 1)))
    return np.concatenate(x), np.concatenate(y)


@pytest.fixture(scope="module")
def clocks(texts):
    """scikit-learn's, of last tokens and others, with their R²."""
    fitted, held = halves(states_of(make_tiny("grouped-query").model, texts))
    return [by_scikit_learn(*clock_samples(fitted, role), *clock_samples(held, role)) for role in (0, 1)]


def read(clocks, state: np.ndarray) -> np.ndarray:
    """The readings of a text's tokens [tokens]."""
    each = [np.clip(model.predict(scaled(state)).reshape(-1), 0, 1) for model, _ in clocks]
    return np.concatenate([each[1][:-1], each[0][-1:]])


@pytest.mark.slow
def test_the_clock_reads_what_scikit_learns_ridge_reads(texts, clocks):
    model = make_tiny("grouped-query").model
    for plan, found in zip(FEW, analyse(model, texts, FEW, probes=[CLOCK]), strict=True):
        np.testing.assert_allclose(found.clock_fit, [r2 for _, r2 in clocks], atol=1e-5)
        held = states_of(model, halves(texts)[1], plan)
        for step in range(len(held[0])):
            readings = [read(clocks, own[step]) for own in held]
            last = np.array([each[-1] for each in readings])
            assert abs(found.clock[step, 0] - last.mean()) <= 1e-4
            assert abs(found.clock_stderr[step, 0] - last.std(ddof=1) / np.sqrt(len(last))) <= 1e-4
            assert abs(found.clock[step, 1] - np.concatenate([each[:-1] for each in readings]).mean()) <= 1e-4


@pytest.mark.slow
def test_the_ridge_lens_maps_each_token_from_the_depth_it_looks_like(texts, clocks):
    tiny = make_tiny("grouped-query")
    model, full = tiny.model, states_of(tiny.model, texts)
    depths = len(full[0])
    maps = []
    for depth in range(depths):
        maps.append(
            by_scikit_learn(
                *(np.concatenate([own[which] for own in half]) for half in halves(full) for which in (depth, -1))
            )
        )
    fitted = fit(model, texts, [RIDGE_LENS])
    np.testing.assert_allclose(fitted["ridge_lens"].r2, [r2 for _, r2 in maps], atol=1e-4)
    for plan, found in zip(FEW, analyse(model, texts, FEW, probes=[RIDGE_LENS], fitted=fitted), strict=True):
        held = halves(texts)[1]
        for step, states in enumerate(zip(*states_of(model, held, plan), strict=True)):
            of_next, of_answer = [], []
            for text, own, whole in zip(held, states, halves(full)[1], strict=True):
                depth = np.round(read(clocks, own) * (depths - 1)).astype(int)
                mapped = np.stack([maps[d][0].predict(x[None])[0] for d, x in zip(depth, own, strict=True)])
                with torch.no_grad():
                    head = tiny.torch.get_output_embeddings()
                    logits, answers = (
                        head(tiny.torch.base_model.norm(torch.tensor(x, dtype=torch.float32)))
                        for x in (mapped, whole[-1])
                    )
                logprobs = torch.log_softmax(logits.double(), dim=-1).numpy()
                for place, row in enumerate(logprobs):
                    is_last = place == len(text) - 1
                    target = int(answers[place].argmax()) if is_last else text[place + 1]
                    (of_answer if is_last else of_next).append((row[target], (row > row[target]).sum()))
            wanted = np.concatenate([np.mean(of_next, axis=0), np.mean(of_answer, axis=0)])
            np.testing.assert_allclose(found.ridge_lens[step, [0, 2]], wanted[[0, 2]], atol=2e-3)
            np.testing.assert_allclose(found.ridge_lens[step, [1, 3]], wanted[[1, 3]], atol=0.2)


@pytest.mark.slow
def test_batches_and_other_plans_change_nothing(texts):
    model = make_tiny("grouped-query").model
    whole = analyse(model, texts, FEW, probes=PROBES)
    parts = analyse(model, texts, FEW[::-1], probes=PROBES, batch_tokens=64)[::-1]
    for first, second in zip(whole, parts, strict=True):
        np.testing.assert_allclose(first.clock, second.clock, atol=1e-4)
        np.testing.assert_allclose(first.clock_fit, second.clock_fit, atol=1e-5)


def test_the_same_call_gives_the_same_to_the_last_digit(texts):
    model = make_tiny("grouped-query").model
    first, second = (
        [analysis_rows(each, {}, PROBES) for each in analyse(model, texts, FEW, probes=PROBES)] for _ in "ab"
    )
    assert json.dumps(first) == json.dumps(second)
    assert [name for name, _, _ in first[0]] == [
        *("clock_fit", "clock_stderr", "clock"),
        *("clock_fit", "ridge_lens_fit", "ridge_lens_stderr", "ridge_lens"),
    ]


def test_less_memory_takes_more_runs_to_the_same_numbers(texts, monkeypatch):
    """Of all regressions at once, some, and one by one: equal to the last digit."""
    model = make_tiny("grouped-query").model
    each = [CLOCK.fits[0], *(other for other in RIDGE_LENS.fits if other not in CLOCK.fits)]
    whole = fit(model, texts, PROBES)
    assert len(passes(each, model.config)) == 1
    one = each[1].sums_bytes(model.config)
    for sums, expected in ((4, 2), (1, 6)):
        left = 2 * (sums * one + sum(fit.kept_bytes(model.config) for fit in each))
        monkeypatch.setattr("jaxpaint.analysis.fits.memory_left", lambda left=left: left)
        found = passes(each, model.config)
        assert len(found) >= expected
        assert [regression for own in found for regression in own] == [
            (fit, number) for fit in each for number in range(fit.count(model.config))
        ]
        again = fit(model, texts, PROBES)
        for name in whole:
            np.testing.assert_array_equal(again[name].r2, whole[name].r2)
            for ours, theirs in zip(again[name].parameters, whole[name].parameters, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_what_cannot_be_fitted_is_told(texts, monkeypatch):
    model = make_tiny("grouped-query").model
    with monkeypatch.context() as patched:
        patched.setattr(memory, "memory_left", lambda: 1 << 16)
        with pytest.raises(UserError, match=r"the fit of ridge_lens needs 0\.00 GB of memory.*leave ridge_lens out"):
            fit(model, texts, [RIDGE_LENS])
    with pytest.raises(UserError, match="at least 2 texts, not 1"):
        analyse(model, texts[:1], [model.full_plan], probes=[CLOCK])
    (found,) = analyse(model, [[1], [2]], [model.full_plan], probes=[CLOCK])
    assert np.isnan(found.clock[:, 1]).all()  # there are no others than last tokens
    assert np.isnan(found.clock_fit[1])


@pytest.fixture(scope="module")
def painter():
    return load("painter-16", dtype="float32")


@pytest.mark.slow
def test_the_clock_of_painter_16_tells_its_own_depths_on_questions(painter):
    """The claim that it holds: R² of 0.9 or more, and within a layer on average."""
    texts = [painter.tokenizer.encode(language.question(*fact)) for fact in sorted(world.FACTS)]
    (full,) = analyse(painter, texts, [painter.full_plan], probes=[CLOCK])
    assert (full.clock_fit >= 0.9).all()
    assert (16 * np.abs(full.clock - np.linspace(0, 1, 17)[:, None]).mean(axis=0) <= 1).all()


@pytest.mark.slow
def test_it_does_not_hold_at_all_tokens_of_stories(painter):
    """What falls short stays visible: a linear clock of the tokens before the last one is refused there."""
    lines = (TASKS / "painter_places.jsonl").read_text().splitlines()[:100]
    texts = [painter.tokenizer.encode(json.loads(line)["context"]) for line in lines]
    (full,) = analyse(painter, texts, [painter.full_plan], probes=[CLOCK])
    last, others = full.clock_fit
    assert last >= 0.9
    assert 16 * np.abs(full.clock[:, 0] - np.linspace(0, 1, 17)).mean() <= 1
    assert 0.7 <= others < 0.9
