"""Sampling: draws that depend on the seed and the prompt alone, of transformers' candidates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxpaint.base.errors import UserError
from jaxpaint.generation import Sampling
from jaxpaint.generation.sampling import next_tokens
from tests.generation.test_generation import generated, random_prompts
from tests.helpers.decoders import make_tiny


@pytest.mark.slow
def test_draws_depend_on_the_seed_and_the_prompt_alone():
    tiny = make_tiny("grouped-query")
    prompts = random_prompts(7, 6, new=12)
    plans = [tiny.model.full_plan]
    hot = Sampling(temperature=1.5, seed=3)
    found = generated(tiny, prompts, plans, sampling=hot, batch_size=6)
    assert found == generated(tiny, prompts, plans, sampling=hot, batch_size=2)
    assert found != generated(tiny, prompts, plans, sampling=Sampling(temperature=1.5, seed=4))
    assert found != generated(tiny, prompts, plans)


@pytest.mark.slow
def test_one_candidate_is_greedy():
    tiny = make_tiny("grouped-query")
    prompts, plans = random_prompts(8, 4), [tiny.model.full_plan]
    greedy = generated(tiny, prompts, plans)
    assert greedy == generated(tiny, prompts, plans, sampling=Sampling(temperature=5.0, top_k=1))
    assert greedy == generated(tiny, prompts, plans, sampling=Sampling(temperature=5.0, top_p=1e-6))


def test_greedy_is_the_first_of_the_largest_and_a_token_even_of_no_number():
    logits = np.zeros((4, 5), np.float32)
    logits[0, [1, 3]] = 2.0
    logits[1] = -np.inf
    logits[2, 4] = np.inf
    logits[3, 2] = np.nan
    found = jax.jit(next_tokens)(logits, jnp.arange(4), jnp.zeros(4, int), Sampling().data)
    assert found[:3].tolist() == np.argmax(logits[:3], axis=-1).tolist()
    assert 0 <= found[3] < 5


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.7), Sampling(1.0, top_k=5), Sampling(2.0, top_p=0.6), Sampling(1.3, top_k=8, top_p=0.7)],
    ids=str,
)
def test_candidates_and_their_frequencies_are_those_of_transformers(sampling):
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(0, 2, (1, 30)).astype(np.float32)
    expected = TemperatureLogitsWarper(sampling.temperature)(None, torch.tensor(logits))
    if sampling.top_k:
        expected = TopKLogitsWarper(sampling.top_k)(None, expected)
    if sampling.top_p < 1:
        expected = TopPLogitsWarper(sampling.top_p)(None, expected)
    expected = torch.softmax(expected, -1)[0].numpy()
    draws = 20_000
    drawn = jax.jit(next_tokens)(
        jnp.broadcast_to(logits, (draws, 30)), jnp.arange(draws), jnp.zeros(draws, int), sampling.data
    )
    counts = np.bincount(np.asarray(drawn), minlength=30)
    assert (counts[expected == 0] == 0).all()
    deviation = np.sqrt(draws * expected * (1 - expected)) + 1e-9
    assert (np.abs(counts - draws * expected) < 5 * deviation + 1).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; expected 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": -1}, "top-k is -1"),
        ({"top_p": 0.0}, "top-p is 0.0"),
        ({"top_p": 1.5}, "top-p is 1.5"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_impossible_sampling(values, message):
    with pytest.raises(UserError, match=message):
        Sampling(**values)
