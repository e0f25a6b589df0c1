"""Where checkpoints come from: a Hugging Face folder, a hub id, or a folder of Meta's original files."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from convert import hub
from convert.meta import is_meta_folder, read_meta_folder
from convert.safetensors_files import read_header
from convert.tensors import Tensor, abbreviated, by_name
from convert.torch_files import read_torch_file
from jaxpaint.base.bundled import FOLDER as BUNDLED_FOLDER
from jaxpaint.base.bundled import MODEL as BUNDLED
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import recover
from jaxpaint.models.checkpoint import is_store

# (index of shards, the files where there is no index, how to read one)
HUGGINGFACE_WEIGHTS = (
    ("model.safetensors.index.json", "model*.safetensors", read_header),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin", read_torch_file),
)


@dataclass(frozen=True)
class Source:
    """A checkpoint, none of its tensors read yet. `name` is the folder, hub id or `BUNDLED`, `revision` the hub's
    commit."""

    name: str
    revision: str | None
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer_files: Sequence[Path]


def resolve(source: str | Path, revision: str | None = None) -> Source:
    """Finds a checkpoint and reads its config and the names, shapes and dtypes of its tensors.

    Raises:
        UserError: there is none, or it is incomplete, truncated or corrupt.
    """
    folder, commit = locate(source, revision)
    name = str(folder) if commit is None and folder != BUNDLED_FOLDER else str(source)
    if is_meta_folder(folder) and not _has_huggingface_weights(folder):
        config, tensors = read_meta_folder(folder)
    elif (folder / "config.json").is_file():
        config, tensors = _read_config(folder / "config.json"), _read_weights(folder)
    else:
        raise UserError(
            f"{folder} is not a checkpoint: it has neither config.json (Hugging Face) nor params.json with "
            "consolidated.*.pth (Meta)"
        )
    return Source(name, commit, folder, config, tensors, _tokenizer_files(folder))


def local_path(source: str | Path, revision: str | None = None) -> Path:
    """Where a model is if it is in a folder; a checkpoint of one's own goes before the bundled model of its name.

    Raises UserError for a revision of a folder, which has none.
    """
    path = Path(source).expanduser()
    recover(path)
    if str(source) == BUNDLED and not (is_store(path) or is_meta_folder(path) or (path / "config.json").is_file()):
        path = BUNDLED_FOLDER
    if revision is not None and path.is_dir():
        what = "comes with jaxpaint" if path == BUNDLED_FOLDER else "is a folder"
        raise UserError(f"revision {revision!r} belongs to a hub id, and {source} {what}; leave it out")
    return path


def locate(source: str | Path, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder of a checkpoint's files, downloaded if need be, and its commit hash if it is on the hub."""
    path = local_path(source, revision)
    if path.is_dir():
        return path.resolve(), None
    require_known(source)
    return hub.download(str(source), revision)


def require_known(source: str | Path) -> None:
    """Raises UserError for what is neither a folder nor spelled like a hub id, nor the bundled model."""
    path = local_path(source)
    if path.exists() and not path.is_dir():
        raise UserError(f"{source} is a file; give the folder that it is in")
    if not path.is_dir() and not hub.is_hub_id(str(source)):
        near = difflib.get_close_matches(str(source), [BUNDLED], n=1)
        hint = f"; did you mean {BUNDLED}?" if near else ""
        raise UserError(f"no folder {source}, and it is not a hub id (owner/name) either{hint}")


def files_read(folder: Path) -> list[Path]:
    """The files of a local checkpoint that conversion depends on."""
    patterns = ("*.json", "*.safetensors", "*.bin", "*.pth", *hub.TOKENIZER_PATTERNS)
    names = (file for file in folder.iterdir() if file.is_file())
    return sorted(file for file in names if any(fnmatch(file.name, pattern) for pattern in patterns))


def _read_config(file: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a JSON {type(config).__name__}, not a model's configuration")
    return config


def _has_huggingface_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for _, pattern, _ in HUGGINGFACE_WEIGHTS)


def _read_weights(folder: Path) -> Mapping[str, Tensor]:
    for index_name, pattern, read in HUGGINGFACE_WEIGHTS:
        files = _shards(folder, index_name, pattern)
        if files:
            return by_name([tensor for file in files for tensor in read(file)], str(folder))
    raise UserError(
        f"{folder} has config.json but no weights: neither model*.safetensors nor pytorch_model*.bin is there"
    )


def _shards(folder: Path, index_name: str, pattern: str) -> list[Path]:
    single = pattern.replace("*", "")
    if (folder / single).is_file() and not (folder / index_name).is_file():
        return [folder / single]
    if not (folder / index_name).is_file():
        return sorted(folder.glob(pattern))
    try:
        named = sorted(set(json.loads((folder / index_name).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{folder / index_name} is not an index of shards: {error!r}; download it again") from error
    absent = [name for name in named if Path(name).name != name or not (folder / name).is_file()]
    if absent:
        raise UserError(f"{folder} lacks shards that {index_name} names: {abbreviated(absent)}; download them")
    return [folder / name for name in named]


def _tokenizer_files(folder: Path) -> list[Path]:
    files = {
        file.name: file
        # Meta keeps one tokenizer.model beside the folders of its models.
        for file in (*(folder.parent.glob("tokenizer.model") if is_meta_folder(folder) else ()), *folder.iterdir())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in hub.TOKENIZER_PATTERNS)
    }
    return [files[name] for name in sorted(files)]
