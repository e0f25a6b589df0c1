"""Whether a store's parameters are still the bytes that were written: hashed once for a store and machine.

The sizes, times and inodes of its files are then remembered in the user's cache folder, and it is hashed again when any
of these changed. What a disk changes without a trace in them, `jaxpaint doctor --verify` finds.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

from jaxpaint.base.caches import verified_folder
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.files import write_whole
from jaxpaint.base.machine import machine
from jaxpaint.base.progress import say
from jaxpaint.models import abstract_parameters
from jaxpaint.models.manifest import damaged, read_config, read_manifest, require_same_files

if TYPE_CHECKING:
    import numpy as np

THREADS = 4  # each holds a row of the store's chunks
# A change within a tick of the clock after another leaves no trace: what is younger is not remembered.
SETTLED = 0.1  # seconds
PATIENCE = 3.0, 30.0  # seconds until something is said, and between one line and the next


@contextmanager
def verified(path: str | Path) -> Iterator[dict[str, Any]]:
    """The store's manifest, for a block that reads from a store whose files are all what was written.

    Raises:
        UserError: as `read_manifest`; files are missing, truncated or changed, or were changed within the block.
    """
    path = Path(path)
    manifest, states = require_whole(path), _states(path)
    require_same_files(path, manifest)
    seen = hashlib.sha256(json.dumps([manifest["fingerprint"], states]).encode()).hexdigest()
    if _remembered(path) != seen:
        _require_hashes(path, manifest)
        if states == _states(path) and time.time() - max(changed for *_, changed in states) / 1e9 > SETTLED:
            _remember(path, seen)
    yield manifest
    if states != _states(path):
        raise UserError(f"the store {path} was changed or replaced while it was read; try again")


def verify(path: str | Path) -> dict[str, Any]:
    """The store's manifest, once all of it is hashed, whatever is remembered. Raises as `verified`."""
    with suppress(OSError):
        _record(Path(path)).unlink()
    with verified(path) as manifest:
        return manifest


def require_whole(path: str | Path) -> dict[str, Any]:
    """The store's manifest, once its parameter files are seen to be all there, in number and size.

    Raises:
        UserError: as `read_manifest`, or files are missing or truncated, as after an interrupted copy.
    """
    manifest = read_manifest(path)
    found, written = measure(Path(path) / "parameters"), manifest["parameters"]
    if found != written:
        raise damaged(
            Path(path), f"its parameters are {_described(found)}, and were {_described(written)} when written"
        )
    return manifest


def measure(parameters: Path) -> dict[str, int]:
    """How many files there are in a folder and below, and their bytes."""
    sizes = [file.stat().st_size for file in parameters.rglob("*") if file.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def read_tensor(path: str | Path, name: str, place: int | tuple[int, ...] | None = None) -> np.ndarray:
    """One stored parameter by its path in the tree, on the host: all of it, or one layer, or (layer, expert)."""
    stored = _opened(Path(path), name)
    return (stored[place] if place not in (None, ()) else stored).read().result()


def _require_hashes(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises UserError unless the store has the parameters that its config implies, each with its hash."""
    tensors = manifest["tensors"]
    implied = {name: list(leaf.shape) for name, leaf in abstract_parameters(read_config(path), "float32").items()}
    if implied != {name: tensor["shape"] for name, tensor in tensors.items()}:
        raise damaged(path, "its tensors are not those of the model in its config.json")
    tell, stop = _teller(path, manifest["parameters"]["bytes"]), Event()

    def is_same(name: str) -> bool:
        digest = hashlib.sha256()
        try:
            for part in _parts(_opened(path, name), tensors[name]):
                if stop.is_set():
                    return False
                digest.update(part.reshape(-1).view("uint8").data)
                tell(part.nbytes)
        except Exception as error:  # whatever tensorstore makes of files that are not its own
            raise damaged(path, f"{name} cannot be restored ({first_line(error)[:200]})") from error
        return digest.hexdigest() == tensors[name]["sha256"]

    with ThreadPoolExecutor(min(THREADS, machine().cores)) as pool:
        try:
            changed = [name for name, same in zip(tensors, pool.map(is_same, tensors), strict=True) if not same]
        except BaseException:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if changed:
        more = f" and {len(changed) - 1} more of its {len(tensors)} tensors" if len(changed) > 1 else ""
        raise damaged(path, f"{changed[0]}{more} changed since it was written")


def _parts(stored: Any, tensor: Mapping[str, Any]) -> Iterator[np.ndarray]:
    """A stored tensor's numbers in their order, each chunk read once. Raises ValueError for another tensor."""
    import numpy as np

    shape, dtype = list(stored.shape), stored.dtype.numpy_dtype.name
    if (shape, dtype) != (tensor["shape"], tensor["dtype"]):
        raise ValueError(f"it is {dtype} {shape} and was {tensor['dtype']} {tensor['shape']}")
    chunk = stored.chunk_layout.read_chunk.shape
    # Rows of chunks within a layer, or an expert, follow each other only where no chunk holds two of them.
    axes = 1 + sum(1 for _ in itertools.takewhile(lambda size: size == 1, chunk[: max(0, len(shape) - 2)]))
    for start in itertools.product(*(range(0, shape[axis], chunk[axis]) for axis in range(axes))):
        stop = (min(first + chunk[axis], shape[axis]) for axis, first in enumerate(start))
        yield np.ascontiguousarray(stored[tuple(map(slice, start, stop))].read().result())


def _opened(path: Path, name: str) -> Any:
    import tensorstore

    folder = path.resolve() / "parameters" / name.replace("/", ".")
    store = {"driver": "file", "path": f"{folder}/"}
    return tensorstore.open({"driver": "zarr", "kvstore": store}, open=True).result()


def _teller(path: Path, total: int) -> Callable[[int], None]:
    """Counts bytes, and says how far it is where that takes long."""
    done, due = 0, time.monotonic() + PATIENCE[0]

    def tell(count: int) -> None:
        nonlocal done, due
        done += count
        if time.monotonic() > due:
            due = time.monotonic() + PATIENCE[1]
            say(f"verifying {path}, once on this machine: {done / total:.0%} of {total / 1e9:.1f} GB")

    return tell


def _states(path: Path) -> list[tuple[Any, ...]]:
    """Each parameter file's name, size, inode and times, from which a change can be told; that of the status last."""
    found, top = [], path / "parameters"
    for folder, _, files in os.walk(top):
        for name in files:
            file = os.path.join(folder, name)
            state = os.stat(file)
            times = state.st_mtime_ns, state.st_ctime_ns
            found.append((os.path.relpath(file, top), state.st_size, state.st_ino, *times))
    return sorted(found)


def _record(path: Path) -> Path:
    return verified_folder() / hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]


def _remembered(path: Path) -> str | None:
    try:
        return _record(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None


def _remember(path: Path, seen: str) -> None:
    """Where the cache folder cannot be written, the store is hashed every time."""
    with suppress(OSError, UserError):
        verified_folder().mkdir(parents=True, exist_ok=True)
        write_whole(f"{seen}\n", _record(path))


def _described(measure: Mapping[str, int]) -> str:
    return f"{measure['files']} files of {measure['bytes']} bytes"
