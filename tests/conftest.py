"""Shape checks of array annotations, and the fixtures that several rooms' tests share."""

from __future__ import annotations

import gc
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# Torch, which reads this when it is loaded, is a reference for tiny tensors here: threads that wait for one another
# take most of its time where every core has a worker of pytest-xdist.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What several tests compile, in this process and those that it starts, is compiled once.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
# Fast tests compute next to nothing, and XLA's optimising takes a third of their time. Slow ones run what users run.
if {"not slow", "smoke"} & {*sys.argv}:
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import numpy as np
import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

CHECKED = (
    "engine.compiled",
    "engine.head",
    "engine.interpreted",
    "engine.next_tokens",
    "engine.packing",
    "engine.program",
    "models.attention",
    "models.decoder",
    "models.encoder",
    "models.parts",
    "models.prenorm_encoder",
    "models.rotary",
)
# The array annotations of the modules that are first imported here are checked, in tests only. `jaxpaint.engine.model`
# is left out: its face is for people, whose mistakes it reports itself.
with install_import_hook([f"jaxpaint.{name}" for name in CHECKED], "beartype.beartype"):
    import jaxpaint.engine.head
    import jaxpaint.engine.next_tokens
    import jaxpaint.models.decoder
    import jaxpaint.models.encoder
    import jaxpaint.models.prenorm_encoder  # noqa: F401

from tests.helpers.decoders import LONGEST, VARIATIONS, VOCAB_SIZE, Tiny, make_tiny  # noqa: E402

# Fixtures that several files of tests share.
pytest_plugins = ["tests.helpers.cli_fixtures", "tests.helpers.real_assets"]

# An example that compiles takes far longer than the next.
settings.register_profile("jaxpaint", deadline=None)
settings.load_profile("jaxpaint")


# Memory maps of a process: XLA crashes where an executable does not fit into the 65,530 that Linux allows.
MOST_MAPS = 20_000


@pytest.fixture(autouse=True, scope="module")
def few_executables() -> Iterator[None]:
    """Thousands of tests compile more than one process may hold."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and len(maps.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


# Most that runs over every variation runs over these as fast tests, over the others as slow ones.
FAST_VARIATIONS = ("grouped-query", "sliding window", "neox")


@pytest.fixture(
    params=[each if each in FAST_VARIATIONS else pytest.param(each, marks=pytest.mark.slow) for each in VARIATIONS]
)
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """Every variation; `parametrize("tiny", [names], indirect=True)` takes some of them."""
    return make_tiny(request.param)


@pytest.fixture(scope="session")
def texts() -> np.ndarray:
    """Three rows of random token ids, [3, LONGEST]."""
    return np.random.default_rng(0).integers(0, VOCAB_SIZE, (3, LONGEST))


CASES = pytest.StashKey[Counter[str]]()  # collected so far of each function


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", metavar="I/N", help="of the files with tests that are asked for, every Nth from the Ith")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Cases of a `few(number)` beyond the first ones are slow."""
    if (few := item.get_closest_marker("few")) is not None:
        seen, function = item.config.stash.setdefault(CASES, Counter()), item.nodeid.partition("[")[0]
        seen[function] += 1
        if seen[function] > few.args[0]:
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays: collections of garbage, of which reading a store makes some, need
    not go through it each time.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files stay whole, since their tests share fixtures."""
    if part := config.getoption("--part"):
        first, step = map(int, part.split("/"))
        kept = set(sorted({item.path for item in items})[first - 1 :: step])
        config.hook.pytest_deselected(items=[item for item in items if item.path not in kept])
        items[:] = [item for item in items if item.path in kept]
