"""Data sets of a hub that cannot be reached, and of one that can but has trouble."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.helpers.cli_fixtures import in_process

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

# Waits are counted, not waited for.
COMMAND = """
import time
slept = []
time.sleep = slept.append
from jaxpaint.cli import main
try: status = main()
except SystemExit as exit: status = exit.code
print("waited", sum(slept))
raise SystemExit(status)
"""
CLOSED = "http://127.0.0.1:9"


class Troubled(HTTPServer):
    """A hub that has trouble of its own (503), and counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Answer)


class _Answer(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def troubled() -> Iterator[Troubled]:
    with Troubled() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked_of(endpoint: str, folder, *arguments: object, **environment: str) -> tuple[float, str]:
    """How many seconds the command waited, and its one line."""
    found = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "HF_HUB_OFFLINE": "0", **environment}
    done = in_process(*arguments, code=COMMAND, no_proxy="127.0.0.1", **found)
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    return float(done.stdout.split()[-1]), line


@pytest.mark.slow
def test_a_dataset_of_a_hub_that_takes_no_connection(store, tmp_path) -> None:
    waited, line = asked_of(CLOSED, tmp_path, "eval", "--model", store, "--tasks", "arc_easy,arc_challenge")
    assert 0 < waited <= 4, "the hub's client alone waits 23 seconds for each data set"
    assert "'arc_easy': the Hugging Face hub cannot be reached (ConnectError)" in line
    assert "--data arc_easy=FILE" in line


@pytest.mark.slow
def test_glue_of_a_hub_that_takes_no_connection(tmp_path) -> None:
    from tests.helpers.tiny_glue import tiny_store

    asked = ("glue", "--model", tiny_store(tmp_path), "--tasks", "rte", "--max-length", 16)
    waited, line = asked_of(CLOSED, tmp_path, *asked, "--store", tmp_path / "s.sqlite")
    assert 0 < waited <= 4
    assert "the Hugging Face hub cannot be reached (ConnectError)" in line
    assert "--data rte:train=FILE" in line
    assert not (tmp_path / "s.sqlite").exists()


@pytest.mark.slow
def test_no_hub_is_asked_offline(store, tmp_path, troubled) -> None:
    endpoint = f"http://127.0.0.1:{troubled.server_port}"
    asked = ("eval", "--model", store, "--tasks", "arc_easy")
    waited, line = asked_of(endpoint, tmp_path, *asked, HF_HUB_OFFLINE="1")
    assert (waited, troubled.asked) == (0, [])
    assert "--data arc_easy=FILE" in line


@pytest.mark.slow
def test_a_hub_that_answers_is_asked_with_patience(store, tmp_path, troubled) -> None:
    endpoint = f"http://127.0.0.1:{troubled.server_port}"
    waited, line = asked_of(endpoint, tmp_path, "eval", "--model", store, "--tasks", "arc_easy")
    again = [path for path in troubled.asked if path.endswith("README.md")]
    assert (len(again) > 3, waited > 4) == (True, True), (troubled.asked, waited)
    assert "--data arc_easy=FILE" in line
