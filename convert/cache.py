"""Stores made on first use, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert import hub
from convert.adapters import content, parted, read_adapter
from convert.quantised import floats_config
from convert.sources import files_read, local_path, read_config_file, require_known, resolve
from convert.to_store import architecture, convert
from jaxpaint.base.caches import stores_folder
from jaxpaint.base.errors import UserError
from jaxpaint.models import from_huggingface
from jaxpaint.models.checkpoint import GENERATION_CONFIG, Progress, is_store, read_config, read_manifest
from jaxpaint.models.family import Config
from jaxpaint.models.manifest import FORMAT_VERSION, TOKENIZER_VOCABULARIES

# Counts up when conversion keeps of a checkpoint what it did not keep before.
KEPT_VERSION = 3


def store_for(
    model: str | Path,
    revision: str | None = None,
    progress: Progress | None = None,
    adapter: str | Path | None = None,
) -> Path:
    """The converted store of a model: a store itself, or a checkpoint's, converted on first use.

    Converted stores are kept in `$JAXPAINT_CACHE`, or else the user's cache folder, by what the checkpoint's files
    are: a changed checkpoint is converted anew. A LoRA adapter of peft (a folder) is merged into the weights; its
    folder in place of a model stands for the model that it names, with it.

    Raises:
        UserError: no such model, or one that does not convert.
    """
    model, revision, adapter = parted(model, revision, adapter)
    place = _place(model, revision, adapter)
    if place.is_there:
        return place.store
    try:
        convert(model, place.store, revision=place.version, adapter=adapter, progress=progress)
    except UserError:
        # Another process may have been faster.
        if is_store(place.store):
            return place.store
        raise
    if progress:
        gigabytes = sum(file.stat().st_size for file in place.store.rglob("*") if file.is_file()) / 1e9
        progress(f"{place.name} is converted, once for all; {place.store} holds it ({gigabytes:.2g} GB)", 0, 0)
    return place.store


def is_converted(model: str | Path, revision: str | None = None) -> bool:
    """Whether `store_for` only looks it up. Raises UserError where there is no such model."""
    return _place(*parted(model, revision)).is_there


def require_converted(model: str | Path, revision: str | None = None) -> None:
    """Raises UserError for a model that `store_for` would convert, where several processes would at the same time."""
    if not is_converted(model, revision):
        raise UserError(
            f"{model} is not converted yet, which one process does: first run jaxpaint convert {model} STORE, and give "
            "--model STORE"
        )


def config_for(model: str | Path, revision: str | None = None) -> Config:
    """The architecture of a model, by which plans and settings can be refused before it is converted, or downloaded.

    Nothing is written but a hub's config.json into the hub's own cache. Where only the weights say that a checkpoint
    lacks its head or pooler, one that was not downloaded yet is taken to have it.

    Raises:
        UserError: no such model, or one that does not convert, as far as names and shapes of its tensors say.
    """
    model, revision, adapter = parted(model, revision)
    place = _place(model, revision, adapter)
    if place.is_there:
        return read_config(place.store)
    if place.version is not None and (file := hub.config_file(str(model), place.version)) is not None:
        return from_huggingface(floats_config(read_config_file(file), str(model)))
    return architecture(resolve(model, place.version)).config


@dataclass(frozen=True)
class _Place:
    """Where a model's converted store is, or will be; `version` is the hub's commit."""

    store: Path
    is_there: bool
    name: str = ""
    version: str | None = None


def _place(model: str | Path, revision: str | None, adapter: Path | None) -> _Place:
    path = local_path(model, revision)
    if _is_there(path):
        if adapter is not None:
            raise UserError(f"{model} is a converted store; give the checkpoint that {adapter} is to be merged into")
        return _Place(path, True)
    require_known(model)
    if path.exists():
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files_read(path)]
        name, key, version = path.resolve().name, [str(path.resolve()), states], None
    else:
        version = hub.commit(str(model), revision)
        name, key = str(model).replace("/", "--"), [str(model), version]
    if adapter is not None:
        read_adapter(adapter)  # what cannot be merged is told before anything is downloaded
        store = _named(f"{name}--{adapter.resolve().name}", FORMAT_VERSION, key, KEPT_VERSION, content(adapter))
        return _Place(store, _is_there(store), name, version)
    of_before = _named(name, FORMAT_VERSION, key)
    # What the hub has besides is not known here.
    has_all = path.is_dir() and not (path / GENERATION_CONFIG).is_file()
    if is_store(of_before) and has_all and _has_whole_tokenizer(of_before):
        return _Place(of_before, True)
    store = _named(name, FORMAT_VERSION, key, KEPT_VERSION)
    return _Place(store, _is_there(store), name, version)


def _is_there(path: Path) -> bool:
    """Whether there is a store. Raises UserError for a damaged one, such as a folder of parameters alone."""
    if not is_store(path) and not (path / "parameters").is_dir():
        return False
    read_manifest(path)
    return True


def _named(name: str, *key: Any) -> Path:
    return stores_folder() / f"{name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]}"


def _has_whole_tokenizer(store: Path) -> bool:
    """Whether conversion still gives this tokenizer: it lacked vocabularies of other names, and settings of Meta's."""
    names = set(read_manifest(store).get("tokenizer", ()))
    return bool(names & {"tokenizer.json", "tokenizer_config.json"} and names & set(TOKENIZER_VOCABULARIES))
