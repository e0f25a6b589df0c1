"""Whether the Hugging Face hub answers, asked once: its client waits half a minute for one that does not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any

CONNECTING = 3.0  # seconds for one connection
TRYING = 4.0  # seconds after which none is tried any more
PAUSES = (0.5, 1.5)  # seconds between connections
# Errors of HTTP clients before there is a connection, by name: which client the hub's library has depends on its
# version. What goes wrong later, such as an answer that takes long, is left to that library's patience.
NO_CONNECTION = {"ConnectError", "ConnectTimeout", "ProxyError"}


@contextmanager
def without_waiting() -> Iterator[None]:
    """Data sets of a hub that cannot be reached come out of their cache at once, or fail with ConnectionError.

    A hub that has answered once is asked as ever, with all the patience of its client. So is one that is not to be
    asked (HF_HUB_OFFLINE), and what is no data set of the hub's.
    """
    import datasets

    load = datasets.load_dataset

    @wraps(load)
    def loaded(path: str, *given: Any, **named: Any) -> Any:
        config = datasets.config
        if config.HF_HUB_OFFLINE or not _is_of_hub(path) or (why := unreachable(config.HF_ENDPOINT)) is None:
            return load(path, *given, **named)
        config.HF_HUB_OFFLINE = True
        try:
            return load(path, *given, **named)
        except ConnectionError:  # which would say that offline mode is enabled
            raise ConnectionError(f"the Hugging Face hub cannot be reached ({why})") from None
        finally:
            config.HF_HUB_OFFLINE = False

    datasets.load_dataset = loaded
    try:
        yield
    finally:
        datasets.load_dataset = load


@cache
def unreachable(endpoint: str) -> str | None:
    """Why a hub takes no connection for some seconds, as the name of an error; None where it does, whatever it says."""
    from huggingface_hub import get_session

    began = time.monotonic()
    for pause in (*PAUSES, None):
        try:
            get_session().head(endpoint, timeout=CONNECTING)
        except Exception as error:
            why = type(error).__name__
            if why not in NO_CONNECTION:
                return None
        else:
            return None
        if pause is None or time.monotonic() - began + pause > TRYING:
            break
        time.sleep(pause)
    return why


def _is_of_hub(path: str) -> bool:
    """Whether `datasets` would look for it on the hub: no builder of its own, and no folder."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return path not in _PACKAGED_DATASETS_MODULES and not os.path.exists(path)
