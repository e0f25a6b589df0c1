"""This machine's roofline: matrix products and memory, by torch and by each library that XLA has for them on a CPU.

    python benchmarks/roofline.py [--rounds 7] [--threads 1,2] [--rows 1,8,64,512,2048] [--types float32,bfloat16]

A product is rows @ weights with as many weights in turn as exceed caches, each library's laid out as its models keep
them: torch [out, in], XLA [in, out]. Each has a process of its own (in one process the threads of the one keep those of
the other waiting); they take turns, round by round, and figures are medians: GFLOP/s of products, GB/s read and written
of memory. bfloat16 is added up in float32 and rounded once. "ynnpack" is XLA's own choice, "eigen" what jaxpaint scores
with in float32 (jaxpaint/base/compilation.py), "transposed" YNNPACK with weights [out, in] on the left, as it decodes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

WEIGHTS = ((576, 1536), (1536, 576), (576, 576), (576, 49152), (2048, 5632))  # in x out
BEYOND_CACHES = 96 << 20  # bytes of weights in turn
MOST_WEIGHTS = 16
ARRAY_BYTES = 256 << 20  # of the memory's rates
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")
XLA_OPTIONS = {
    "ynnpack": {},
    "transposed": {},
    "eigen": {"xla_cpu_experimental_ynn_fusion_type": ""},
}
LIBRARIES = ("torch", *XLA_OPTIONS)
Case = tuple[str, int, int, int]  # type, rows, in, out; no rows: memory


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="of turns (default: %(default)s)")
    cores = sorted({1, len(os.sched_getaffinity(0))})
    parser.add_argument("--threads", type=numbers, default=cores, help="default: 1 and all cores")
    parser.add_argument("--rows", type=numbers, default=[1, 8, 64, 512, 2048])
    parser.add_argument("--types", type=lambda text: text.split(","), default=["float32", "bfloat16"])
    parser.add_argument("--libraries", type=lambda text: text.split(","), default=list(LIBRARIES))
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.library:
        _answer(options.library, options.threads[0])
        return
    print(processor(), "load", Path("/proc/loadavg").read_text().split()[0])
    found = []
    for threads in options.threads:
        with ExitStack() as stack:
            turns = {each: stack.enter_context(_Turns(each, threads)) for each in options.libraries}
            for dtype in options.types:
                print(f"\n{dtype}, threads: {threads}\n{'rows':>5} {'weights':>12}", *(f"{e:>9}" for e in turns))
                for case in [(dtype, rows, *weights) for weights in WEIGHTS for rows in options.rows] + [
                    (dtype, 0, 0, 0)
                ]:
                    rates = _rates(turns, case, options.rounds)
                    found.append({"threads": threads, "case": case, "rates": rates})
                    print(_row(case, rates), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"processor": processor(), "rates": found}, indent=2))


def processor() -> str:
    """Its name, cores at hand and the flags that decide how fast products are."""
    told = Path("/proc/cpuinfo").read_text()
    name, flags = (told.split(key, 1)[1].split(":", 1)[1].split("\n")[0].strip() for key in ("model name", "flags"))
    having = [flag for flag in FLAGS if flag in flags.split()]
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {' '.join(having)}"


def _rates(turns: dict[str, _Turns], case: Case, rounds: int) -> dict[str, float | None]:
    """Each library's median; None where it cannot."""
    for turn in turns.values():
        turn(case)  # compilation, caches
    taken = [{library: turn(case) for library, turn in turns.items()} for _ in range(rounds)]
    _, rows, width, out = case
    work = 2 * rows * width * out if rows else 2 * ARRAY_BYTES
    seconds = {library: [each[library] for each in taken] for library in turns}
    return {
        library: None if None in each else work / statistics.median(each) / 1e9 for library, each in seconds.items()
    }


def _row(case: Case, rates: dict[str, float | None]) -> str:
    _, rows, width, out = case
    what = f"{rows:>5} {f'{width} x {out}':>12}" if rows else f"{'memory, GB/s':>18}"
    return " ".join([what, *(f"{'-':>9}" if rate is None else f"{rate:>9.1f}" for rate in rates.values())])


class _Turns:
    """A process of one library, as a function that gives the seconds of a case once."""

    def __init__(self, library: str, threads: int):
        command = [sys.executable, __file__, "--library", library, "--threads", str(threads)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, text=True, **pipes)

    def __call__(self, case: Case) -> float | None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __enter__(self) -> _Turns:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def _answer(library: str, threads: int) -> None:
    """In a process of its own: the seconds of each case that is read, null where the library cannot."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])  # before the library counts cores
    make = _of_torch(threads) if library == "torch" else _of_xla(XLA_OPTIONS[library], library == "transposed")
    known: tuple[object, Callable[[], object] | None] = (None, None)
    for line in sys.stdin:
        case = json.loads(line)
        try:
            if known[0] != case:
                known = None, None  # frees its weights first
                known = case, make(*case)
            assert known[1]
            times = max(1, MOST_WEIGHTS // _count(*case))
            known[1]()
            started = time.perf_counter()
            for _ in range(times):
                known[1]()
            print((time.perf_counter() - started) / times / _count(*case), flush=True)
        except (RuntimeError, ValueError):
            print("null", flush=True)


def _count(dtype: str, rows: int, width: int, out: int) -> int:
    """How many weights are multiplied by in turn."""
    if not rows:
        return 1
    size = width * out * (4 if dtype == "float32" else 2)
    return min(MOST_WEIGHTS, -(-BEYOND_CACHES // size)) if rows < 512 else 2


def _of_torch(threads: int) -> Callable[..., Callable[[], object]]:
    import torch

    torch.set_num_threads(threads)

    def make(dtype: str, rows: int, width: int, out: int) -> Callable[[], object]:
        kind = getattr(torch, dtype)
        if not rows:
            array = torch.ones(ARRAY_BYTES // kind.itemsize, dtype=kind)
            return array.neg_
        weights = [torch.randn(out, width, dtype=kind) for _ in range(_count(dtype, rows, width, out))]
        x = torch.randn(rows, width, dtype=kind)

        @torch.inference_mode()
        def run() -> object:
            y = x
            for weight in weights:  # each product waits for the one before
                y = torch.nn.functional.linear(x + y[:1, :1] * 0, weight)
            return y

        return run

    return make


def _of_xla(options: dict[str, str], transposed: bool) -> Callable[..., Callable[[], object]]:
    import jax
    import jax.numpy as jnp

    from jaxpaint.models.narrow import product, product_by_rows

    def make(dtype: str, rows: int, width: int, out: int) -> Callable[[], object]:
        if not rows:
            kept = [jnp.ones(ARRAY_BYTES // jnp.dtype(dtype).itemsize, dtype)]
            negative = jax.jit(lambda array: -array, donate_argnums=0, compiler_options=options)

            def in_place() -> None:
                kept[0] = jax.block_until_ready(negative(kept[0]))

            return in_place
        keys = jax.random.split(jax.random.key(0), _count(dtype, rows, width, out) + 1)
        x = jax.random.normal(keys[0], (rows, width), dtype)
        weights = [jax.random.normal(key, (out, width) if transposed else (width, out), dtype) for key in keys[1:]]

        @jax.jit
        def products(x, weights):
            y = x
            for weight in weights:
                y = x + y[:1, :1] * 0
                y = (product_by_rows(weight, y.T).T if transposed else product(y, weight)).astype(dtype)
            return y

        compiled = products.lower(x, weights).compile(compiler_options=options)
        return lambda: jax.block_until_ready(compiled(x, weights))

    return make


if __name__ == "__main__":
    main()
