"""What is kept of a study, in one SQLite file, and all of its SQL. Never JAX, nor how a score is computed or judged."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxpaint.results.store import Store as Store


def __getattr__(name: str) -> Any:
    if name == "Store":
        from jaxpaint.results.store import Store

        return Store
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
