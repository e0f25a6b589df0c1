"""The clock of facts: scikit-learn's ridge regressions on runs' states, planted depths, and verdicts that are no."""

from __future__ import annotations

import json

import numpy as np
import pytest

import jaxpaint
from jaxpaint.analysis.asking import CLOCK, SUBLAYERS, asked
from jaxpaint.analysis.flow import flows
from jaxpaint.analysis.roles import Role, Samples, clocks_of
from jaxpaint.base.errors import UserError
from jaxpaint.painter.facts import facts
from jaxpaint.report.flow import LabelledFlow
from jaxpaint.report.flow_text import plan_lines
from jaxpaint.results.flow import Flow
from tests.analysis.test_clock import by_scikit_learn, scaled

LOOPED = "0-3 {4-11}*2 12-15"


@pytest.fixture(scope="module")
def painter() -> jaxpaint.Model:
    return jaxpaint.load("painter-16", dtype="float32")


def own_tokens(prompt) -> list[list[int]]:
    """The subject's last token, the last one, and all others but a beginning-of-sequence token."""
    subject, rest, last = prompt.sets
    return [[subject[-1]], [*last], [*subject[:-1], *rest]]


@pytest.mark.slow
def test_9_clocks_are_scikit_learns(painter: jaxpaint.Model) -> None:
    """Fits, R², readings and what both lenses say, from the states of one run a prompt."""
    to_ask = asked(painter, facts()[:24], extras=[CLOCK])
    held = clocks_of(painter, to_ask).held_out
    subjects = {fact.subject: prompt in held for fact, prompt in zip(to_ask.facts, to_ask.prompts, strict=True)}
    assert len(subjects) == 12
    assert sum(subjects.values()) == 6
    for fact, prompt in zip(to_ask.facts, to_ask.prompts, strict=True):
        assert (prompt in held) == subjects[fact.subject]  # no subject is in both halves

    def states(prompt, plan: str) -> np.ndarray:
        return np.asarray(painter.run([prompt.tokens], plan).states, np.float64)[:, 0]

    fit = [prompt for prompt in to_ask.prompts if prompt not in held]
    full = {prompt: states(prompt, "0-15") for prompt in to_ask.prompts}
    for plan, flow in zip(("0-15", LOOPED), flows(painter, to_ask, ["0-15", LOOPED]), strict=True):
        along = {prompt: states(prompt, plan) for prompt in held}
        for role in range(3):

            def samples(half, depth: int, role: int = role) -> np.ndarray:
                return np.concatenate([full[prompt][depth, own_tokens(prompt)[role]] for prompt in half])

            def every(half, role: int = role) -> tuple[np.ndarray, np.ndarray]:
                each = [samples(half, depth, role) for depth in range(17)]
                return scaled(np.concatenate(each)), np.repeat(np.arange(17) / 16, len(each[0]))[:, None]

            clock, r2 = by_scikit_learn(*every(fit), *every(held))
            assert flow.clock.r2.value[0, role] == pytest.approx(r2, abs=1e-6)
            readings = [clock.predict(scaled(along[own][:, own_tokens(own)[role]].reshape(-1, 96))) for own in held]
            readings = [np.clip(each, 0, 1).reshape(len(flow.clock.reading.value), -1) for each in readings]
            by_prompt = np.stack([each.mean(axis=1) for each in readings])
            np.testing.assert_allclose(flow.clock.reading.value[:, role], by_prompt.mean(axis=0), atol=1e-4)
            stderr = by_prompt.std(axis=0, ddof=1) / np.sqrt(len(held))
            np.testing.assert_allclose(flow.clock.reading.stderr[:, role], stderr, atol=1e-4)
            if plan == "0-15":
                off = np.mean([np.abs(16 * each - np.arange(17)[:, None]).mean() for each in readings])
                assert flow.clock.off.value[0, role] == pytest.approx(off, abs=1e-3)
            maps = [
                by_scikit_learn(*(samples(half, at) for half in (fit, held) for at in (depth, 16)))[0]
                for depth in range(17)
            ]
            shares = {"logit_lens": [], "ridge_lens": []}
            for prompt, reading in zip(held, readings, strict=True):
                own = along[prompt][:, own_tokens(prompt)[role]]
                depth = np.rint(16 * reading).astype(int)
                mapped = np.stack(
                    [
                        [maps[d].predict(x[None])[0] for d, x in zip(*each, strict=True)]
                        for each in zip(depth, own, strict=True)
                    ]
                )
                for name, x in (("logit_lens", own), ("ridge_lens", mapped)):
                    said = np.asarray(painter.logits_of(x.astype(np.float32))).argmax(axis=-1)
                    ends = np.asarray(painter.logits_of(own[-1:].astype(np.float32))).argmax(axis=-1)
                    shares[name].append((said == ends).mean(axis=1))
            for name, each in shares.items():
                found = getattr(flow.clock, name).value[:, role]
                np.testing.assert_allclose(found, np.mean(each, axis=0), atol=0.06, err_msg=name)  # ties of a few
                assert np.abs(found - np.mean(each, axis=0)).mean() < 0.01


def planted(seed: int, tokens: int, depths: int = 7, width: int = 24, told: bool = True) -> Samples:
    """States whose direction is 0.8 of their depth along one axis, turned from depth to depth in the others.

    Each depth has a length of its own, of which the clock is not to know.
    """
    drawn, turns = np.random.default_rng(seed), np.random.default_rng(99)
    at = 0.8 * np.linspace(0, 1, depths) if told else np.full(depths, 0.4)
    within = drawn.normal(size=(tokens, width - 1))
    within /= np.linalg.norm(within, axis=1, keepdims=True)
    states = []
    for depth in at:
        within = within @ np.linalg.qr(turns.normal(size=(width - 1, width - 1)))[0]
        along = np.concatenate([np.full((tokens, 1), depth), np.sqrt(1 - depth**2) * within], axis=1)
        states.append(along * np.exp(turns.normal()))
    return Samples(np.stack(states), np.arange(tokens) // 2)


@pytest.mark.parametrize("tokens", [20, 80])  # fewer and more than dimensions
def test_planted_depths_are_read_exactly(tokens: int) -> None:
    """And each state is mapped to the last one; steps back, forth and standing still are what they are."""
    held = planted(1, 30)
    role = Role.fitted(planted(0, tokens), held)
    assert role.tells
    assert 1 - role.missed.mean() == pytest.approx(1, abs=1e-6)
    assert role.missed.shape == role.off.shape == (15,)
    assert role.off.max() < 1e-3
    order = [0, 3, 3, 3, 6, 5, 1]
    along = held.states[order] * np.random.default_rng(2).uniform(0.1, 10, (7, 30, 1))
    np.testing.assert_allclose(role.reading(along) * 6, np.repeat(order, 30).reshape(7, 30), atol=1e-3)
    if tokens > 24:
        for depth in order:
            np.testing.assert_allclose(role.mapped(held.states[depth]), held.states[6], atol=1e-4)
    beyond = np.eye(24)[:1]
    assert role.reading(beyond) == 1
    assert role.reading(-beyond) == 0


@pytest.mark.slow
def test_progress_counts_the_clocks_work_too(painter: jaxpaint.Model) -> None:
    totals: list[int] = []
    done: list[int] = []

    def progress(total: int):
        totals.append(total)
        return done.append

    for extras in ([], [CLOCK]):
        flows(painter, facts()[:24], ["0-15"], extras=extras, progress=progress)
        assert sum(done) == sum(totals)
    plain, with_clock = totals
    assert with_clock > plain


def test_states_that_do_not_tell_have_no_clock() -> None:
    role = Role.fitted(planted(0, 80, told=False), planted(1, 30, told=False))
    assert not role.tells
    assert role.missed.mean() > 0.5


@pytest.mark.slow
def test_what_is_refused_is_not_read(painter: jaxpaint.Model, monkeypatch) -> None:
    """With a bound that no clock reaches: R² is told, nothing is read, and it is said that it does not hold."""
    monkeypatch.setattr("jaxpaint.analysis.roles.LEAST_R2", 0.9999)
    (flow,) = flows(painter, facts()[:24], ["0-15"], extras=[CLOCK])
    assert (flow.clock.r2.value > 0.8).all()
    assert np.isnan(flow.clock.reading.value).all()
    assert np.isnan(flow.clock.ridge_lens.value).all()
    assert np.isfinite(flow.clock.logit_lens.value).all()
    told = {verdict.claim: verdict.answer for verdict in flow.verdicts}
    assert told["depth"] == "does not hold"
    assert "read" not in told


@pytest.mark.slow
def test_verdicts_of_painter_16(painter: jaxpaint.Model) -> None:
    """It tells the full model's depths; its lens says more in order, and less of a plan that runs backwards."""
    full, backwards = flows(painter, facts(), ["0-15", "15-0"], extras=[CLOCK])
    assert full.clock.r2.value.min() >= 0.9
    assert full.clock.off.value.max() < 1
    of_full, of_other = ({each.claim: each.answer for each in flow.verdicts} for flow in (full, backwards))
    assert [of_full[claim] for claim in ("depth", "layer", "read")] == ["holds"] * 3
    assert of_other["read"] == "does not hold"
    assert not {"depth", "layer"} & of_other.keys()
    lines = list(plan_lines(LabelledFlow("backwards", backwards), 3))
    assert [line for line in lines if line.startswith("does not hold: the ridge lens")]
    assert any(line.startswith("  subject 0.9") for line in lines)


@pytest.mark.slow
def test_a_clock_is_read_as_it_was_kept(painter: jaxpaint.Model) -> None:
    for extras in ([CLOCK], [SUBLAYERS, CLOCK]):
        (flow,) = flows(painter, facts()[:8], [LOOPED], extras=extras)
        kept = json.loads(json.dumps(flow.value, allow_nan=False))
        again = Flow.read(LOOPED, kept)
        assert again.value == kept
        assert (again.silenced is None) == (SUBLAYERS not in extras)
        for name in ("r2", "off", "reading", "logit_lens", "ridge_lens"):
            for one, other in zip(getattr(flow.clock, name), getattr(again.clock, name), strict=True):
                np.testing.assert_array_equal(one, other)
        assert Flow.read(LOOPED, kept[:-1]).clock is None


def test_a_clock_takes_two_subjects(painter: jaxpaint.Model) -> None:
    own = [fact for fact in facts() if fact.subject == facts()[0].subject]
    with pytest.raises(UserError, match="facts of 2 or more"):
        asked(painter, own, extras=[CLOCK])
