"""GSM8K on the real model: the texts that transformers writes with its layers rearranged, and lm-eval's own scores.

JAXPAINT_GSM8K=40 runs 40 documents, under the full plan with answers of up to 256 tokens; by default two, of 24.
"""

from __future__ import annotations

import contextlib
import copy
import os

import numpy as np
import pytest

from jaxpaint.generation import generate
from jaxpaint.plans import strategies
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import build_instances, evaluate, load_tasks
from jaxpaint.tasks.local_data import parse_data_option
from tests.helpers.real_assets import DATA, needs_assets

DOCUMENTS = int(os.environ.get("JAXPAINT_GSM8K", "2"))
# Of an answer; the whole of it is what a score needs.
NEW_TOKENS = 256 if DOCUMENTS >= 40 else 24
SERIES = {"full": {}, "skip": {"start": 12}, "switch": {"layer": 14}, "middle-repeat": {"start": 13}}
GROUPS = {"parallel": {"start": 11}, "looped-parallel": {"start": 12, "iterations": 2}}

pytestmark = [pytest.mark.slow, needs_assets]


def plan_of(name: str, **settings):
    return strategies.build(name, 30, **settings).plan


def gsm8k(new_tokens: int):
    data = [f"gsm8k={DATA / 'gsm8k_test.jsonl'}", f"gsm8k:train={DATA / 'gsm8k_train.jsonl'}"]
    tasks = load_tasks(["gsm8k"], data=parse_data_option(data), num_fewshot=5)
    tasks["tasks"]["gsm8k"].set_config("generation_kwargs", {"max_gen_toks": new_tokens}, update=True)
    return tasks


@contextlib.contextmanager
def rearranged(torch_model, order):
    """transformers with its layers in this order, each application with a place of its own in the cache."""
    import torch

    layers = torch_model.model.layers

    def instance(index: int, number: int):
        layer = copy.copy(layers[index])
        layer._modules = dict(layer._modules)
        layer._modules["self_attn"] = copy.copy(layer.self_attn)
        layer.self_attn.layer_idx = number
        return layer

    try:
        torch_model.model.layers = torch.nn.ModuleList([instance(index, n) for n, index in enumerate(order)])
        torch_model.config.num_hidden_layers = len(order)
        yield
    finally:
        torch_model.model.layers = layers
        torch_model.config.num_hidden_layers = len(layers)


@pytest.mark.parametrize("name", SERIES)
def test_texts_and_scores_equal_lm_evals_own_backend(name, real_model, real_torch_model, real_folder):
    """lm-eval's backend calls transformers' generate, greedily; the same 5-shot prompts, texts, and both filters."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    torch.set_num_threads(os.cpu_count())
    plan = plan_of(name, **SERIES[name])
    tasks = gsm8k(NEW_TOKENS if name == "full" else min(NEW_TOKENS, 48))
    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    with rearranged(real_torch_model, plan.sequence()):
        peer = HFLM(pretrained=real_torch_model, tokenizer=tokenizer, batch_size=8, max_length=2048)
        theirs = evaluate(peer, tasks, limit=DOCUMENTS, log_samples=True, bootstrap_iters=0)
    lm = PlanLM(real_model, plan, batch_size=8)
    ours = evaluate(lm, tasks, limit=DOCUMENTS, log_samples=True, bootstrap_iters=0)
    pairs = list(zip(ours["samples"]["gsm8k"], theirs["samples"]["gsm8k"], strict=True))
    assert [a["arguments"] for a, _ in pairs] == [b["arguments"] for _, b in pairs]
    different = {a["doc_id"]: (a["resps"], b["resps"]) for a, b in pairs if a["resps"] != b["resps"]}
    scores = [
        {key: value for key, value in each["results"]["gsm8k"].items() if key.startswith("exact_match")}
        for each in (ours, theirs)
    ]
    characters = sum(len(sample["resps"][0][0]) for sample, _ in pairs)
    equal = len(pairs) - len(different)
    print(f"\n{name}: {equal} of {len(pairs)} texts equal, {characters} characters, {scores[0]}")
    assert not different
    assert scores[0] == scores[1]
    if name == "full":
        assert any(sample["resps"][0][0].strip() for sample, _ in pairs)


@pytest.mark.parametrize("name", GROUPS)
def test_parallel_plans_write_what_full_forward_passes_do(name, real_model):
    """A causal model's full passes, one for every token, are the rows of one pass over the whole text."""
    plan = plan_of(name, **GROUPS[name])
    tasks = gsm8k(min(NEW_TOKENS, 48))
    build_instances(tasks, limit=DOCUMENTS)
    lm = PlanLM(real_model, plan, batch_size=8)
    prompts = [lm.encoding.encode_prompt(instance).prompt for instance in tasks["tasks"]["gsm8k"].instances]
    written = 0
    for found in generate(real_model, prompts, [plan], batch_size=8):
        before = prompts[found.prompt].tokens
        whole = np.array([*before, *found.tokens], np.int32)
        padded = np.zeros((1, -(-len(whole) // 128) * 128), np.int32)
        padded[0, : len(whole)] = whole
        logits = np.asarray(real_model.logits(padded, plan, [len(whole)]))[0, len(before) - 1 : len(whole)]
        assert logits.argmax(axis=-1)[: len(found.tokens)].tolist() == list(found.tokens)
        if found.ending == "end":
            assert logits[-1].argmax() == real_model.tokenizer.eos_token_id
        written += len(found.tokens)
    assert written > 4 * DOCUMENTS
