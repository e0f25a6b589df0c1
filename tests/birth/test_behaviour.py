"""The probes on data against loops, under a plan too, and the maps that are kept while a model is trained."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxpaint.birth.arms import Arm
from jaxpaint.birth.data import DataSettings, sample, source_of
from jaxpaint.birth.ideal import ideal
from jaxpaint.birth.model import SmallModel, attention_patterns
from jaxpaint.birth.train import OF_TEST, Training, key_of, train
from jaxpaint.engine.events import events_of
from jaxpaint.plans.plan import Plan

LENGTH = 48
MODEL = SmallModel(64, LENGTH, start="orthogonal")


@pytest.fixture(scope="module")
def batch():
    return sample(source_of(DataSettings()), jax.random.key(2), 6, LENGTH)


@pytest.fixture(scope="module")
def parameters():
    return ideal(MODEL, MODEL.init(jax.random.key(0)), source_of(DataSettings()).triggers, b=8, gamma=3)


# The events whose attention is asked for: layer 0's first, layer 1's last.
ASKED = {"0 1": (0, 1), "1 0": (1, 0), "{0 1}*2": (0, 3), "0 1 0 1 1": (0, 4), "1 0 1": (1, 2)}


@pytest.mark.parametrize("plan", ASKED)
@pytest.mark.slow
def test_probes_are_what_a_loop_counts(plan, parameters, batch) -> None:
    plan, asked = Plan.parse(plan), ASKED[plan]
    patterns = attention_patterns(MODEL, parameters, batch.tokens, plan)
    first, second = (np.argmax(patterns[event], axis=-1) for event in asked)
    predicted = np.argmax(MODEL.logits(parameters, events_of(plan), batch.tokens), axis=-1)
    counted: dict[str, list[bool]] = {name: [] for name in ("looks_back", "hits", "copies", "looks_back_at_hits")}
    tokens, counters = np.asarray(batch.tokens), np.asarray(batch.counters)
    for row in range(len(tokens)):
        for t in range(LENGTH):
            if counters[row, t] == 1 and t + 1 < LENGTH:
                counted["looks_back"].append(first[row, t + 1] == t)
            if counters[row, t] >= 2:
                found = second[row, t]
                counted["hits"].append(found >= 1 and tokens[row, found - 1] == tokens[row, t])
                counted["copies"].append(predicted[row, t] == tokens[row, found])
                if found >= 1:
                    counted["looks_back_at_hits"].append(first[row, found] == found - 1)
    told, _ = MODEL.attended(parameters, events_of(plan, 6), batch)
    assert {name: float(value) for name, value in told.items()} == pytest.approx(
        {name: np.mean(hits) for name, hits in counted.items()}, abs=1e-6
    )


def test_a_layer_that_does_not_run_finds_nothing(parameters, batch) -> None:
    for plan, missing in (("1", "looks_back"), ("0", "hits")):
        told, _ = MODEL.attended(parameters, events_of(Plan.parse(plan), 3), batch)
        assert float(told[missing]) == float(told["looks_back_at_hits"]) == 0


@pytest.mark.slow
def test_probes_and_maps_over_training() -> None:
    model = SmallModel(16, 50)
    arms = [Arm("looped", plan=Plan.parse("{0 1}*2"), seed=3), Arm("full", seed=4)]
    found = train(model, arms, Training(20, 8, 0.2, every=10, test_rows=8))
    for name in ("looks_back", "hits", "copies", "looks_back_at_hits", "output_accuracy", "start_accuracy"):
        assert found.measured[name].shape == (3, 2)
        assert ((found.measured[name] >= 0) & (found.measured[name] <= 1)).all()
    assert {name: each.shape for name, each in found.maps.items()} == {"layer 0": (3, 40, 40), "layer 1": (3, 40, 40)}
    ended = jax.tree.map(lambda leaf: leaf[0], found.parameters)
    texts = sample(source_of(DataSettings(), for_test=True), key_of(np.uint32(3), OF_TEST), 8, 50)
    patterns = attention_patterns(model, ended, texts.tokens[:1], arms[0].plan)
    np.testing.assert_allclose(found.maps["layer 0"][-1], patterns[0][0, :40, :40], atol=1e-6)
    np.testing.assert_allclose(found.maps["layer 1"][-1], patterns[3][0, :40, :40], atol=1e-6)
    assert (found.maps["layer 1"][0] != found.maps["layer 1"][-1]).any()
