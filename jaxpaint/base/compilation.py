"""How this project compiles: JAX's persistent cache, and `jit` with the options that float32 on a CPU needs."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from jaxpaint.base.caches import compiled_folder
from jaxpaint.base.machine import multiplies_bfloat16
from jaxpaint.base.target import platform

# XLA's default library for matrix products on a CPU (YNNPACK) adds up the whole inner dimension in one chain; Eigen
# adds up blocks. Its error is a third smaller at the same speed (docs/log.md), which deep plans amplify.
EIGEN_MATMUL = {"xla_cpu_experimental_ynn_fusion_type": ""}
# Of what YNNPACK does not add up, XLA makes trees of windows, which its CPU backend runs element by element: a softmax
# over 512 takes six times as long (docs/log.md).
PLAIN_REDUCTIONS = {"xla_disable_hlo_passes": "tree_reduction_rewriter"}
# LLVM leaves the upper half of AVX-512 alone unless asked: attention to long texts, of exponentials, takes a tenth
# longer (docs/log.md). Elsewhere this changes nothing.
WHOLE_VECTORS = {"xla_cpu_prefer_vector_width": "512"}
KEPT_SECONDS = 0.1  # of compilation, from which an executable is kept
# Executables of one function in memory. On a CPU each takes about a hundred of the 65,530 memory maps that Linux allows
# a process, and where there are no more XLA crashes: five hundred plans, each compiled in.
MOST_LOADED = 128


def persistent_cache() -> str | None:
    """Where compiled executables are kept between processes; None where the user turned that off.

    JAX's own settings win (`JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE=false`).
    """
    import jax

    settings = jax.config.values
    if not settings["jax_enable_compilation_cache"]:
        return None
    return settings["jax_compilation_cache_dir"] or str(compiled_folder())


def enable_persistent_cache() -> None:
    """Keeps compiled executables between processes, in `persistent_cache`."""
    import jax

    if (folder := persistent_cache()) is not None:
        jax.config.update("jax_compilation_cache_dir", folder)
        # Each of a batch shape's executables compiles in less than the second from which JAX keeps one; all take more.
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_SECONDS)


def compiler_options(default_products: bool = False, sums_in_order: bool = False) -> dict[str, str] | None:
    """`compiler_options` for `jax.jit` on the target, those that XLA knows; None for an accelerator.

    Arguments as of `jit`.
    """
    if platform() != "cpu":
        return None
    matmul, reductions = {} if default_products else EIGEN_MATMUL, {} if sums_in_order else PLAIN_REDUCTIONS
    wanted = {**matmul, **reductions, **WHOLE_VECTORS}
    return {name: value for name, value in wanted.items() if _is_known(name)}


@functools.cache
def _is_known(option: str) -> bool:
    import jax

    value = {**EIGEN_MATMUL, **PLAIN_REDUCTIONS, **WHOLE_VECTORS}[option]
    try:
        jax.jit(lambda x: x, compiler_options={option: value}).lower(0.0).compile()
    except (RuntimeError, ValueError):
        return False
    return True


def jit(
    *static_argnames: str,
    donate: tuple[str, ...] = (),
    default_products: bool | Callable[..., bool] = False,
    sums_in_order: bool = False,
) -> Callable[[Callable[..., Any]], Any]:
    """`jax.jit` with `compiler_options`, made at the first call: the backend is not known, nor started, before.

    `donate` names arguments whose memory the result takes over. With `default_products` matrix products are left to
    XLA's default library; a function says so of a call by its arguments, and of bfloat16 they are wherever a processor
    has instructions for it, which Eigen does not use. With `sums_in_order` a number among zeros gives a sum the same
    rounding wherever it stands, and sums take longer.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        made: dict[tuple[str, bool], Any] = {}

        def compiled(arguments: tuple[Any, ...]) -> Any:
            default = default_products if isinstance(default_products, bool) else default_products(*arguments)
            default = default or (multiplies_bfloat16() and _hold_bfloat16(arguments))
            if (kind := (platform(), default)) not in made:
                made[kind] = _compiling(function, static_argnames, donate, compiler_options(default, sums_in_order))
            return made[kind]

        def here() -> list[Any]:
            return [each for (target, _), each in made.items() if target == platform()]

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            import jax

            # Accelerators multiply float32 in fewer bits unless asked; bfloat16 is not affected.
            with jax.default_matmul_precision("highest"):
                result = (own := compiled(arguments))(*arguments)
            if own._cache_size() > MOST_LOADED:
                own.clear_cache()
            return result

        def lower(*arguments: Any) -> Any:
            import jax

            kind = {"gpu": "cuda"}.get(platform(), platform())
            with jax.default_matmul_precision("highest"):
                return compiled(arguments).trace(*arguments).lower(lowering_platforms=(kind,))

        call.lower = lower  # type: ignore[attr-defined]
        call.executables = lambda: sum(each._cache_size() for each in here())  # type: ignore[attr-defined]
        call.clear_cache = lambda: [each.clear_cache() for each in here()]  # type: ignore[attr-defined]
        return call

    return decorate


def _hold_bfloat16(arguments: tuple[Any, ...]) -> bool:
    import jax

    dtypes = (getattr(leaf, "dtype", None) for leaf in jax.tree.leaves(arguments))
    return any(dtype == jax.numpy.bfloat16 for dtype in dtypes)


def _compiling(
    function: Callable[..., Any],
    static_argnames: tuple[str, ...],
    donate: tuple[str, ...],
    options: dict[str, str] | None,
) -> Any:
    import jax

    @functools.wraps(function)
    def own(*arguments: Any) -> Any:  # one for each target: JAX keeps what it traced by function
        return function(*arguments)

    return jax.jit(own, static_argnames=static_argnames, donate_argnames=donate, compiler_options=options)
