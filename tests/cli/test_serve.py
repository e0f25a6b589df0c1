"""`jaxpaint serve`: what is refused before a model is read, and the command as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib import util

import pytest
import requests
import uvicorn

from jaxpaint.cli import serve

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--plan", "a=0 99"], ("the plan uses layer 99", "5 layers")),
        (["--plan", "a b=0 4"], ("the name 'a b'",)),
        (["--plan", "a=0 4", "--plan", "a=0 3"], ("two plans are named", "@a")),
        (["--max-tokens", 0], ("--max-tokens is 0",)),
        (["--max-queue", 0], ("--max-queue is 0",)),
        (["--port", -1], ("--port is -1",)),
        (["--port", 99999], ("cannot listen on 127.0.0.1, port 99999",)),
        (["--host", "0.0.0.0"], ("--host 0.0.0.0 lets other machines in", "--token-file", "JAXPAINT_TOKEN")),
        (["--host", "example.org"], ("--host example.org lets other machines in",)),
        (["--token-file", "/no/such/file"], ("/no/such/file cannot be read",)),
    ],
)
def test_mistakes(refused, folder, options, expected, monkeypatch) -> None:
    monkeypatch.delenv(serve.TOKEN, raising=False)
    refused("serve", "--model", folder, *options, expected=expected)


def test_a_port_that_is_taken(refused, folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused("serve", "--model", folder, "--port", port, expected=(f"port {port}", "another --port"))


@pytest.mark.parametrize("text", ["", " \n", "two words", "schlüssel"])
def test_tokens_that_cannot_be_are_not_shown(refused, folder, tmp_path, text) -> None:
    (tmp_path / "token").write_text(text)
    line = refused("serve", "--model", folder, "--token-file", tmp_path / "token", expected=("holds no token",))
    assert not text.strip() or text not in line


def test_a_missing_extra(refused, folder, monkeypatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name in ("starlette", "uvicorn") else find(name))
    refused("serve", "--model", folder, expected=("starlette and uvicorn", "pip install 'jaxpaint[serve]'"))


def test_an_encoder_writes_nothing(refused, tmp_path) -> None:
    from tests.helpers.tiny_glue import tiny_folder

    refused("serve", "--model", tiny_folder(tmp_path / "bert"), expected=("writing text",))


@pytest.mark.parametrize(("host", "is_local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False)])
def test_what_is_this_machine_alone(host, is_local) -> None:
    assert serve._is_loopback(host) is is_local


def test_the_command(store) -> None:
    """It prints where it listens and what to try; the curl line's request is answered; Ctrl-C ends it with a line."""
    code = "from jaxpaint.cli import script; script()"
    command = [sys.executable, "-c", code, "serve", "--model", str(store), "--port", "0", "--plan", "skip=0 4"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", serve.TOKEN: "secret-token"}
    with subprocess.Popen(
        command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            printed = [process.stdout.readline() for _ in range(6)]
            address = re.fullmatch(r"listening on (http://127\.0\.0\.1:\d+/v1); models:\n", printed[0])[1]
            assert [line.split()[0] for line in printed[1:3]] == [store.name, f"{store.name}@skip"]
            assert printed[4].startswith(f"  curl {address}/completions -H 'Content-Type: application/json'")
            asked = json.loads(re.fullmatch(r"    -d '(.*)'\n", printed[5])[1])
            headers = {"Authorization": "Bearer secret-token"}
            answer = requests.post(f"{address}/completions", json=asked, headers=headers, timeout=120)
            assert answer.status_code == 200
            assert answer.json()["model"] == f"{store.name}@skip"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "jaxpaint: interrupted\n")
    assert "secret-token" not in "".join(printed)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_the_event_loop_lost(run, store, monkeypatch, signum, status) -> None:
    """uvicorn raises it again in a coroutine; where nothing comes of that, the command ends as by the signal still."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: server.handle_exit(signum, None))
    ended, _, err = run("serve", "--model", store, "--port", 0)
    assert (ended, err) == (status, f"jaxpaint: {'interrupted' if status == 130 else 'terminated'}\n")
