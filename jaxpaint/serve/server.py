"""The server around the routes, and how it ends. uvicorn, of the extra `serve`."""

from __future__ import annotations

import asyncio
import socket
from types import FrameType

import uvicorn

from jaxpaint.serve.app import app
from jaxpaint.serve.service import Service

# Seconds that open answers get, and then those that it takes to tell whoever waits still.
ENDING, TELLING = 2, 2


class Server(uvicorn.Server):
    """Answers for `service` until a signal, which it raises again once open answers are done or told off.

    `ended_by` is its number, None before: an event loop under load has been seen to lose what is raised there.
    """

    def __init__(self, service: Service, token: str | None = None, *, local: str | None = "127.0.0.1") -> None:
        config = uvicorn.Config(
            app(service, token, local=local),
            timeout_graceful_shutdown=ENDING + TELLING,
            log_config=None,  # its own closes what else is logged to
            log_level="error",  # nothing is logged of who asked what
            access_log=False,
            server_header=False,
        )
        super().__init__(config)
        self._queue = service.queue
        self.ended_by: int | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.ended_by = sig
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._queue.stop()
        giving_up = asyncio.get_running_loop().call_later(ENDING, self._queue.give_up)
        await super().shutdown(sockets)
        giving_up.cancel()
