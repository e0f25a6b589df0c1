"""lm-eval's bootstrapped standard errors, with equal random draws, computed in this process.

lm-eval forks a pool of workers for them. JAX runs threads, and a process with threads must not fork:
it may hang.
"""

import contextlib
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Metric = Callable[[Sequence[Any]], float]

CHUNK = 1000  # resamples per seed in lm-eval's bootstrap_stderr
BLOCK = 4_000_000  # random numbers held at once


@contextlib.contextmanager
def bootstrap_in_process() -> Iterator[None]:
    """Let lm-eval compute its bootstrapped standard errors with `bootstrap_stderr` of this module."""
    from lm_eval.api import metrics

    original = metrics.bootstrap_stderr
    metrics.bootstrap_stderr = bootstrap_stderr
    try:
        yield
    finally:
        metrics.bootstrap_stderr = original


def bootstrap_stderr(f: Metric, xs: Sequence[Any], iters: int) -> float:
    """The standard deviation of the metric `f` over `iters` resamples of `xs`.

    Signature and random draws are those of `lm_eval.api.metrics.bootstrap_stderr`, so the value is, too.
    Perplexity, the usual case, takes seconds where resampling in Python takes minutes.
    """
    from lm_eval.api import metrics

    resample = _perplexities if f is metrics.perplexity else functools.partial(_resample, f)
    chunk = min(CHUNK, iters)
    estimates = [estimate for seed in range(iters // chunk) for estimate in resample(xs, seed, chunk)]
    return float(metrics.sample_stddev(estimates))


def _resample(metric: Metric, values: Sequence[Any], seed: int, count: int) -> list[float]:
    generator = random.Random(seed)
    return [metric(generator.choices(values, k=len(values))) for _ in range(count)]


def _perplexities(values: Sequence[float], seed: int, count: int) -> list[float]:
    # NumPy's legacy generator, given the state of Python's, continues with the same numbers.
    *key, position = random.Random(seed).getstate()[1]
    generator = np.random.RandomState()
    generator.set_state(("MT19937", np.array(key, np.uint32), position, 0, 0.0))
    loglikelihoods, size = np.asarray(values, np.float64), len(values)
    rows = max(1, BLOCK // size)
    estimates: list[float] = []
    for start in range(0, count, rows):
        chosen = (generator.random_sample((min(rows, count - start), size)) * size).astype(np.intp)
        estimates.extend(np.exp(-loglikelihoods[chosen].mean(axis=1)).tolist())
    return estimates
