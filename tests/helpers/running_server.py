"""`jaxpaint serve`'s routes on a free port of this machine, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import jaxpaint as jp
from jaxpaint.serve.offered import offered
from jaxpaint.serve.queue import Queue
from jaxpaint.serve.server import Server
from jaxpaint.serve.service import Service
from jaxpaint.serve.work import Job, do


@contextmanager
def running(
    model: jp.Model,
    plans: Sequence[str] = (),
    *,
    token: str | None = None,
    most: int = 64,
    max_tokens: int = 64,
    host: str = "127.0.0.1",
    work: Callable[[jp.Model, Sequence[Job]], None] = do,
) -> Iterator[str]:
    """The address of a server of `model` as "tiny" and of `plans`; `work` stands in for what the model does."""
    queue = Queue(partial(work, model), most)
    service = Service(model, offered("tiny", model.num_layers, plans), queue, max_tokens)
    with socket.create_server((host, 0)) as listening:
        server = Server(service, token, local=host)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://{host}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)
