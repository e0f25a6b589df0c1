"""What programs are compiled for: the devices here, or a kind of device that is not (`compiling_for`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PLATFORM: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`. Starts JAX's backend, unless it was said what to compile for."""
    import jax

    return _PLATFORM.get() or jax.default_backend()


@contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Within it programs are traced, lowered and given options as for that platform; they can't run."""
    before = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(before)
