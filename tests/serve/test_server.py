"""What a server answers over HTTP: the command's own texts, streams, errors in words."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
import pytest
import requests

import jaxpaint as jp
from jaxpaint.generation import Prompt, generate
from jaxpaint.generation.text import finished_text
from jaxpaint.plans.plan import Plan
from jaxpaint.serve import work
from tests.helpers.running_server import running, until
from tests.helpers.tiny_chat import make_chat_folder

PLANS = ("wide=0 {1-3} 4", "0 4")
NAMES = {"tiny": "0-4", "tiny@wide": "0 {1-3} 4", "tiny@0 4": "0 4", "tiny@0 {1-3} 4": "0 {1-3} 4"}
PROMPT = "Where is the violin?"  # none of the plans ends its text soon


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Iterator[jp.Model]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPAINT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield jp.load(make_chat_folder(tmp_path_factory.mktemp("chat") / "model"))


@pytest.fixture(scope="module")
def address(model) -> Iterator[str]:
    with running(model, PLANS) as address:
        yield address


class Held:
    """What a model does, once `go` is set; `begun` is set when it was first asked to, and `batches` is for what."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        self.batches: list[Sequence[work.Job]] = []

    def do(self, model: jp.Model, jobs: Sequence[work.Job]) -> None:
        self.batches.append(jobs)
        self.begun.set()
        assert self.go.wait(60)
        work.do(model, jobs)


def waiting(address: str) -> int:
    return requests.get(f"{address}/health", timeout=60).json()["waiting"]


def post(address: str, route: str = "completions", **given: Any) -> requests.Response:
    values = {"model": "tiny", **given}
    if route == "completions":
        values = {"prompt": PROMPT, "max_tokens": 8, "temperature": 0, **values}
    return requests.post(f"{address}/v1/{route}", json=values, timeout=120)


def complete(address: str, **given: Any) -> dict[str, Any]:
    answer = post(address, **given)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: requests.Response, status: int, *words: str) -> None:
    error = answer.json()["error"]
    assert (answer.status_code, [word for word in words if word not in error["message"]]) == (status, []), error


def written(model: jp.Model, plan: str, tokens: Sequence[int], new: int = 8, stop: tuple[str, ...] = ()) -> str:
    (found,) = generate(model, [Prompt(tuple(tokens), new, stop)], [Plan.parse(plan)])
    return finished_text(model.tokenizer, found.tokens, stop)


def events(answer: requests.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in answer.content.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(1)
def test_a_name_picks_the_plan(address, model, name) -> None:
    tokens = model.tokenizer.encode(PROMPT)
    found = complete(address, model=name)
    (choice,) = found["choices"]
    assert choice["text"] == written(model, NAMES[name], tokens)
    assert (found["model"], found["object"], choice["logprobs"]) == (name, "text_completion", None)
    assert found["usage"] == {"prompt_tokens": len(tokens), "completion_tokens": 8, "total_tokens": len(tokens) + 8}
    assert choice["finish_reason"] == "length"


@pytest.mark.slow
def test_the_plans_differ(address) -> None:
    assert len({complete(address, model=name)["choices"][0]["text"] for name in ("tiny", "tiny@wide", "tiny@0 4")}) == 3


def test_a_prompt_has_four_forms(address, model) -> None:
    texts = [PROMPT, "A violin, an orchard"]
    tokens = [model.tokenizer.encode(text) for text in texts]
    expected = [written(model, "0-4", each) for each in tokens]
    for prompt, number in ((texts[0], 1), (tokens[0], 1), (texts, 2), (tokens, 2)):
        choices = complete(address, prompt=prompt)["choices"]
        assert [(each["index"], each["text"]) for each in choices] == list(enumerate(expected[:number]))


def test_the_list_of_models(address) -> None:
    data = requests.get(f"{address}/v1/models", timeout=60).json()["data"]
    assert [(each["id"], each["plan"], each["cost"], each["depth"]) for each in data] == [
        ("tiny", "0-4", 5, 5),
        ("tiny@wide", "0 {1-3} 4", 5, 3),
        ("tiny@0 4", "0 4", 2, 2),
    ]
    assert requests.get(f"{address}/v1/models/tiny@wide", timeout=60).json() == data[1]
    assert requests.get(f"{address}/health", timeout=60).json()["status"] == "ok"


def test_equal_seeds_draw_equally_whoever_else_asks(address) -> None:
    drawn = {"temperature": 1.5, "seed": 7, "max_tokens": 12}
    alone = complete(address, prompt=[PROMPT, PROMPT], **drawn)["choices"]
    assert alone[0]["text"] != alone[1]["text"]
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(complete, address, prompt="A ladder", **{**drawn, "seed": seed}) for seed in range(3)]
        again = pool.submit(complete, address, prompt=[PROMPT, PROMPT], **drawn).result()["choices"]
        assert len({other.result()["choices"][0]["text"] for other in others}) > 1
    assert [each["text"] for each in again] == [each["text"] for each in alone]


def test_without_a_seed_or_a_temperature_every_text_is_drawn_anew(address) -> None:
    assert len({complete(address, temperature=None, max_tokens=20)["choices"][0]["text"] for _ in range(3)}) > 1


def test_a_stop_string_ends_a_text(address, model) -> None:
    whole = complete(address, max_tokens=24)["choices"][0]["text"]
    stop = whole[9:12]
    found = complete(address, max_tokens=24, stop=[stop, "never written"], logprobs=0)
    (choice,) = found["choices"]
    assert (choice["text"], choice["finish_reason"]) == (whole[: whole.index(stop)], "stop")
    assert "".join(choice["logprobs"]["tokens"]).startswith(choice["text"])
    # No token is counted beyond that with which the stop string was whole.
    assert stop in "".join(choice["logprobs"]["tokens"])
    assert stop not in "".join(choice["logprobs"]["tokens"][:-1])
    assert found["usage"]["completion_tokens"] == len(choice["logprobs"]["tokens"])


def test_a_stream_adds_up_to_the_whole(address, model) -> None:
    texts = [PROMPT, "A violin, an orchard"]
    asked = {"prompt": texts, "max_tokens": 24, "stop": "zz", "echo": True}
    whole = complete(address, **asked)
    streamed = post(address, **asked, stream=True, stream_options={"include_usage": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *pieces, last = events(streamed)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    choices = [piece["choices"][0] for piece in pieces]
    for index, expected in enumerate(whole["choices"]):
        own = [choice for choice in choices if choice["index"] == index]
        assert len(own) > 4
        assert "".join(choice["text"] for choice in own) == expected["text"]
        assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
        assert own[-1]["finish_reason"] == expected["finish_reason"]


@pytest.mark.slow
def test_chats_go_by_the_template(address, model) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    prompt = "<s><|system|>Be brief.\n<|user|>Hi\n<|assistant|>"
    expected = written(model, "0 {1-3} 4", model.tokenizer.encode(prompt, add_special_tokens=False), new=10)
    asked = {"model": "tiny@wide", "messages": messages, "max_completion_tokens": 10, "temperature": 0}
    found = post(address, "chat/completions", **asked).json()
    assert found["choices"][0]["message"] == {"role": "assistant", "content": expected}
    assert found["object"] == "chat.completion"
    deltas = [piece["choices"][0]["delta"] for piece in events(post(address, "chat/completions", **asked, stream=True))]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content", "") for delta in deltas) == expected


@pytest.mark.parametrize("name", ["tiny", "tiny@wide"])
@pytest.mark.few(1)
def test_log_probabilities_of_prompt_and_text(address, model, name) -> None:
    """Beside those of a plain forward pass over the whole."""
    tokens = model.tokenizer.encode(PROMPT)
    found = complete(address, model=name, echo=True, logprobs=3, max_tokens=6)["choices"][0]
    logprobs = found["logprobs"]
    text = written(model, NAMES[name], tokens, 6)
    (continuation,) = generate(model, [Prompt(tuple(tokens), 6)], [Plan.parse(NAMES[name])])
    whole = (*tokens, *continuation.tokens)

    def spelt(*tokens: int) -> list[str]:
        """Parts of characters as the vocabulary has them."""
        texts = [
            (model.tokenizer.decode([token]), model.tokenizer.convert_ids_to_tokens(int(token))) for token in tokens
        ]
        return [entry if "\N{REPLACEMENT CHARACTER}" in text else text for text, entry in texts]

    expected = np.asarray(jax.nn.log_softmax(model.logits(np.array([whole]), Plan.parse(NAMES[name]))[0]))
    assert found["text"] == PROMPT + text
    assert logprobs["tokens"] == spelt(*whole)
    assert logprobs["token_logprobs"][0] is None
    places = np.arange(len(whole) - 1)
    np.testing.assert_allclose(logprobs["token_logprobs"][1:], expected[places, whole[1:]], atol=1e-4)
    for place, top in enumerate(logprobs["top_logprobs"][1:]):
        best = np.argsort(-expected[place])[:3]
        words = set(spelt(whole[place + 1], *best))
        assert top.keys() == words
        np.testing.assert_allclose(max(top.values()), expected[place].max(), atol=1e-4)
    assert [PROMPT[start : start + 3] for start in logprobs["text_offset"][:3]] == [
        PROMPT[len("".join(logprobs["tokens"][:place])) :][:3] for place in range(3)
    ]
    only = complete(address, model=name, logprobs=3, max_tokens=6)["choices"][0]["logprobs"]
    assert only["tokens"] == logprobs["tokens"][len(tokens) :]
    np.testing.assert_allclose(only["token_logprobs"], logprobs["token_logprobs"][len(tokens) :], atol=1e-4)


def test_a_prompt_may_fill_the_model_where_it_is_scored_alone(address) -> None:
    """As many tokens as `jaxpaint eval` runs; what comes after the last one is asked of its own logits."""
    for most in (0, 1):
        scored = complete(address, prompt=[7] * 512, echo=True, logprobs=1, max_tokens=most)["choices"][0]["logprobs"]
        assert len(scored["tokens"]) == len(scored["token_logprobs"]) == len(scored["top_logprobs"]) == 512 + most
    top = scored["top_logprobs"][-1]
    assert top == {scored["tokens"][-1]: scored["token_logprobs"][-1]}
    refused(post(address, prompt=[7] * 512, max_tokens=1), 400, "1 more than the model's 512 positions")


def test_a_single_token_ends_as_longer_texts_do(model, tmp_path) -> None:
    """Where what is the most likely ends texts, or a stop string: with log-probabilities as without."""
    (first,) = next(iter(generate(model, [Prompt(tuple(model.tokenizer.encode(PROMPT)), 1)], [model.full_plan]))).tokens
    asked = {"max_tokens": 1, "temperature": 0}
    with running(jp.load(make_chat_folder(tmp_path / "ends", eos_token_id=[first]))) as address:
        for given in ({}, {"logprobs": 1}):
            (choice,) = complete(address, **asked, **given)["choices"]
            assert (choice["text"], choice["finish_reason"]) == ("", "stop")
        assert choice["logprobs"]["tokens"] == [model.tokenizer.decode([first])]
    with running(model) as address:
        for given in ({}, {"logprobs": 1}):
            (choice,) = complete(address, stop=model.tokenizer.decode([first]), **asked, **given)["choices"]
            assert (choice["text"], choice["finish_reason"]) == ("", "stop")


@pytest.mark.slow
def test_requests_that_wait_are_done_together_under_their_own_plans(model) -> None:
    """Four come while the model is busy: their texts are computed at once, and nobody's under another's plan."""
    held, asked = Held(), []
    with running(model, PLANS, work=held.do) as address, ThreadPoolExecutor(5) as pool:
        first = pool.submit(complete, address)
        until(held.begun.is_set)
        for name in NAMES:
            asked.append((name, pool.submit(complete, address, model=name)))
        until(lambda: waiting(address) >= 4)
        held.go.set()
        tokens = model.tokenizer.encode(PROMPT)
        for name, answer in asked:
            assert answer.result()["choices"][0]["text"] == written(model, NAMES[name], tokens)
        first.result()
    assert [len(jobs) for jobs in held.batches] == [1, 4]


def test_a_full_queue_is_told(model) -> None:
    held = Held()
    with running(model, most=2, work=held.do) as address, ThreadPoolExecutor(3) as pool:
        under_way = pool.submit(complete, address)
        until(held.begun.is_set)
        second = pool.submit(complete, address, prompt=[PROMPT, "A ladder"])
        until(lambda: waiting(address) == 2)
        refused(post(address), 429, "2 prompts wait already", "try again")
        refused(post(address, stream=True), 429, "2 prompts wait already")
        refused(post(address, prompt=[PROMPT] * 3), 400, "3 prompts in one request", "at most 2")
        held.go.set()
        assert len(second.result()["choices"]) == 2
        under_way.result()


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_nobody(model, stream) -> None:
    held = Held()
    with running(model, work=held.do) as address, ThreadPoolExecutor(1) as pool:
        port = int(address.rpartition(":")[2])
        body = json.dumps({"model": "tiny", "prompt": PROMPT, "stream": stream}).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
            until(held.begun.is_set)
            other = pool.submit(complete, address, prompt="A ladder")
            until(lambda: waiting(address) == 1)
        until(held.batches[0][0].done.cancelled)
        held.go.set()
        assert other.result()["choices"][0]["text"]
        assert complete(address)["choices"][0]["text"]
        assert [len(jobs) for jobs in held.batches] == [1, 1, 1]


def test_who_left_before_the_model_began_costs_nothing(model, monkeypatch) -> None:
    done = []
    monkeypatch.setattr(work, "_write", lambda model, group, sampling: done.append(group))
    jobs = [work.Job(model.full_plan, work.Write((Prompt((token,), 4),), jp.Sampling())) for token in (1, 2)]
    jobs[0].done.cancel()
    work.do(model, jobs)
    assert [group.texts for group in done] == [[Prompt((2,), 4)]]


def test_a_failure_is_told_and_the_server_goes_on(model, capfd) -> None:
    fails = iter([True])

    def sometimes(model: jp.Model, jobs: Sequence[work.Job]) -> None:
        if next(fails, False):
            raise RuntimeError("something of XLA's")
        work.do(model, jobs)

    with running(model, work=sometimes) as address:
        refused(post(address), 500, "the server failed at this request: RuntimeError")
        assert complete(address)["choices"][0]["text"]


def test_whoever_waits_at_the_end_is_told(model, capfd) -> None:
    """What is under way gets two seconds; who waits, and who streams, is told too."""
    held = Held()
    with ThreadPoolExecutor(3) as pool:
        with running(model, work=held.do) as address:
            under_way = pool.submit(post, address, stream=True)
            until(held.begun.is_set)
            other = pool.submit(post, address)
            until(lambda: waiting(address) == 1)
        assert "is being stopped" in events(under_way.result())[-1]["error"]["message"]
        refused(other.result(), 503, "the server is being stopped")
        held.go.set()
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_token_is_asked_for(model, capfd) -> None:
    with running(model, token="secret-token") as address:
        for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "secret-token"}):
            answer = requests.get(f"{address}/v1/models", headers=headers, timeout=60)
            refused(answer, 401, "Authorization: Bearer TOKEN")
            assert "secret-token" not in answer.text
        refused(post(address), 401, "asks for its token")
        allowed = requests.get(f"{address}/v1/models", headers={"Authorization": "Bearer secret-token"}, timeout=60)
        assert allowed.status_code == 200
        assert requests.get(f"{address}/health", timeout=60).status_code == 200
    assert "secret-token" not in "".join(capfd.readouterr())


LONG = "kettle " * 600
MISTAKES = [
    ({"model": "gpt-4"}, 404, ("no model 'gpt-4'", "tiny, tiny@wide, tiny@0 4")),
    ({"model": None}, 400, ("model",)),
    ({"max_tokens": 65}, 400, ("65 new tokens", "at most 64")),
    ({"prompt": LONG}, 400, ("more than the model's 512 positions", "shorten")),
    ({"prompt": LONG, "echo": True, "logprobs": 1, "max_tokens": 1}, 400, ("more than the model's 512",)),
    ({"prompt": ""}, 400, ("the prompt is empty",)),
    ({"prompt": []}, 400, ("the prompt is empty",)),
    ({"prompt": [[]]}, 400, ("the prompt is empty",)),
    ({"prompt": [99999]}, 400, ("99999", "vocabulary")),
    ({"prompt": [99999], "echo": True, "logprobs": 1, "max_tokens": 1}, 400, ("99999", "vocabulary")),
    ({"prompt": [-1]}, 400, ("prompt",)),
    ({"prompt": 7}, 400, ("prompt",)),
    ({"max_tokens": 0}, 400, ("max_tokens is 0", "echo")),
    ({"temperature": -1}, 400, ("temperature",)),
    ({"n": 2}, 400, ("n is 2", "not done here")),
    ({"best_of": 3}, 400, ("best_of is 3", "not done here")),
    ({"suffix": "end"}, 400, ("suffix is 'end'", "left to right")),
    ({"logit_bias": {"1": 5}}, 400, ("logit_bias", "not done here")),
    ({"presence_penalty": 0.5}, 400, ("presence_penalty is 0.5",)),
    ({"logprobs": 6}, 400, ("logprobs",)),
    ({"logprobs": 1, "stream": True}, 400, ("logprobs is not done with stream",)),
    ({"min_p": 0.1}, 400, ("min_p",)),
    ({"prompt": "half \ud83d"}, 400, ("half of a surrogate pair, \\ud83d",)),
    ({"stop": "\ude00"}, 400, ("half of a surrogate pair",)),
]


@pytest.mark.parametrize(("given", "status", "words"), MISTAKES)
def test_mistakes_are_told_in_words(address, given, status, words) -> None:
    refused(post(address, **given), status, *words)


def test_what_asks_for_nothing_is_let_go(address) -> None:
    nothing = {"n": 1, "best_of": 1, "suffix": None, "logit_bias": {}, "presence_penalty": 0.0, "user": "somebody"}
    assert complete(address, **nothing)["choices"] == complete(address)["choices"]


def test_mistakes_of_http(address) -> None:
    route = f"{address}/v1/completions"
    refused(requests.post(route, data="{", headers={"Content-Type": "application/json"}, timeout=60), 400, "JSON")
    refused(requests.post(route, data="[]", headers={"Content-Type": "application/json"}, timeout=60), 400, "object")
    # What a web page may send without asking anybody.
    refused(requests.post(route, data="{}", headers={"Content-Type": "text/plain"}, timeout=60), 415, "text/plain")
    assert requests.get(f"{address}/v1/models", headers={"Host": "evil.example"}, timeout=60).status_code == 400
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert requests.get(f"{address}/v1/models", headers={"Host": host}, timeout=60).status_code == 200
    refused(requests.get(f"{address}/v1/nothing", timeout=60), 404, "/v1/completions")
    refused(requests.get(route, timeout=60), 405, "POST /v1/completions")
    refused(post(address, "chat/completions", messages=[]), 400, "messages")
    one = [{"role": "user", "content": "A"}]
    refused(post(address, "chat/completions", messages=one, logprobs=True), 400, "logprobs")
    refused(post(address, "chat/completions", messages=one, max_tokens=0), 400, "0 new tokens")
    images = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    refused(post(address, "chat/completions", messages=images), 400, "messages")


def test_another_of_this_machines_addresses(model) -> None:
    with running(model, host="127.0.0.2") as address:
        assert requests.get(f"{address}/v1/models", timeout=60).status_code == 200
        assert requests.get(f"{address}/v1/models", headers={"Host": "evil.example"}, timeout=60).status_code == 400


def test_a_model_that_does_not_chat_says_so(folder, nothing_of_the_users) -> None:
    with running(jp.load(folder)) as address:
        answer = post(address, "chat/completions", messages=[{"role": "user", "content": "A"}])
        refused(answer, 400, "no chat template", "/v1/completions")
