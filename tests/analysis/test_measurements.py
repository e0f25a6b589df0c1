"""Measurements that plans are proposed from, against transformers on torch; and the plans."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch

import jaxpaint as jp
from jaxpaint.analysis.measurements import measure
from jaxpaint.base.errors import UserError
from jaxpaint.plans.proposals import MEASURED, halves
from tests.helpers.decoders import VOCAB_SIZE, make_tiny
from tests.helpers.torch_runs import torch_run

TEXTS = [np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist() for seed, length in enumerate((9, 14, 5))]


@pytest.fixture(scope="module")
def tiny():
    return make_tiny("grouped-query")


def _states(network: torch.nn.Module, layers: torch.nn.ModuleList, text: list[int]) -> np.ndarray:
    """Of the embeddings and after each layer, before the final norm: [T + 1, S, D]."""
    found: list[torch.Tensor] = []

    def keep(_, __, out) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    with torch.no_grad():
        embedded = network(torch.tensor([text]), output_hidden_states=True).hidden_states[0]
    for hook in hooks:
        hook.remove()
    return np.stack([np.asarray(state[0], np.float64) for state in (embedded, *found)])


def test_block_influence_is_of_transformers_hidden_states(tiny) -> None:
    (found,) = measure(tiny.model, ["block_influence"], TEXTS).values()
    influence = []
    for text in TEXTS:
        states = _states(tiny.torch, tiny.torch_layers, text)
        units = states / np.linalg.norm(states, axis=-1, keepdims=True)
        cosines = [(x * y).sum(-1) for x, y in pairwise(units)]
        influence.append(1 - np.array(cosines))
    wanted = np.concatenate(influence, axis=1).mean(axis=1)
    np.testing.assert_allclose(found, wanted, atol=2e-6)

    variant = jp.propose(tiny.model, "drop-by-influence", TEXTS, count=2)
    assert variant.plan.sequence() == tuple(sorted(np.argsort(wanted)[2:].tolist()))


def test_angles_of_spans_are_of_transformers_hidden_states(tiny) -> None:
    (found,) = measure(tiny.model, ["angular_distance"], TEXTS).values()
    last = [_states(tiny.torch, tiny.torch_layers, text)[:, -1] for text in TEXTS]
    units = [state / np.linalg.norm(state, axis=1, keepdims=True) for state in last]
    wanted = np.mean([np.arccos(np.clip(unit @ unit.T, -1, 1)) / np.pi for unit in units], axis=0)
    layers = tiny.model.num_layers
    for layer, row in enumerate(found):
        np.testing.assert_allclose(row, wanted[layer, layer + 1 :], atol=2e-6)
    first = min(range(layers - 1), key=lambda layer: wanted[layer, layer + 2])
    plan = jp.propose(tiny.model, "drop-span-by-angle", TEXTS, count=2).plan
    assert set(range(layers)) - set(plan.sequence()) == {first, first + 1}


def test_influence_of_sublayers_is_of_transformers_halves_of_layers(tiny) -> None:
    (found,) = measure(tiny.model, ["sublayer_influence"], TEXTS).values()
    influence = []
    for text in TEXTS:
        states = torch_run(tiny, [text], halves(tiny.model.num_layers))["states"][:, 0].astype(np.float64)
        units = states / np.linalg.norm(states, axis=-1, keepdims=True)
        influence.append(1 - np.array([(x * y).sum(-1) for x, y in pairwise(units)]))
    wanted = np.concatenate(influence, axis=1).mean(axis=1)
    assert len(wanted) == 2 * tiny.model.num_layers
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    for strategy, first, letter in (("drop-attention-by-influence", 0, "m"), ("drop-mlp-by-influence", 1, "a")):
        least = int(np.argmin(wanted[first::2]))
        layers = [f"{layer}{letter}" if layer == least else str(layer) for layer in range(tiny.model.num_layers)]
        assert jp.propose(tiny.model, strategy, TEXTS, count=1).plan == jp.Plan.parse(" ".join(layers))


def test_perplexity_is_that_of_transformers_without_the_layer(tiny) -> None:
    (found,) = measure(tiny.model, ["perplexity"], TEXTS, batch_tokens=16).values()
    wanted = []
    for layer in range(tiny.model.num_layers):
        less = copy.deepcopy(tiny.torch)
        del less.model.layers[layer]
        total, tokens = 0.0, 0
        for text in TEXTS:
            with torch.no_grad():
                logits = less(torch.tensor([text]), use_cache=False).logits[0, :-1].double()
            total += torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]), reduction="sum").item()
            tokens += len(text) - 1
        wanted.append(np.exp(total / tokens))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("variation", ["grouped-query", "neox"])
@pytest.mark.few(1)
def test_perplexity_without_a_sublayer_is_that_of_transformers_without_it(variation) -> None:
    """Of NeoX, whose halves read one input, too."""
    tiny = make_tiny(variation)
    (found,) = measure(tiny.model, ["sublayer_perplexity"], TEXTS).values()
    layers, wanted = tiny.model.num_layers, []
    for one in range(layers):
        for left in "ma":
            plan = jp.Plan.parse(" ".join(f"{layer}{left}" if layer == one else str(layer) for layer in range(layers)))
            total, tokens = 0.0, 0
            for text in TEXTS:
                logits = torch.tensor(torch_run(tiny, [text], plan)["logits"][0, :-1]).double()
                total += torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]), reduction="sum").item()
                tokens += len(text) - 1
            wanted.append(np.exp(total / tokens))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for strategy, first, letter in (("drop-attention-by-perplexity", 0, "m"), ("drop-mlp-by-perplexity", 1, "a")):
        least = int(np.argmin(wanted[first::2]))
        parts = [f"{layer}{letter}" if layer == least else str(layer) for layer in range(layers)]
        assert jp.propose(tiny.model, strategy, TEXTS, count=1).plan == jp.Plan.parse(" ".join(parts))


def test_measured_together_as_alone(tiny) -> None:
    names = list(dict.fromkeys(strategy.measurement for strategy in MEASURED.values()))
    together = measure(tiny.model, names, TEXTS)
    assert sorted(together) == sorted(names)
    layers = tiny.model.num_layers
    lengths = [len(together[name]) for name in ("agreement", "similarity", "block_influence")]
    assert lengths == [layers + 1, layers + 1, layers]
    assert together["agreement"][-1] == 1
    for name in names:
        assert measure(tiny.model, [name], TEXTS)[name] == together[name]


@pytest.mark.parametrize("strategy", MEASURED)
def test_every_strategy_proposes_a_plan_that_runs(tiny, strategy: str) -> None:
    variant = jp.propose(tiny.model, strategy, TEXTS, count=1)
    without = 0.5 if MEASURED[strategy].measurement.startswith("sublayer") else 1
    assert variant.plan.depth == tiny.model.num_layers - without
    assert np.isfinite(np.asarray(tiny.model.logits(np.array([TEXTS[0]]), plan=variant.plan))).all()


def test_mistakes_are_told(tiny) -> None:
    layers = tiny.model.num_layers
    with pytest.raises(UserError, match=f"count {layers} is out of range: 1-{layers - 1}"):
        jp.propose(tiny.model, "drop-by-perplexity", TEXTS, count=layers)
    with pytest.raises(UserError, match="strategy skip takes no measurements"):
        jp.propose(tiny.model, "skip", TEXTS, count=1)
    with pytest.raises(UserError, match="no calibration text has two tokens"):
        jp.propose(tiny.model, "drop-by-perplexity", [[1]], count=1)


def test_what_is_not_finite_is_no_measurement(tiny) -> None:
    from dataclasses import replace

    import jax

    broken = replace(tiny.model, state=jax.tree.map(lambda leaf: leaf * float("nan"), tiny.model.state))
    with pytest.raises(UserError, match="block_influence on the calibration texts is not finite"):
        jp.propose(broken, "drop-by-influence", TEXTS, count=1)
