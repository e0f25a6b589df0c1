"""answer OpenAI's requests for completions under one or several plans

examples:
  jaxpaint serve --model painter-16
  jaxpaint serve --model llama2-7b --plan 'middle=0-8 {9-22} 23-31' \\
      --plan '0-8 {9-22}*3 23-31'
  jaxpaint serve --model llama2-7b --host 0.0.0.0 --token-file token.txt

The name of the model picks the plan: llama2-7b is every layer in order,
llama2-7b@middle the plan of that name, and a plan without one is named by its
text. lm-eval's local-completions, chat windows and curl read it at
http://127.0.0.1:8000/v1. It needs pip install 'jaxpaint[serve]'.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from jaxpaint.base import interrupts
from jaxpaint.base.documents import read_bytes
from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import require
from jaxpaint.cli.loading import model_config, model_source
from jaxpaint.cli.options import add_model_options, check_plan

if TYPE_CHECKING:
    from jaxpaint.engine.model import Model
    from jaxpaint.serve.offered import Offered

TOKEN = "JAXPAINT_TOKEN"
LOOPBACK = "127.0.0.1"


def add(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        "--plan",
        action="append",
        default=[],
        metavar="[NAME=]PLAN",
        help="offer this plan as MODEL@NAME; may be given several times",
    )
    parser.add_argument("--host", default=LOOPBACK, metavar="ADDRESS", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="0 takes a free one (default: %(default)s)")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token that clients must send, or {TOKEN} in the environment; without one this machine "
        "alone is listened to",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="new tokens of a text at most (default: %(default)s)"
    )
    parser.add_argument(
        "--max-queue", type=int, default=256, metavar="N", help="prompts that may wait (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    require_extra()
    for name, least in (("max_tokens", 1), ("max_queue", 1), ("port", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected {least} or more")
    token = _token(options.token_file)
    if token is None and not _is_loopback(options.host):
        raise UserError(
            f"--host {options.host} lets other machines in, and nothing asks who they are; give --token-file F, or "
            f"{TOKEN} in the environment"
        )
    for given in options.plan:  # what can be said without a model
        check_plan(given.partition("=")[2] or given)
    require(computing=True)
    from convert.layer_names import names_of
    from jaxpaint.models.family import require_lm_head
    from jaxpaint.serve.offered import offered

    config = model_config(options.model, options.revision)
    require_lm_head(config, "writing text")
    plans = offered(_name(options.model), config.num_hidden_layers, options.plan, names_of(options.model))
    with _listening(options.host, options.port) as listening:
        model = model_source(options).loaded
        print("\n".join(lines(plans, options.host, listening.getsockname()[1], token is not None)), flush=True)
        _serve(model, plans, listening, token, options)
    return 0


def require_extra() -> None:
    """Raises UserError where the packages of the extra are missing."""
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"jaxpaint serve needs {' and '.join(missing)}: pip install 'jaxpaint[serve]'")


def _serve(
    model: Model, plans: Sequence[Offered], listening: socket.socket, token: str | None, options: argparse.Namespace
) -> None:
    """Until a signal, which uvicorn minds and raises again once open answers are done."""
    from functools import partial

    from jaxpaint.serve.queue import Queue
    from jaxpaint.serve.server import Server
    from jaxpaint.serve.service import Service
    from jaxpaint.serve.work import do

    service = Service(model, plans, Queue(partial(do, model), options.max_queue), options.max_tokens)
    local = options.host if _is_loopback(options.host) else None
    server = Server(service, token, local=local)
    server.run(sockets=[listening])
    if server.ended_by is not None:
        interrupts.again(server.ended_by)


def lines(plans: Sequence[Offered], host: str, port: int, has_token: bool) -> list[str]:
    """Where it listens, what the plans are called, and something to try."""
    here = LOOPBACK if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{here}:{port}/v1"
    width = max(len(each.name) for each in plans)
    named = [f"  {each.name:<{width}}  cost {each.plan.cost}, depth {each.plan.depth}" for each in plans]
    asked = json.dumps({"model": plans[-1].name, "prompt": "Once upon a time", "max_tokens": 32, "temperature": 0})
    sent = f' -H "Authorization: Bearer ${TOKEN}"' if has_token else ""
    return [
        f"listening on {address}; models:",
        *named,
        "try:",
        f"  curl {address}/completions -H 'Content-Type: application/json'{sent} \\",
        f"    -d '{asked}'",
    ]


def _name(model: str) -> str:
    """A folder's last name, or a hub id as it is."""
    return Path(model).resolve().name if Path(model).exists() else model


def _token(file: Path | None) -> str | None:
    """Raises UserError for a file that holds no token. It is never shown."""
    if file is None:
        found, where = os.environ.get(TOKEN), TOKEN
        if found is None:
            return None
    else:
        found, where = read_bytes(file).decode(errors="replace"), str(file)
    token = found.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(f"{where} holds no token: expected one word of ASCII letters, digits and signs")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(host: str, port: int) -> socket.socket:
    """Bound before the model is read, so that a port that is taken is told at once. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}, port {port}: {reason}; give another --port, or --host") from error
