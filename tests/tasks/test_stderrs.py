"""Bootstrapped standard errors: lm-eval's own, number by number."""

import random

import numpy as np
import pytest
from lm_eval.api import metrics

from jaxpaint.tasks.stderrs import bootstrap_stderr


@pytest.mark.parametrize("metric", [metrics.perplexity, metrics.median])
@pytest.mark.parametrize("iters", [300, 2500])
def test_bootstrap_equals_lm_evals(metric, iters, monkeypatch):
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")
    values = [-20 * random.Random(7).random() for _ in range(50)] + list(np.random.default_rng(0).normal(-3, 1, 87))
    expected = metrics.bootstrap_stderr(metric, values, iters)
    assert expected > 0
    assert bootstrap_stderr(metric, values, iters) == pytest.approx(expected, rel=1e-9)


def test_bootstrap_in_blocks_draws_the_same(monkeypatch):
    values = list(np.random.default_rng(0).normal(-3, 1, 64))
    whole = bootstrap_stderr(metrics.perplexity, values, 2000)
    monkeypatch.setattr("jaxpaint.tasks.stderrs.BLOCK", 640)
    assert bootstrap_stderr(metrics.perplexity, values, 2000) == pytest.approx(whole, rel=1e-12)
