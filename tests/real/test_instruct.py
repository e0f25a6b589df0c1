"""The real model's chat template and lm-eval's switches, beside lm-eval's own backend on the same documents."""

from __future__ import annotations

import os

import pytest

from jaxpaint.tasks.asking import Asking
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from jaxpaint.tasks.local_data import parse_data_option
from tests.helpers.real_assets import DATA, needs_assets

pytestmark = [pytest.mark.slow, needs_assets]

# SmolLM2-Instruct's own; the package that carries the model has none.
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
DATA_OPTIONS = {
    "arc_easy": [f"arc_easy={DATA / 'arc_easy.jsonl'}"],
    "gsm8k": [f"gsm8k={DATA / 'gsm8k_test.jsonl'}", f"gsm8k:train={DATA / 'gsm8k_train.jsonl'}"],
}


@pytest.mark.parametrize(("name", "shots"), [("arc_easy", 0), ("gsm8k", 2)])
def test_a_chat_equals_lm_evals_own(name, shots, real_model, real_torch_model, real_folder, monkeypatch):
    import torch
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    torch.set_num_threads(os.cpu_count())
    asking = Asking(
        apply_chat_template=True,
        system_instruction="You answer briefly.",
        gen_kwargs={"max_gen_toks": 24, "repetition_penalty": 1.1},
        samples={name: [0, 3]},
    )
    data = parse_data_option(DATA_OPTIONS[name])
    tokenizer = AutoTokenizer.from_pretrained(real_folder)
    tokenizer.chat_template = TEMPLATE
    monkeypatch.setattr(real_model.tokenizer, "chat_template", TEMPLATE)
    peer = HFLM(pretrained=real_torch_model, tokenizer=tokenizer, max_length=2048)
    theirs = evaluator.evaluate(
        peer,
        load_tasks([name], data=data, num_fewshot=shots, asking=asking),
        samples={name: [0, 3]},
        system_instruction=asking.system_instruction,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        bootstrap_iters=0,
    )
    lm = PlanLM(real_model, real_model.full_plan, asking=asking)
    tasks = load_tasks([name], data=data, num_fewshot=shots, asking=asking)
    ours = evaluate(lm, tasks, log_samples=True, bootstrap_iters=0, asking=asking)
    pairs = list(zip(ours["samples"][name], theirs["samples"][name], strict=True))
    assert len(pairs) == 2 * len({each["filter"] for each in ours["samples"][name]})
    for own, other in pairs:
        assert (own["doc_id"], own["arguments"]) == (other["doc_id"], other["arguments"])
        assert "<|im_start|>system\nYou answer briefly." in own["arguments"][0][0]
        if name == "gsm8k":
            assert own["resps"] == other["resps"]
        else:
            values = [[float(response[0][0]) for response in each["resps"]] for each in (own, other)]
            assert values[0] == pytest.approx(values[1], abs=1e-2)
    numbers = {key: value for key, value in theirs["results"][name].items() if isinstance(value, float)}
    assert {key: ours["results"][name][key] for key in numbers} == pytest.approx(numbers)
