"""Stores made on first use, kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from convert import hub
from convert.sources import files_read, local_path, require_known
from convert.to_store import convert
from jaxpaint.base.caches import stores_folder
from jaxpaint.base.errors import UserError
from jaxpaint.models.checkpoint import GENERATION_CONFIG, Progress, is_store, read_manifest
from jaxpaint.models.manifest import FORMAT_VERSION, TOKENIZER_VOCABULARIES

# Counts up when conversion keeps of a checkpoint what it did not keep before.
KEPT_VERSION = 3


def store_for(model: str | Path, revision: str | None = None, progress: Progress | None = None) -> Path:
    """The converted store of a model: a store itself, or a checkpoint's, converted on first use.

    Converted stores are kept in `$JAXPAINT_CACHE`, or else the user's cache folder, by what the checkpoint's files
    are: a changed checkpoint is converted anew.

    Raises:
        UserError: no such model, or one that does not convert.
    """
    path = local_path(model, revision)
    if _is_there(path):
        return path
    require_known(model)
    if path.is_dir():
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files_read(path)]
        name, key, version = path.resolve().name, [str(path.resolve()), states], None
    else:
        version = hub.commit(str(model), revision)
        name, key = str(model).replace("/", "--"), [str(model), version]
    of_before = _named(name, FORMAT_VERSION, key)
    # What the hub has besides is not known here.
    has_all = path.is_dir() and not (path / GENERATION_CONFIG).is_file()
    if is_store(of_before) and has_all and _has_whole_tokenizer(of_before):
        return of_before
    store = _named(name, FORMAT_VERSION, key, KEPT_VERSION)
    if _is_there(store):
        return store
    try:
        convert(model, store, revision=version, progress=progress)
    except UserError:
        # Another process may have been faster.
        if is_store(store):
            return store
        raise
    if progress:
        gigabytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e9
        progress(f"{name} is converted, once for all; {store} holds it ({gigabytes:.2g} GB)", 0, 0)
    return store


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
