"""The routes: OpenAI's completions, chat and list of models over HTTP. Starlette, of the extra `serve`."""

from __future__ import annotations

import asyncio
import hmac
import json
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from jaxpaint.base.documents import parse_json
from jaxpaint.base.errors import UserError
from jaxpaint.serve.answers import error
from jaxpaint.serve.queue import QueueFull, Stopped
from jaxpaint.serve.requests import chat_request, completion_request
from jaxpaint.serve.service import Asked, Service, UnknownModel

MOST_BYTES = 8 << 20  # of a request: some hundred prompts of thousands of tokens
LOCAL = ["localhost", "127.0.0.1", "[::1]"]
STARTED = 0  # of models, which OpenAI's list dates


class _Refused(UserError):
    """With a status of HTTP of its own."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def app(service: Service, token: str | None = None, *, local: str | None = "127.0.0.1") -> Starlette:
    """The server's routes. With `token` all but /health ask for it.

    `local` is the address where this machine alone is listened to, None where others are. Then only requests to this
    machine's own names are answered, so that no web page that a browser here has open can reach the server by a name
    that it makes point here.
    """

    async def models(request: Request) -> Response:
        _authorised(request, token)
        return JSONResponse({"object": "list", "data": [_model(each) for each in service.offered]})

    async def one_model(request: Request) -> Response:
        _authorised(request, token)
        return JSONResponse(_model(service.named(request.path_params["name"])))

    async def completions(request: Request) -> Response:
        _authorised(request, token)
        asked = completion_request(await _body(request))
        what = await asyncio.to_thread(service.asked, asked)
        return await _answer(request, service, what, bool(asked.stream), asked.with_usage)

    async def chat(request: Request) -> Response:
        _authorised(request, token)
        asked = chat_request(await _body(request))
        what = await asyncio.to_thread(service.asked_in_chat, asked)
        return await _answer(request, service, what, bool(asked.stream), asked.with_usage)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "waiting": service.queue.waiting})

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.queue.start()
        try:
            yield
        finally:
            service.queue.stop()

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", one_model),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
        ],
        middleware=[]
        if local is None
        else [Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL, _as_host(local)])],
        exception_handlers={UserError: _told, HTTPException: _not_there, Exception: _failed},
        lifespan=lifespan,
    )


def _as_host(address: str) -> str:
    """As a request's header has it."""
    return f"[{address}]" if ":" in address else address


def _authorised(request: Request, token: str | None) -> None:
    if token is None:
        return
    given = request.headers.get("authorization", "")
    if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise _Refused(401, "this server asks for its token: Authorization: Bearer TOKEN", "invalid_api_key")


async def _body(request: Request) -> Any:
    """The JSON in a request, which must say that it is: browsers send that only where they are allowed to."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise _Refused(415, f"the request is {kind or 'of no type'}; send Content-Type: application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise _Refused(413, f"the request is larger than {MOST_BYTES >> 20} MiB; send fewer prompts at once")
    return parse_json(bytes(body), "the request")


async def _answer(request: Request, service: Service, asked: Asked, stream: bool, with_usage: bool) -> Response:
    if stream:
        pieces = service.streamed(asked, with_usage=with_usage)
        return StreamingResponse(_events(pieces), media_type="text/event-stream", headers={"cache-control": "no-store"})
    answer = asyncio.ensure_future(service.answered(asked))
    left = asyncio.ensure_future(_left(request.receive))
    await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
    left.cancel()
    if not answer.done():
        answer.cancel()
        return Response(status_code=499)  # nobody reads it
    return JSONResponse(answer.result())


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    """Returns when the client has closed its connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _events(pieces: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    """Server-sent events; a failure on the way is one of them."""
    try:
        async for piece in pieces:
            yield _event(piece)
    except Exception as failure:
        yield _event(_words(failure)[1])
    yield "data: [DONE]\n\n"


def _event(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _words(failure: Exception) -> tuple[int, dict[str, Any]]:
    """The status and the body that tell of a failure. What is no user's mistake is shown in full where we run."""
    if isinstance(failure, _Refused):
        return failure.status, error(str(failure), code=failure.code)
    if isinstance(failure, UnknownModel):
        return 404, error(str(failure), code="model_not_found")
    if isinstance(failure, QueueFull):
        return 429, error(str(failure), "rate_limit_error", "queue_full")
    if isinstance(failure, Stopped):
        return 503, error(str(failure), "server_error")
    if isinstance(failure, UserError):
        return 400, error(str(failure))
    traceback.print_exception(failure, file=sys.stderr)
    return 500, error(f"the server failed at this request: {type(failure).__name__}", "server_error")


async def _told(_: Request, failure: Exception) -> Response:
    status, body = _words(failure)
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}.get(status)
    return JSONResponse(body, status_code=status, headers=headers)


async def _not_there(request: Request, failure: Exception) -> Response:
    assert isinstance(failure, HTTPException)
    routes = "POST /v1/completions, POST /v1/chat/completions, GET /v1/models and GET /health"
    words = f"there is no {request.method} {request.url.path}; there is {routes}"
    return JSONResponse(error(words), status_code=failure.status_code, headers=failure.headers)


async def _failed(_: Request, failure: Exception) -> Response:
    return JSONResponse(error(f"the server failed at this request: {type(failure).__name__}", "server_error"), 500)


def _model(each: Any) -> dict[str, Any]:
    plan = {"plan": str(each.plan), "cost": each.plan.cost, "depth": each.plan.depth}
    return {"id": each.name, "object": "model", "created": STARTED, "owned_by": "jaxpaint", **plan}
