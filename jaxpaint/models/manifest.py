"""What a converted store says of itself, read and compared with what was written. Cheap: no parameter is read.

The manifest's fingerprint covers config.json and every tensor's shape, dtype and hash; its `files` have the hashes of
the other files, tokenizer included, and its `sha256` is over all the rest of it. The first stores lack these two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from jaxpaint.base.documents import checked, read_bytes, read_json, shown
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import recover
from jaxpaint.base.names import inside, require_text
from jaxpaint.models import from_dict
from jaxpaint.models.family import Config

FORMAT = "jaxpaint store"
FORMAT_VERSION = 1
TOKENIZER_VOCABULARIES = (
    *("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt"),
    *("spiece.model", "sentencepiece.bpe.model"),
)
LONGEST = 60  # characters of how a model was made, in its name

DType: TypeAlias = Literal["bfloat16", "float16", "float32"]


class StoredTensor(TypedDict):
    """`sha256` is over the stacked tensor's bytes, layer after layer."""

    shape: list[int]
    dtype: DType
    sha256: str


class Measure(TypedDict):
    files: int
    bytes: int


class Manifest(TypedDict):
    """What is read of manifest.json."""

    source: str
    revision: NotRequired[str | None]
    quantisation: NotRequired[dict[str, int]]
    healed: NotRequired[list[dict[str, Any]]]
    composed: NotRequired[dict[str, Any]]
    adapter: NotRequired[dict[str, Any]]
    dtype: DType
    tokenizer: list[str]
    parameters: Measure
    fingerprint: str
    tensors: dict[str, StoredTensor]
    files: NotRequired[dict[str, str]]
    sha256: NotRequired[str]


def is_store(path: str | Path) -> bool:
    """Whether `path` is a folder that says it is a converted store (damaged ones included)."""
    try:
        return _said(Path(path)).get("format") == FORMAT
    except UserError:
        return False


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The store's manifest, once it and config.json are seen to be what the store was written with.

    Raises:
        UserError: the folder does not exist, is no store, is one of another format version, or is damaged.
    """
    return _read(Path(path))[0]


def read_config(path: str | Path) -> Config:
    """The architecture of a store. Raises UserError as `read_manifest` does."""
    return from_dict(_read(Path(path))[1])


def source_name(manifest: Mapping[str, Any]) -> str | None:
    """What results call a model: its source, and of which layers it was composed, or for which plans healed."""
    source = manifest.get("source")
    if source is None:
        return None
    made = [f"composed of {composed['layers']}"] if (composed := manifest.get("composed")) else []
    made += [f"healed for {each['plan']}" for each in manifest.get("healed") or ()]
    return ", ".join([source, *(each if len(each) <= LONGEST else f"{each[: LONGEST - 1]}…" for each in made)])


def identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What results tell a model by, its source as `source_name` has it; all None of one made in memory."""
    known = {name: manifest.get(name) for name in ("fingerprint", "revision")}
    return {**known, "source": source_name(manifest)}


def fingerprint(config: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over a configuration's `to_dict` and every tensor's shape, dtype and hash: equal for equal models."""
    return hashlib.sha256(json.dumps([config, tensors], sort_keys=True).encode()).hexdigest()


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """With `sha256`, over everything else in it."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return {**rest, "sha256": hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def tokenizer_path(path: str | Path) -> Path:
    """The folder of a store's tokenizer files. Raises UserError where the source had none, or they are others now."""
    path = Path(path)
    manifest = read_manifest(path)
    folder = path / "tokenizer"
    require_same_files(path, manifest)
    if not any((folder / name).exists() for name in TOKENIZER_VOCABULARIES):
        raise UserError(
            f"the store {path} has no tokenizer, because {manifest['source']} had none (no "
            f"{', '.join(TOKENIZER_VOCABULARIES)}); add its files there and convert again"
        )
    return folder


def file_hashes(store: Path) -> dict[str, str]:
    """The hashes of a store's files, by their names in it, but for those that the fingerprint covers."""
    covered = ("parameters", "config.json", "manifest.json")
    others = [entry for entry in store.iterdir() if entry.name not in covered]
    inner = [file for entry in others for file in (entry, *entry.rglob("*"))]
    files = [file for file in (*inner, *(store / "parameters").iterdir()) if file.is_file()]
    return {file.relative_to(store).as_posix(): _hash(file) for file in sorted(files)}


def require_same_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises UserError unless the store's tokenizer and other files are those that it was written with."""
    if "files" not in manifest:
        return
    there = {f"tokenizer/{file.name}" for file in (path / "tokenizer").glob("*") if not file.name.startswith(".")}
    if added := sorted(there - manifest["files"].keys()):
        raise UserError(f"{path / added[0]} was added to the store after it was written: {_CHANGED}")
    for name, digest in manifest["files"].items():
        if _hash(inside(path, name, "manifest.json")) != digest:
            raise UserError(f"{path / name} is not the file that the store was written with: {_CHANGED}")


_CHANGED = "its scores would not be comparable; change the checkpoint instead, and convert it again"


def _hash(file: Path) -> str:
    return hashlib.sha256(read_bytes(file)).hexdigest()


def damaged(path: Path, how: str) -> UserError:
    return UserError(
        f"the store {path} is damaged: {how}; copy it again, or remove it and convert the checkpoint again"
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config.json."""
    said = _said_of_store(path)
    lacking = [name for name in ("parameters", "config.json", "huggingface_config.json") if not (path / name).exists()]
    if lacking:
        raise damaged(path, f"it lacks {', '.join(lacking)}")
    checked(said, Manifest, str(path / "manifest.json"))
    if "sha256" in said and said != sealed(said):
        raise damaged(path, "manifest.json is not what was written")
    config = read_json(path / "config.json", dict[str, Any])
    if fingerprint(config, said["tensors"]) != said["fingerprint"]:
        raise damaged(path, "config.json and manifest.json do not have the fingerprint that they were written with")
    return said, config


def _said_of_store(path: Path) -> dict[str, Any]:
    require_text(path)
    recover(path)
    if not path.is_dir():
        raise UserError(f"no folder {path}")
    if not is_store(path):
        reason = "it has no manifest.json of one; make one with `jaxpaint convert`"
        if (path / "parameters").is_dir():
            reason = "its manifest.json is missing or unreadable; remove it and convert the checkpoint again"
        raise UserError(f"{path} is not a converted store: {reason}")
    said = _said(path)
    if said.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{path} has store format version {shown(said.get('format_version'))}, this jaxpaint reads version "
            f"{FORMAT_VERSION}; convert the checkpoint again"
        )
    return said


def _said(path: Path) -> dict[str, Any]:
    return read_json(path / "manifest.json", dict[str, Any])
