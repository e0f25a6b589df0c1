"""Where things are kept between runs: converted models, compiled code, tracebacks; in one folder of the user's."""

from __future__ import annotations

import os
from pathlib import Path


def stores_folder() -> Path:
    """Of the models that were converted on first use."""
    return cache_folder() / "stores"


def compiled_folder() -> Path:
    """Of compiled executables, unless JAX's own settings name another."""
    return cache_folder() / "compiled"


def verified_folder() -> Path:
    """Of which stores' bytes were found to be those that were written."""
    return cache_folder() / "verified"


def locks_folder() -> Path:
    """Of locks on what lies on file systems without any; each user has one of their own."""
    return cache_folder() / f"locks-{os.getuid()}"


def crashes_folder() -> Path:
    """Of the tracebacks of what went wrong inside jaxpaint."""
    return cache_folder() / "crashes"


def cache_folder() -> Path:
    """All of it: `$JAXPAINT_CACHE`, or else the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("JAXPAINT_CACHE") or user_cache_dir("jaxpaint"))
