"""lm-eval's bootstrapped standard errors, with equal random draws, computed in this process.

lm-eval forks a pool of workers for them. JAX runs threads, and a process with threads must not fork:
it may hang.
"""

import contextlib
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

    if f is metrics.perplexity:
        return float(perplexity_stderrs(np.array([xs], np.float64), iters)[0])
    chunk = min(CHUNK, iters)
    estimates = [estimate for seed in range(iters // chunk) for estimate in _resample(f, xs, seed, chunk)]
    return float(metrics.sample_stddev(estimates))


def perplexity_stderrs(loglikelihoods: np.ndarray, iters: int) -> np.ndarray:
    """`bootstrap_stderr` of lm-eval's perplexity for each row of [rows, documents], over the same resamples.

    The random draws are made once: a resample is how often it takes each document, so that a block of resamples of all
    rows is one matrix product.
    """
    chunk = min(CHUNK, iters)
    means = np.concatenate(
        [
            counts @ loglikelihoods.T / loglikelihoods.shape[1]
            for seed in range(iters // chunk)
            for counts in _times_drawn(loglikelihoods.shape[1], seed, chunk)
        ]
    )
    with np.errstate(over="ignore", invalid="ignore"):
        return np.std(np.exp(-means), axis=0, ddof=1)


def _resample(metric: Metric, values: Sequence[Any], seed: int, count: int) -> list[float]:
    generator = random.Random(seed)
    return [metric(generator.choices(values, k=len(values))) for _ in range(count)]


def _times_drawn(size: int, seed: int, count: int) -> Iterator[np.ndarray]:
    """How often each of `size` values is in each of `count` resamples, [resamples, size] in blocks of resamples."""
    # NumPy's legacy generator, given the state of Python's, continues with the same numbers.
    *key, position = random.Random(seed).getstate()[1]
    generator = np.random.RandomState()
    generator.set_state(("MT19937", np.array(key, np.uint32), position, 0, 0.0))
    rows = max(1, BLOCK // size)
    for start in range(0, count, rows):
        block = min(rows, count - start)
        chosen = (generator.random_sample((block, size)) * size).astype(np.intp)
        chosen += np.arange(block)[:, None] * size
        yield np.bincount(chosen.reshape(-1), minlength=block * size).reshape(block, size).astype(np.float64)
