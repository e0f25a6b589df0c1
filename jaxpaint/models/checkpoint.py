"""The converted store: a checkpoint's parameters, stacked by layer, with all that is needed to run them.

A store is a folder:

    parameters/              the stacked parameters (Orbax)
    config.json              the configuration's `to_dict`
    huggingface_config.json  the source's own config
    tokenizer/               the source's tokenizer files, where it had any
    manifest.json            format, source, revision, dtype, versions, and each tensor's shape, dtype and hash
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.files import new_folder
from jaxpaint.models import from_dict
from jaxpaint.models.family import Config

if TYPE_CHECKING:
    import numpy as np
    from jax.sharding import Sharding

FORMAT = "jaxpaint store"
FORMAT_VERSION = 1
# Stored chunks hold part of one layer, so that a shard reads little more than its own bytes.
CHUNK_BYTES = 16 * 2**20
TOKENIZER_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the bytes done and the bytes in all (0 where there is only something to say)."""


def is_store(path: str | Path) -> bool:
    """Whether `path` is a folder that says it is a converted store (damaged ones included)."""
    try:
        return json.loads((Path(path) / "manifest.json").read_text()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The store's manifest.

    Raises:
        UserError: the folder does not exist, is no store, is one of another format version, or is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"no folder {path}")
    if not is_store(path):
        damaged = (path / "parameters").is_dir()
        reason = "its manifest.json is missing or unreadable" if damaged else "it has no manifest.json of one"
        raise UserError(f"{path} is not a converted store: {reason}; make one with `jaxpaint convert`")
    manifest = json.loads((path / "manifest.json").read_text())
    if manifest.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has store format version {manifest.get('format_version')}, this jaxpaint reads version "
            f"{FORMAT_VERSION}; convert the checkpoint again"
        )
    lacking = [name for name in ("parameters", "config.json", "huggingface_config.json") if not (path / name).exists()]
    if lacking:
        raise UserError(f"the store {path} is damaged: it lacks {', '.join(lacking)}; convert the checkpoint again")
    return manifest


def require_whole(path: str | Path) -> dict[str, Any]:
    """The store's manifest, once its parameter files are seen to be all there, in number and size.

    Raises:
        UserError: as `read_manifest`, or files are missing or truncated, as after an interrupted copy.
    """
    manifest = read_manifest(path)
    found = _measure(Path(path) / "parameters")
    if found != manifest["parameters"]:
        raise UserError(
            f"the store {path} is damaged: its parameters are {_described(found)}, and were "
            f"{_described(manifest['parameters'])} when written; copy it or convert the checkpoint again"
        )
    return manifest


def read_config(path: str | Path) -> Config:
    """The architecture of a store. Raises UserError as `read_manifest` does."""
    read_manifest(path)
    return from_dict(json.loads((Path(path) / "config.json").read_text()))


def tokenizer_path(path: str | Path) -> Path:
    """The folder of a store's tokenizer files. Raises UserError where the source had none."""
    manifest = read_manifest(path)
    folder = Path(path) / "tokenizer"
    if not any((folder / name).exists() for name in TOKENIZER_VOCABULARIES):
        raise UserError(
            f"the store {path} has no tokenizer, because {manifest['source']} had none (no "
            f"{', '.join(TOKENIZER_VOCABULARIES)}); add its files there and convert again"
        )
    return folder


def restore(
    path: str | Path,
    *,
    dtype: Any = None,
    sharding: Sharding | Callable[[str, tuple[int, ...]], Sharding] | None = None,
) -> dict[str, Any]:
    """The parameters as nested dictionaries of `jax.Array`, cast to `dtype` (default: as stored).

    `sharding` is one sharding for every array (default: the default device), or a function of a parameter's path
    (`blocks/mlp/up_proj/kernel`) and its shape. Each device's part is read and placed on its own.

    Raises:
        UserError: no such store, or a damaged one.
    """
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from flax.traverse_util import unflatten_dict

    tensors = require_whole(path)["tensors"]
    default = jnp.zeros(()).sharding if sharding is None else sharding
    items, arguments = {}, {}
    for name, tensor in tensors.items():
        shape, kept = tuple(tensor["shape"]), jnp.dtype(dtype or tensor["dtype"])
        items[name] = jax.ShapeDtypeStruct(shape, kept)
        placed = default(name, shape) if callable(default) else default
        arguments[name] = ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=placed, global_shape=shape, dtype=kept)
    # Bounds what is in flight on the host: at least the largest array, which Orbax would otherwise refuse.
    largest = max(math.prod(item.shape) * item.dtype.itemsize for item in items.values())
    try:
        with _orbax(restore_concurrent_gb=largest // 10**9 + 1) as checkpointer:
            return checkpointer.restore(
                (Path(path) / "parameters").resolve(),
                args=ocp.args.PyTreeRestore(
                    item=unflatten_dict(items, sep="/"), restore_args=unflatten_dict(arguments, sep="/")
                ),
            )
    except (OSError, KeyError) as error:
        reason = first_line(error)[:300]
        raise UserError(f"the store {path} cannot be restored: {reason}") from error


def read_tensor(path: str | Path, name: str, layer: int | None = None) -> np.ndarray:
    """One stored parameter by its path in the tree, or one `layer` of it, on the host and nothing else read."""
    import tensorstore

    folder = Path(path).resolve() / "parameters" / name.replace("/", ".")
    stored = tensorstore.open(
        {"driver": "zarr", "kvstore": {"driver": "file", "path": f"{folder}/"}}, open=True
    ).result()
    return (stored if layer is None else stored[layer]).read().result()


def save(
    destination: str | Path,
    config: Config,
    fill: Callable[[str, int | None, np.ndarray], None],
    *,
    dtype: str,
    huggingface_config: Mapping[str, Any],
    tokenizer_files: Sequence[Path] = (),
    source: str = "memory",
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a store and returns its path. Nothing is there under that name until all of it is.

    `fill(name, layer, out)` writes one layer of a stacked parameter into `out`, or, with `layer` None, a parameter
    that is not stacked. It is called once for each, and `out` is memory-mapped: memory holds one layer at a time.

    Raises:
        UserError: `destination` exists, or its disk has not the room.
    """
    import jax.numpy as jnp

    from jaxpaint.models import abstract_parameters

    shapes = {name: tuple(value.shape) for name, value in abstract_parameters(config, jnp.dtype(dtype)).items()}
    with new_folder(destination, overwrite=overwrite, replaces=is_store) as folder:
        _require_room(folder, 2 * sum(map(math.prod, shapes.values())) * jnp.dtype(dtype).itemsize)
        staging = folder / "staging"
        staging.mkdir()
        staged, hashes = _stage(staging, shapes, jnp.dtype(dtype), fill, progress)
        if progress:
            total = sum(value.nbytes for value in staged.values())
            progress("writing the store", total, total)
        _write_parameters(folder / "parameters", staged)
        del staged
        shutil.rmtree(staging)
        tensors = {
            name: {"shape": list(shape), "dtype": dtype, "sha256": hashes[name]} for name, shape in shapes.items()
        }
        _copy_tokenizer(folder / "tokenizer", tokenizer_files, huggingface_config)
        _write_json(folder / "config.json", config.to_dict())
        _write_json(folder / "huggingface_config.json", huggingface_config)
        _write_json(
            folder / "manifest.json",
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "source": source,
                "revision": revision,
                "dtype": dtype,
                "tokenizer": sorted(file.name for file in tokenizer_files),
                "versions": {name: _version(name) for name in ("jaxpaint", "jax", "flax", "orbax-checkpoint")},
                "parameters": _measure(folder / "parameters"),
                "fingerprint": fingerprint(config, tensors),
                "tensors": tensors,
            },
        )
    return Path(destination)


def fingerprint(config: Config, tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the configuration and every tensor's shape, dtype and hash: equal for equal models."""
    return hashlib.sha256(json.dumps([config.to_dict(), tensors], sort_keys=True).encode()).hexdigest()


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free and conversion needs {needed / 1e9:.1f} GB (the store, and "
            "as much again while it works); make room, or choose a destination on another disk"
        )


def _stage(
    staging: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Any,
    fill: Callable[[str, int | None, np.ndarray], None],
    progress: Progress | None,
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Fills memory-mapped files with the stacked tensors; returns them with their SHA-256 hashes."""
    import numpy as np

    total = sum(map(math.prod, shapes.values())) * dtype.itemsize
    done = 0
    staged, hashes = {}, {}
    for name, shape in shapes.items():
        file = staging / name.replace("/", ".")
        mapped = np.memmap(file, mode="w+", dtype=dtype, shape=shape)
        digest = hashlib.sha256()
        layers: Sequence[int | None] = range(shape[0]) if name.startswith("blocks/") else [None]
        for layer in layers:
            out = np.asarray(mapped if layer is None else mapped[layer])
            fill(name, layer, out)
            digest.update(out.reshape(-1).view(np.uint8).data)
            done += out.nbytes
            if progress:
                progress(f"stacking {name}", done, total)
        mapped.flush()
        hashes[name] = digest.hexdigest()
        # Reopened read-only and as a plain array, the type that Orbax writes without a copy.
        staged[name] = np.asarray(np.memmap(file, mode="r", dtype=dtype, shape=shape)).view(np.ndarray)
    return staged, hashes


def _write_parameters(folder: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Writes memory-mapped arrays with Orbax, holding a few chunks in memory."""
    import numpy as np
    import orbax.checkpoint as ocp
    from flax.traverse_util import unflatten_dict

    # By default Orbax copies host arrays first, which would bring the whole checkpoint into memory.
    registry = ocp.type_handlers.create_type_handler_registry(
        (np.ndarray, ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False))
    )
    arguments = {}
    for name, value in parameters.items():
        stacked_and_large = name.startswith("blocks/") and value.nbytes > CHUNK_BYTES
        arguments[name] = ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=(0,) if stacked_and_large else ())
    # One file per chunk: OCDBT's merging holds gigabytes in memory. Weights compress little.
    with _orbax(use_ocdbt=False, use_compression=False, type_handler_registry=registry) as checkpointer:
        checkpointer.save(
            folder.resolve(),
            args=ocp.args.PyTreeSave(
                item=unflatten_dict(dict(parameters), sep="/"), save_args=unflatten_dict(arguments, sep="/")
            ),
        )


@contextlib.contextmanager
def _orbax(**settings: Any) -> Iterator[Any]:
    """A checkpointer of parameter trees that keeps its warnings about its own settings to itself."""
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # its errors are raised as well
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**settings)) as checkpointer:
            yield checkpointer
    finally:
        logger.setLevel(level)


def _measure(parameters: Path) -> dict[str, int]:
    sizes = [file.stat().st_size for file in parameters.rglob("*") if file.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


def _described(measure: Mapping[str, int]) -> str:
    return f"{measure['files']} files of {measure['bytes']} bytes"


def _copy_tokenizer(folder: Path, files: Sequence[Path], huggingface_config: Mapping[str, Any]) -> None:
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    if files:
        # Where tokenizer_config.json names no class, transformers looks at the model's type.
        _write_json(folder / "config.json", huggingface_config)


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
