"""The converted store: a checkpoint's parameters, stacked by layer, with all that is needed to run them.

A store is a folder:

    parameters/              the stacked parameters (Orbax)
    config.json              the configuration's `to_dict`
    huggingface_config.json  the source's own config
    generation_config.json   the source's, where it had one
    tokenizer/               the source's tokenizer files, or its image processor's, where it had any
    manifest.json            format, source, revision, dtype, versions, each tensor's shape, dtype and hash, and the
                             hashes of the other files
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxpaint.base.disk import require_room, reserve
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.folders import new_folder
from jaxpaint.base.memory import give_back, require_memory
from jaxpaint.base.names import require_text
from jaxpaint.base.precision import Weights, described, is_quantised
from jaxpaint.models.checkpointer import checkpointer_of
from jaxpaint.models.family import Config
from jaxpaint.models.manifest import (
    FORMAT,
    FORMAT_VERSION,
    file_hashes,
    fingerprint,
    is_store,
    read_config,
    read_manifest,
    sealed,
    tokenizer_path,
)
from jaxpaint.models.verification import measure, read_tensor, verified

if TYPE_CHECKING:
    import jax
    import numpy as np
    from jax.sharding import Sharding

__all__ = ["is_store", "read_config", "read_manifest", "read_tensor", "restore", "save", "tokenizer_path", "verified"]

# Stored chunks hold part of one layer, so that a shard reads little more than its own bytes.
CHUNK_BYTES = 16 * 2**20
# Bytes on top of the parameters, for threads, compiling and running; and what reading leaves behind of a store of that
# size or more. The tokenizer's libraries, 230 MB, are there before.
BESIDE_PARAMETERS = 100_000_000
LEFT_BEHIND = 70_000_000
# Bytes that reading holds beside a second copy of a tensor, 5 to 35 MB; and numbers of a tensor that is read by itself.
READING = 40_000_000
LARGE = 2_500_000
# Bytes of addresses that threads' stacks and arenas reserve beyond all this: 95 to 155 MB, fewer with all cached.
ADDRESSES = 70_000_000
# Bytes that conversion holds beside files, however large the model: parts of tensors, chunks and threads' own. With 85
# MB left it comes through, with 65 it waits for the disk, with 45 it is killed.
CONVERTING = 50_000_000
GENERATION_CONFIG = "generation_config.json"

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, the bytes done and the bytes in all (0 where there is only something to say)."""


def restore(
    path: str | Path,
    *,
    dtype: Any = None,
    weights: Weights = "float",
    sharding: Sharding | Callable[[str, tuple[int, ...]], Sharding] | None = None,
    keep: Callable[[str, jax.Array], Any] | None = None,
    packed: Collection[str] = (),
    beside: int = 0,
) -> dict[str, Any]:
    """The parameters as nested dictionaries of `jax.Array`, cast to `dtype` (default: as stored).

    With other `weights` the layers' kernels are integers with scales beside them (`jaxpaint.models.quantised`), made of
    each as it is read: the whole model in floating point is never there. `sharding` is one sharding for every array
    (default: the default device), or a function of a parameter's path (`blocks/mlp/up_proj/kernel`) and its shape. Each
    device's part is read and placed on its own. `keep` makes of a parameter, by its path, what stays of it: large ones
    come one by one, so that no two are there twice. Kernels at the paths `packed`, of bfloat16, come
    as `jaxpaint.tiles.packed` lays them out. `beside` are bytes that the host will need besides.

    Raises:
        UserError: no such store, a damaged one, or one that the memory of the host does not hold, where that is what
            it is restored to.
    """
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import unflatten_dict

    from jaxpaint import tiles
    from jaxpaint.models.quantised import quantised_at

    default = jnp.zeros(()).sharding if sharding is None else sharding
    _require_memory(path, dtype, weights, default, packed, beside)
    restored: dict[str, Any] = {}
    with verified(path) as manifest:
        for names in _in_turn(manifest["tensors"], weights, packed):
            tensors = {name: manifest["tensors"][name] for name in names}
            if is_quantised(names[0], weights):  # made of what is stored, whatever is computed in
                (kernel,) = _read(path, tensors, None, default).values()
                read = quantised_at(names[0], kernel, weights, default)
                del kernel
            elif names[0] in packed:
                (kernel,) = _read(path, tensors, jnp.bfloat16, default).values()
                read = {names[0]: jax.block_until_ready(tiles.packed(kernel))}
                del kernel
            else:
                read = _read(path, tensors, dtype, default)
            restored.update({name: keep(name, read.pop(name)) for name in list(read)} if keep else read)
            del read
            give_back(1)  # what reading held, before the next asks for as much
    give_back()
    nested: dict[str, Any] = unflatten_dict(restored, sep="/")
    return nested


def _read(path: str | Path, tensors: Mapping[str, Any], dtype: Any, sharding: Any) -> dict[str, jax.Array]:
    """Some of a store's tensors, by name."""
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp
    from flax.traverse_util import flatten_dict, unflatten_dict

    items, arguments, held = {}, {}, 0
    for name, tensor in tensors.items():
        shape, stored = tuple(tensor["shape"]), jnp.dtype(tensor["dtype"])
        kept = jnp.dtype(dtype or stored)
        items[name] = jax.ShapeDtypeStruct(shape, kept)
        placed = sharding(name, shape) if callable(sharding) else sharding
        arguments[name] = ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=placed, global_shape=shape, dtype=kept)
        # Orbax refuses less than an array as read or as kept, whichever is larger.
        held += math.prod(shape) * max(stored.itemsize, kept.itemsize)
    try:
        with checkpointer_of(restore_concurrent_gb=(held + 1) / 10**9) as checkpointer:
            restored = checkpointer.restore(
                (Path(path) / "parameters").resolve(),
                args=ocp.args.PyTreeRestore(
                    item=unflatten_dict(items, sep="/"),
                    restore_args=unflatten_dict(arguments, sep="/"),
                    partial_restore=True,
                ),
            )
    except Exception as error:  # whatever Orbax makes of metadata that are not its own
        if "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise UserError(f"the store {path} cannot be restored: {first_line(error)[:300]}") from error
    flat: dict[str, jax.Array] = flatten_dict(jax.block_until_ready(restored), sep="/")  # until its copy can go
    return flat


def _in_turn(tensors: Mapping[str, Any], weights: Weights, packed: Collection[str]) -> list[list[str]]:
    """The names of tensors that are read at once: small ones together, last, after large ones, the largest first.

    Reading holds a second copy, which so finds the room that later ones will take. What is quantised or packed is read
    by itself.
    """
    sizes = {name: math.prod(tensor["shape"]) for name, tensor in tensors.items()}
    alone = {name for name in tensors if sizes[name] >= LARGE or name in packed or is_quantised(name, weights)}
    small = [name for name in tensors if name not in alone]
    return [*([name] for name in sorted(alone, key=lambda name: (-sizes[name], name))), *([small] if small else [])]


def _require_memory(
    path: str | Path, dtype: Any, weights: Weights, sharding: Any, packed: Collection[str], beside: int
) -> None:
    """Raises UserError where the part of the parameters that lies on the host does not fit into its memory."""
    import jax.numpy as jnp

    from jaxpaint.models.quantised import kernel_bytes

    kept = needed = 0
    tensors = read_manifest(path)["tensors"]
    for names in _in_turn(tensors, weights, packed):
        part = copies = 0
        for name in names:
            shape = tuple(tensors[name]["shape"])
            placed = sharding(name, shape) if callable(sharding) else sharding
            on_host = placed.memory_kind == "pinned_host"
            hosts = sum(on_host or device.platform == "cpu" for device in placed.addressable_devices)
            # Copies of one array on several of a host's devices may be one in memory.
            numbers = min(hosts * math.prod(placed.shard_shape(shape)), math.prod(shape))
            stored = jnp.dtype(tensors[name]["dtype"])
            if is_quantised(name, weights):  # as it is read, and reading's copy
                needed = max(needed, kept + 2 * numbers * stored.itemsize)
                part += kernel_bytes(shape, weights) * numbers // math.prod(shape)
                continue
            if name in packed:
                needed = max(needed, kept + numbers * (2 + max(2, stored.itemsize)))
                part += 2 * numbers
                continue
            part += numbers * jnp.dtype(dtype or stored).itemsize
            copies += numbers * max(jnp.dtype(dtype or stored).itemsize, stored.itemsize)
        kept += part
        needed = max(needed, kept + copies)
    if not kept:
        return
    shown = described(jnp.dtype(dtype or next(iter(tensors.values()))["dtype"]), weights)
    # Not fewer bits: a CPU computes in float32, and XLA holds the layers' copies in it beside them.
    advice = "allow the container or the job more (ulimit -v), or take a machine or a model that suits it"
    needed = max(needed + READING, kept + beside + min(kept, LEFT_BEHIND) + BESIDE_PARAMETERS)
    require_memory(needed, f"loading the parameters of {path} in {shown}", advice, addresses=ADDRESSES)


def save(
    destination: str | Path,
    config: Config,
    fill: Callable[[str, int | None, np.ndarray], None],
    *,
    dtype: str,
    huggingface_config: Mapping[str, Any],
    tokenizer_files: Sequence[Path] = (),
    tokenizer_texts: Mapping[str, str] = MappingProxyType({}),
    generation_config: Path | None = None,
    source: str = "memory",
    revision: str | None = None,
    quantisation: Mapping[str, int] | None = None,
    healed: Sequence[Mapping[str, Any]] = (),
    composed: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a store and returns its path. Nothing is there under that name until all of it is.

    `fill(name, layer, out)` writes one layer of a stacked parameter into `out`, or, with `layer` None, a parameter
    that is not stacked. It is called once for each, and `out` is memory-mapped: memory holds one layer at a time.
    `tokenizer_texts` are files of the tokenizer by name, beside those that are copied. `quantisation` counts the
    tensors of a GGUF file, which the source then is, by their types. `healed` says of each time that
    the source's parameters were trained how (`jaxpaint.training.heal`), `composed` of which models' layers they are
    (`convert.composing`), `adapter` which one is merged into them (`convert.merging`).

    Raises:
        UserError: `destination` exists, or its disk has not the room.
    """
    import jax.numpy as jnp

    from jaxpaint.models import abstract_parameters

    require_text(destination)

    shapes = {name: tuple(value.shape) for name, value in abstract_parameters(config, jnp.dtype(dtype)).items()}
    with new_folder(destination, overwrite=overwrite, replaces=is_store) as folder:
        needed = 2 * sum(map(math.prod, shapes.values())) * jnp.dtype(dtype).itemsize
        require_memory(CONVERTING, "conversion", "allow the container or the job more (ulimit -v)")
        require_room(folder.parent, needed, "conversion", " (the store, and as much again while it works)")
        staging = folder / "staging"
        staging.mkdir()
        staged, hashes = _stage(staging, shapes, jnp.dtype(dtype), fill, progress)
        if progress:
            total = sum(value.nbytes for value in staged.values())
            progress("writing the store", total, total)
        _write_parameters(folder / "parameters", staged)
        del staged
        try:
            shutil.rmtree(staging)
        except OSError as error:  # which names a file without its folder
            raise OSError(error.errno, error.strerror, str(staging)) from error
        tensors = {
            name: {"shape": list(shape), "dtype": dtype, "sha256": hashes[name]} for name, shape in shapes.items()
        }
        _copy_tokenizer(folder / "tokenizer", tokenizer_files, tokenizer_texts, huggingface_config)
        if generation_config is not None:
            shutil.copyfile(generation_config, folder / GENERATION_CONFIG)
        _write_json(folder / "config.json", config.to_dict())
        _write_json(folder / "huggingface_config.json", huggingface_config)
        _write_manifest(
            folder / "manifest.json",
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "source": source,
                "revision": revision,
                **({"quantisation": dict(quantisation)} if quantisation else {}),
                **({"healed": list(healed)} if healed else {}),
                **({"composed": composed} if composed else {}),
                **({"adapter": adapter} if adapter else {}),
                "dtype": dtype,
                "tokenizer": sorted([*(file.name for file in tokenizer_files), *tokenizer_texts]),
                "versions": {name: _version(name) for name in ("jaxpaint", "jax", "flax", "orbax-checkpoint")},
                "parameters": measure(folder / "parameters"),
                "fingerprint": fingerprint(config.to_dict(), tensors),
                "files": file_hashes(folder),
                "tensors": tensors,
            },
        )
    return Path(destination)


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
    files = {name: staging / name.replace("/", ".") for name in shapes}
    for name, shape in shapes.items():  # all of them first: what lacks room then is told before the work
        reserve(files[name], math.prod(shape) * dtype.itemsize)
    for name, shape in shapes.items():
        file = files[name]
        mapped = np.memmap(file, mode="r+", dtype=dtype, shape=shape)
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

    class Handler(ocp.type_handlers.NumpyHandler):
        """Raises what failed once no other array is being written: nothing comes back into a folder then removed."""

        async def _open_and_write(self, *given: Any) -> None:
            writing = asyncio.ensure_future(super()._open_and_write(*given))
            begun.append(writing)
            try:
                await writing
            finally:
                await asyncio.wait(begun)

    begun: list[asyncio.Future[None]] = []
    # By default Orbax copies host arrays first, which would bring the whole checkpoint into memory.
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, Handler(deepcopy_host_arrays=False)))
    arguments = {}
    for name, value in parameters.items():
        stacked_and_large = name.startswith("blocks/") and value.nbytes > CHUNK_BYTES
        shard_axes = ((0, 1) if value.ndim > 3 else (0,)) if stacked_and_large else ()  # a chunk is of one expert, too
        arguments[name] = ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=shard_axes)
    # One file per chunk: OCDBT's merging holds gigabytes in memory. Weights compress little.
    with checkpointer_of(use_ocdbt=False, use_compression=False, type_handler_registry=registry) as checkpointer:
        checkpointer.save(
            folder.resolve(),
            args=ocp.args.PyTreeSave(
                item=unflatten_dict(dict(parameters), sep="/"), save_args=unflatten_dict(arguments, sep="/")
            ),
        )


def _copy_tokenizer(
    folder: Path, files: Sequence[Path], texts: Mapping[str, str], huggingface_config: Mapping[str, Any]
) -> None:
    folder.mkdir()
    for file in files:
        shutil.copyfile(file, folder / file.name)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    if files or texts:
        # Where tokenizer_config.json names no class, transformers looks at the model's type.
        _write_json(folder / "config.json", huggingface_config)


def _write_manifest(file: Path, manifest: Mapping[str, Any]) -> None:
    _write_json(file, sealed(manifest))


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
