"""lm-eval's switches: the same prompts, texts and scores as lm-eval's own backend, on a model that chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.tasks.asking import Asking
from jaxpaint.tasks.encoding import Encoding
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from jaxpaint.tasks.requests import load_requests
from tests.helpers.tiny_chat import TEMPLATE, WITHOUT_SYSTEM, make_chat_folder
from tests.helpers.tiny_tasks import CONFIGURATIONS, make_task

TOLERANCE = 1e-4
NAMES = list(CONFIGURATIONS)

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_chat_folder(tmp_path_factory.mktemp("chat") / "model", repetition_penalty=1.2)


@pytest.fixture(scope="module")
def model(folder) -> jp.Model:
    return jp.load(convert(folder, folder.parent / "store"), dtype="float32")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """A folder with a task of every kind, two examples each."""
    path = tmp_path_factory.mktemp("tasks")
    for name in NAMES:
        make_task(path, name, shots=2, description="Answer well.\n")
    return path


def theirs(folder: Path, tasks: Path, max_length: int | None = None, **switches: Any) -> dict[str, Any]:
    peer = HFLM(str(folder), dtype="float32", device="cpu", batch_size=1, logits_cache=False, max_length=max_length)
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(peer, tasks=NAMES, task_manager=manager, bootstrap_iters=0, **switches)


def ours(
    model: jp.Model, tasks: Path, limit: int | None, max_length: int | None = None, **switches: Any
) -> dict[str, Any]:
    asking = Asking(**switches)
    loaded = load_tasks(NAMES, include_path=tasks, asking=asking)
    lm = PlanLM(model, model.full_plan, asking=asking, max_length=max_length)
    return evaluate(lm, loaded, limit=limit, log_samples=True, bootstrap_iters=0, asking=asking)


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name in NAMES:
        pairs = list(zip(found["samples"][name], expected["samples"][name], strict=True))
        for own, other in pairs:
            assert (own["doc_id"], own["arguments"]) == (other["doc_id"], other["arguments"])
        if name == "tiny_write":
            assert [own["resps"] for own, _ in pairs] == [other["resps"] for _, other in pairs]
        for metric, value in expected["results"][name].items():
            if isinstance(value, float):
                assert found["results"][name][metric] == pytest.approx(value, rel=TOLERANCE), (name, metric)


CHAT = {"apply_chat_template": True}
SEEDS = {"random_seed": 1, "numpy_random_seed": 2, "torch_random_seed": 3, "fewshot_random_seed": 4}


@pytest.mark.parametrize(
    ("switches", "their_switches"),
    [
        ({}, {"fewshot_as_multiturn": False}),
        (CHAT, CHAT),
        ({**CHAT, "fewshot_as_multiturn": False}, None),
        ({**CHAT, "system_instruction": "Be brief."}, None),
        ({"system_instruction": "Be brief."}, {"system_instruction": "Be brief.", "fewshot_as_multiturn": False}),
        ({"gen_kwargs": {"max_gen_toks": 20, "repetition_penalty": 1.7, "until": ["zzz"]}}, None),
        ({"seed": (1, 2, 3, 4)}, SEEDS),
    ],
    ids=["none", "chat", "examples in one turn", "system", "system without a chat", "gen_kwargs", "seeds"],
)
@pytest.mark.slow
def test_prompts_texts_and_scores_equal_lm_evals_own(folder, model, tasks, switches, their_switches):
    expected = theirs(folder, tasks, limit=4, **(switches if their_switches is None else their_switches))
    assert_equal(ours(model, tasks, 4, **switches), expected)


@pytest.mark.slow
def test_chosen_documents(folder, model, tasks):
    samples = {"tiny_write": [1, 3, 7], "tiny_choice": [0, 9]}
    found = ours(model, tasks, None, samples={"tiny_write": [7, 1, 3, 3], "tiny_choice": [0, 9]})
    assert_equal(found, theirs(folder, tasks, samples=samples))
    documents = [sample["doc_id"] for sample in found["samples"]["tiny_write"] if sample["filter"] == "whole"]
    assert documents == [1, 3, 7]
    assert found["config"]["samples"] == {"tiny_write": [7, 1, 3, 3], "tiny_choice": [0, 9]}


@pytest.mark.slow
def test_a_shorter_length(folder, model, tasks):
    assert_equal(ours(model, tasks, 4, max_length=60), theirs(folder, tasks, max_length=60, limit=4))


@pytest.mark.slow
def test_a_template_that_refuses_the_system_is_given_the_other_turns(tmp_path, tasks):
    folder = make_chat_folder(tmp_path / "model", WITHOUT_SYSTEM)
    switches = {**CHAT, "system_instruction": "Be brief."}
    found = ours(jp.load(convert(folder, tmp_path / "store"), dtype="float32"), tasks, 2, **switches)
    assert_equal(found, theirs(folder, tasks, limit=2, **switches))
    assert "Be brief." not in json.dumps(found["samples"]["tiny_write"][0]["arguments"])


# --- What a store keeps them apart by -----------------------------------------------------------------------


def requests(model: jp.Model, tasks: Path, name: str = "tiny_write", limit: int | None = 4, **switches: Any) -> Any:
    asking = Asking(**switches)
    loaded = load_tasks([name], include_path=tasks, asking=asking)
    (found,) = load_requests(Encoding.of(model, asking=asking), loaded, limit=limit, asking=asking)
    return found


def test_every_switch_makes_other_results(model, tasks):
    """The settings without switches are those that stores have had."""
    plain = requests(model, tasks)
    names = {"configuration", "max_length", "random_seed", "numpy_seed", "fewshot_seed", "kv", "generation"}
    assert plain.settings.keys() == names  # the last, because this checkpoint has a penalty
    assert plain.settings["generation"] == {"repetition_penalty": 1.2}
    others = [
        requests(model, tasks, **switches)
        for switches in (
            CHAT,
            {**CHAT, "fewshot_as_multiturn": False},
            {**CHAT, "system_instruction": "Be brief."},
            {"system_instruction": "Be brief."},
            {"gen_kwargs": {"max_gen_toks": 3}},
            {"seed": (0, 1234, 1234, 7)},
            {"seed": (0, 1234, 7, 1234)},
        )
    ]
    others.append(requests(model, tasks, limit=None, samples={"tiny_write": [0, 1, 2, 3]}))
    settings = [json.dumps(each.settings, sort_keys=True) for each in (plain, *others)]
    assert len(set(settings)) == len(settings)
    same = requests(model, tasks, seed=(0, 1234, 1234, 1234))
    assert (same.settings, same.identities) == (plain.settings, plain.identities)


def test_chosen_documents_keep_their_numbers(model, tasks):
    found = requests(model, tasks, limit=None, samples={"tiny_write": [9, 2]})
    assert [document for document, _, _ in found.identities] == [2, 9]
    assert [instance.doc_id for instance in found.instances] == [2, 9]
    assert "9: she put" in found.instances[1].args[0].splitlines()[-1]


# --- Templates ------------------------------------------------------------------------------------------------


def test_a_template_by_its_name(tmp_path):
    templates = {"default": TEMPLATE, "other": "{{ messages[-1]['content'] }} (other)"}
    store = convert(make_chat_folder(tmp_path / "model", templates), tmp_path / "store")
    model, turns = jp.load(store, dtype="float32"), [{"role": "user", "content": "Hello"}]
    assert Encoding.of(model, asking=Asking(apply_chat_template="other")).chat(turns) == "Hello (other)"
    assert Encoding.of(model, asking=Asking(apply_chat_template=True)).chat(turns) == "<s><|user|>Hello\n<|assistant|>"
    with pytest.raises(UserError, match=r"has no chat template 'missing'; it has default, other"):
        Encoding.of(model, asking=Asking(apply_chat_template="missing"))


def test_no_template(tmp_path):
    model = jp.load(convert(make_chat_folder(tmp_path / "model", None), tmp_path / "store"), dtype="float32")
    with pytest.raises(UserError, match="has no chat template"):
        PlanLM(model, model.full_plan, asking=Asking(apply_chat_template=True))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{% if %}",
        "{{ raise_exception('never') }}",
    ],
)
@pytest.mark.few(1)
def test_a_template_reaches_nothing_and_fails_in_a_line(tmp_path, tasks, template):
    """The interpreter's classes, the list of turns, and the machine's time are out of its reach."""
    model = jp.load(convert(make_chat_folder(tmp_path / "model", template), tmp_path / "store"), dtype="float32")
    with pytest.raises(UserError, match="chat template fails") as caught:
        requests(model, tasks, **CHAT)
    assert "\n" not in str(caught.value)


# --- What cannot be -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"fewshot_as_multiturn": True}, "give --apply-chat-template, too"),
        ({"samples": {"tiny_write": [0, 12]}}, "document 12 of tiny_write, which has 12"),
        ({"samples": {"tiny_wrote": [0]}}, "'tiny_wrote' is not among the tasks asked for: tiny_write"),
        ({"samples": {"tiny_write": [0]}, "limit": 2}, "--limit has no meaning beside it"),
    ],
    ids=str,
)
def test_switches_that_cannot_be(model, tasks, switches, message):
    switches = {"limit": None, **switches}
    with pytest.raises(UserError, match=message):
        requests(model, tasks, **switches)


@pytest.mark.parametrize("length", [0, 513])
def test_lengths_that_cannot_be(model, length):
    with pytest.raises(UserError, match=f"--max-length is {length}; expected 1 to the model's 512 positions"):
        Encoding.of(model, max_length=length)
