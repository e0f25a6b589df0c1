"""JAX's persistent compilation cache, on by default in the user's cache folder."""

from __future__ import annotations

import os
from pathlib import Path


def enable_persistent_cache() -> None:
    """Keeps compiled executables between processes, unless the user chose a folder or turned the cache off.

    JAX's own settings win (`JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE=false`).
    """
    import jax
    from platformdirs import user_cache_dir

    settings = jax.config.values
    if settings["jax_compilation_cache_dir"] is None and settings["jax_enable_compilation_cache"]:
        folder = Path(os.environ.get("JAXPAINT_CACHE") or user_cache_dir("jaxpaint")) / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
