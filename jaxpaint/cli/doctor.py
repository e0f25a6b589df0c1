"""say whether it can run here, and what would make it faster

examples:
  jaxpaint doctor
  jaxpaint doctor --verify path/to/store

It shows devices, versions, memory and caches, and whether an access token is
set, never which. The exit status is 1 if something keeps it from running.

With --verify it reads every byte of a converted model instead, and compares it
with what was written. Other commands do so once for each store and machine.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from jaxpaint.base import __version__
from jaxpaint.base.caches import compiled_folder, stores_folder
from jaxpaint.base.compilation import persistent_cache
from jaxpaint.base.errors import first_line
from jaxpaint.base.machine import Machine, machine
from jaxpaint.base.words import count, gigabytes
from jaxpaint.cli.answers import give
from jaxpaint.cli.exits import BROKEN

REQUIRED = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "datasets", "lm-eval")
OPTIONAL = ("torch",)  # only tests and benchmarks compare with it
FEW_CORES = 8
Products = Literal["tiles", "vectors", "XLA"]
# A cache of many files is not counted to its end: the command is to be quick.
COUNTING_SECONDS = 0.5


class Examined(TypedDict):
    """Bytes where sizes are; `problems` keep it from running, `advice` would make it faster."""

    jaxpaint: str
    python: str
    system: str
    versions: dict[str, str | None]
    machine: dict[str, Any]
    devices: dict[str, Any]
    products: Products | None
    caches: dict[str, dict[str, Any]]
    compiling_kept: bool
    hub_token: str
    hub_offline: bool
    problems: list[str]
    advice: list[str]


class Verified(TypedDict):
    """With --verify: a store whose bytes are those that were written."""

    store: str
    fingerprint: str
    tensors: int
    bytes: int


Answer = Examined | Verified


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verify", metavar="MODEL", help="read all of a converted model: is it what was written?")


def run(options: argparse.Namespace) -> int:
    if options.verify is not None:
        return _verify(options)
    try:
        found = examine()
    except ModuleNotFoundError as error:  # an installation that is not whole is what one asks the doctor about
        print(f"broken    {error.name} is not installed. Run: pip install jaxpaint")
        return BROKEN
    problems, advice = list(_problems(found)), list(_advice(found))
    known = asdict(found) | {"jaxpaint": __version__, "problems": problems, "advice": advice}
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [line for paragraph in _paragraphs(found, problems, advice) for line in _wrapped(*paragraph, width)]
    give(options, known, "\n".join(lines))
    return BROKEN if problems else 0


def _verify(options: argparse.Namespace) -> int:
    """Raises UserError for a model that is damaged."""
    from jaxpaint.cli.loading import model_store
    from jaxpaint.models.verification import verify

    store = model_store(options.verify)
    manifest = verify(store)
    size, tensors = manifest["parameters"]["bytes"], len(manifest["tensors"])
    known = {"store": str(store), "fingerprint": manifest["fingerprint"], "tensors": tensors, "bytes": size}
    give(options, known, f"{store} is what was written: {count(tensors, 'tensor')}, {gigabytes(size)}")
    return 0


def _paragraphs(found: Diagnosis, problems: Sequence[str], advice: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A heading (none for what goes on) and its text."""
    devices, machine = found.devices, found.machine
    yield "system", f"jaxpaint {__version__}, Python {found.python}, {found.system}, {count(machine.cores, 'core')}"
    kinds = ", ".join(f"{number} × {kind}" for kind, number in Counter(devices.kinds).items())
    yield "devices", f"none: {devices.failure}" if devices.failure is not None else f"{devices.backend} ({kinds})"
    if devices.failure is None:
        twice = "; float32 takes twice the memory" if devices.dtype == "bfloat16" else ""
        by_what = f"; products by {found.products}" if found.products else ""
        yield "dtype", f"{devices.dtype} (--dtype auto){twice}{by_what}"
    memory = gigabytes(machine.memory)
    if machine.memory_available is not None:
        memory += f", {gigabytes(machine.memory_available)} of it free"
    if machine.memory_limit is not None:
        memory += f"; {gigabytes(machine.memory_limit)} allowed by a cgroup"
    yield "memory", memory
    if any(size is not None for size in devices.memory):
        yield "", "devices: " + ", ".join(gigabytes(size) for size in devices.memory)
    yield "versions", ", ".join(f"{name} {version or 'missing'}" for name, version in found.versions.items())
    yield "hub", f"{found.hub_token}; {'offline (HF_HUB_OFFLINE)' if found.hub_offline else 'online'}"
    yield "caches", ""
    for cache in found.caches.values():
        size = f"{'' if cache.counted else 'more than '}{gigabytes(cache.size)}"
        state = f"room for {gigabytes(cache.room)}" if cache.why_not is None else f"NOT writable ({cache.why_not})"
        yield "", f"{cache.name}, {size}, {state}: {cache.folder}"
    for heading, sentences in (("faster", advice), ("broken", problems)):
        for sentence in sentences:
            yield heading, sentence
    yield "verdict", "it cannot run; see broken" if problems else "it can run"


def _wrapped(heading: str, text: str, width: int) -> list[str]:
    """A column of headings and one of text; a path that is too long for its line is broken."""
    first, others = f"{heading:10}", " " * (10 if heading else 12)
    lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)
    return lines or [heading]


@dataclass(frozen=True)
class Devices:
    """What JAX computes on: its backend, the kinds of its devices, memory of each in bytes (None: it does not say).

    `dtype` is that of `--dtype auto`. `failure`, where JAX does not start, says why, and all else is empty.
    """

    backend: str = ""
    kinds: tuple[str, ...] = ()
    memory: tuple[int | None, ...] = ()
    dtype: str = ""
    failure: str | None = None


@dataclass(frozen=True)
class Cache:
    """A folder that outlives a run: how large it is in bytes (at least, if not `counted`) and the room left.

    `why_not` says why nothing can be written there, None where it can. The folder need not exist yet.
    """

    name: str
    folder: Path
    size: int
    counted: bool
    room: int | None
    why_not: str | None


@dataclass(frozen=True)
class Diagnosis:
    """All that `jaxpaint doctor` knows. `versions` are None for packages that are not installed.

    `products` says what multiplies by kernels in bfloat16 on a CPU (`jaxpaint.tiles`).
    """

    python: str
    system: str
    versions: dict[str, str | None]
    machine: Machine
    devices: Devices
    products: Products | None
    caches: dict[str, Cache]
    compiling_kept: bool
    hub_token: str
    hub_offline: bool


def examine() -> Diagnosis:
    """Looks at this machine, the installed packages and the user's folders; nothing is left behind."""
    from huggingface_hub import constants

    compiled, devices = persistent_cache(), _devices()
    folders = {
        "converted": ("converted models", stores_folder()),
        "compiled": ("compiled code", Path(compiled or compiled_folder())),
        "hub": ("hub downloads", Path(constants.HF_HUB_CACHE)),
        "datasets": ("datasets", Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets")),
    }
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions={name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        machine=machine(),
        devices=devices,
        products=_products() if devices.backend == "cpu" else None,
        caches={key: _cache(name, folder) for key, (name, folder) in folders.items()},
        compiling_kept=compiled is not None,
        hub_token=_hub_token(Path(constants.HF_TOKEN_PATH)),
        hub_offline=constants.HF_HUB_OFFLINE,
    )


def _problems(found: Diagnosis) -> Iterator[str]:
    if missing := [name for name in REQUIRED if found.versions[name] is None]:
        yield f"Not installed: {', '.join(missing)}. Run: pip install jaxpaint"
    if found.devices.failure is not None:
        yield (
            f"JAX does not start: {found.devices.failure}. Try JAX_PLATFORMS=cpu; if that runs, it is the "
            "accelerator's driver or plugin that is broken."
        )
    converted = found.caches["converted"]
    if converted.why_not is not None:
        yield (
            f"Converted models cannot be kept in {converted.folder}: {converted.why_not}. Set JAXPAINT_CACHE to a "
            "folder that you may write to."
        )
    for cache in (found.caches["hub"], found.caches["datasets"]):
        if cache.why_not is not None and not found.hub_offline:
            yield (
                f"Nothing can be downloaded to {cache.folder}: {cache.why_not}. Set HF_HOME to a folder that you may "
                "write to, or HF_HUB_OFFLINE=1 to use only what is there."
            )


def _advice(found: Diagnosis) -> Iterator[str]:
    on_cpu = found.devices.backend == "cpu"
    if on_cpu and found.machine.nvidia_gpu:
        if "cpu" in os.environ.get("JAX_PLATFORMS", ""):
            yield "There is an NVIDIA GPU, which JAX_PLATFORMS keeps JAX from using: unset it."
        else:
            yield "There is an NVIDIA GPU, and JAX computes on the CPU: pip install 'jaxpaint[gpu]'"
    elif on_cpu and found.machine.cores < FEW_CORES:
        yield f"JAX computes on {count(found.machine.cores, 'CPU core')}: more cores, or a GPU, would help most."
    if on_cpu and found.products == "XLA" and _lacks_compiler():
        yield (
            "numba is not installed, or not for this NumPy: with it (pip install numba) checkpoints in bfloat16 run "
            "faster here and in half of the memory."
        )
    compiled = found.caches["compiled"]
    if not found.compiling_kept:
        yield "Compiled code is not kept, because JAX_ENABLE_COMPILATION_CACHE is off: every run compiles anew."
    elif compiled.why_not is not None:
        yield (
            f"Compiled code cannot be kept in {compiled.folder} ({compiled.why_not}), so every run compiles anew: set "
            "JAXPAINT_CACHE to a folder that you may write to."
        )
    if os.environ.get("JAX_DISABLE_JIT", "").lower() in ("1", "true", "yes", "on"):
        yield "JAX_DISABLE_JIT is set, so nothing is compiled at all: unset it."
    if found.machine.memory_limit is not None:
        yield (
            f"A cgroup (a container or a job) allows {gigabytes(found.machine.memory_limit)} of the machine's "
            f"{gigabytes(found.machine.memory)}: models and batches that need more are killed. Ask for more there."
        )


def _devices() -> Devices:
    try:
        import jax

        devices, backend = jax.devices(), jax.default_backend()
    except Exception as error:  # whatever a plugin raises
        return Devices(failure=first_line(error).rstrip("."))
    return Devices(
        backend=backend,
        kinds=tuple(device.device_kind for device in devices),
        memory=tuple((device.memory_stats() or {}).get("bytes_limit") for device in devices),
        dtype="float32" if backend == "cpu" else "bfloat16",
    )


def _products() -> Products:
    from jaxpaint import tiles

    return (tiles.multiplied_by() if tiles.are_here() else None) or "XLA"


def _lacks_compiler() -> bool:
    from jaxpaint import tiles

    return tiles.multiplied_by() is not None and not tiles.are_here()


def _cache(name: str, folder: Path) -> Cache:
    size, counted = _size(folder)
    # os.path, because pathlib raises where a folder on the way may not be read.
    existing = next(parent for parent in (folder, *folder.parents) if os.path.exists(parent))
    room = why_not = None
    with suppress(OSError):
        room = shutil.disk_usage(existing).free
    try:  # not asked: permissions do not tell of read-only disks and quotas
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"jaxpaint")
    except OSError as error:
        why_not = f"{existing}: {error.strerror}" if error.strerror else type(error).__name__
    return Cache(name, folder, size, counted, room, why_not)


def _size(folder: Path) -> tuple[int, bool]:
    """Bytes in a folder, links not followed, and whether all of it was seen in time."""
    end = time.monotonic() + COUNTING_SECONDS
    size = 0
    for path, _, files in os.walk(folder):
        for file in files:
            with suppress(OSError):  # another process tidied it away
                size += os.lstat(os.path.join(path, file)).st_size
        if time.monotonic() > end:
            return size, False
    return size, True


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hub_token(stored: Path) -> str:
    """Whether there is a token for gated models, and where; never what it is."""
    if os.environ.get("HF_TOKEN"):
        return "HF_TOKEN is set"
    return "HF_TOKEN is not set" + (", a login is stored" if stored.is_file() else "")
