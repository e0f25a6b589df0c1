"""The server around the routes, and how it ends. uvicorn, of the extra `serve`."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from jaxpaint.serve.app import app
from jaxpaint.serve.service import Service

# Seconds that open answers get, and then those that it takes to tell whoever waits still.
ENDING, TELLING = 2, 2


class Server(uvicorn.Server):
    """Answers for `service` until a signal, which it raises again once open answers are done or told off."""

    def __init__(self, service: Service, token: str | None = None, *, local: str | None = "127.0.0.1") -> None:
        config = uvicorn.Config(
            app(service, token, local=local),
            timeout_graceful_shutdown=ENDING + TELLING,
            log_level="error",  # nothing is logged of who asked what
            access_log=False,
            server_header=False,
        )
        super().__init__(config)
        self._queue = service.queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._queue.stop()
        giving_up = asyncio.get_running_loop().call_later(ENDING, self._queue.give_up)
        await super().shutdown(sockets)
        giving_up.cancel()
