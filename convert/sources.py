"""Where checkpoints come from: a Hugging Face folder, a hub id, a folder of Meta's original files, or a GGUF file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from convert import hub
from convert.gguf_files import is_gguf
from convert.gguf_models import read_gguf_model
from convert.gguf_tokenizer import gguf_tokenizer
from convert.meta import is_meta_folder, read_meta_folder
from convert.meta_tokenizer import read_meta_tokenizer
from convert.quantised import floats
from convert.safetensors_files import read_header
from convert.tensors import Tensor, abbreviated, by_name
from convert.torch_files import read_torch_file
from jaxpaint.base.bundled import FOLDER as BUNDLED_FOLDER
from jaxpaint.base.bundled import MODEL as BUNDLED
from jaxpaint.base.documents import read_json, require_regular
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import recover
from jaxpaint.base.names import inside
from jaxpaint.models.checkpoint import GENERATION_CONFIG, is_store

# (index of shards, the files where there is no index, how to read one)
HUGGINGFACE_WEIGHTS = (
    ("model.safetensors.index.json", "model*.safetensors", read_header),
    ("pytorch_model.bin.index.json", "pytorch_model*.bin", read_torch_file),
)


class Index(TypedDict):
    """Of shards: the file of each tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class Source:
    """A checkpoint, none of its tensors read yet. `name` is the folder or file, hub id or `BUNDLED`, `revision` the
    hub's commit; `tokenizer_texts` makes files by name that the tokenizer needs and the checkpoint has in another form.
    `tokenizer_split` is a GGUF file's name for how texts are split, `quantisation` counts its tensors by their types.
    """

    name: str
    revision: str | None
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    tokenizer_files: Sequence[Path]
    tokenizer_texts: Callable[[], Mapping[str, str]] = dict
    generation_config: Path | None = None
    tokenizer_split: str | None = None
    quantisation: Mapping[str, int] | None = None


def resolve(source: str | Path, revision: str | None = None) -> Source:
    """Finds a checkpoint and reads its config and the names, shapes and dtypes of its tensors.

    Raises:
        UserError: there is none, or it is incomplete, truncated or corrupt.
    """
    if _is_gguf_file(path := local_path(source, revision)):
        return _of_gguf(path.resolve())
    folder, commit = locate(source, revision)
    name = str(folder) if commit is None and folder != BUNDLED_FOLDER else str(source)
    files = _tokenizer_files(folder)
    if is_meta_folder(folder) and not _has_huggingface_weights(folder):
        config, tensors = read_meta_folder(folder)
        return _of_meta(Source(name, commit, folder, config, tensors, files))
    if (folder / "config.json").is_file():
        config, tensors = floats(read_config_file(folder / "config.json"), _read_weights(folder), name)
    else:
        raise UserError(
            f"{folder} is not a checkpoint: it has neither config.json (Hugging Face) nor params.json with "
            "consolidated.*.pth (Meta)"
        )
    return Source(name, commit, folder, config, tensors, files, generation_config=_generation_config(folder))


def _of_gguf(file: Path) -> Source:
    found = read_gguf_model(file)
    return Source(
        str(file),
        None,
        file.parent,
        found.config,
        found.tensors,
        tokenizer_files=(),
        tokenizer_texts=partial(gguf_tokenizer, file, found.tokenizer),
        tokenizer_split=found.split,
        quantisation=found.quantisation,
    )


def _of_meta(source: Source) -> Source:
    """With the tokenizer as Hugging Face has it, unless it is there in that form already."""
    files = {file.name: file for file in source.tokenizer_files}
    if "tokenizer.model" not in files or "tokenizer.json" in files:
        return source
    made = read_meta_tokenizer(files["tokenizer.model"], source.folder, source.config)
    texts = {name: text for name, text in made.written.items() if name not in files}
    if not made.kept:
        del files["tokenizer.model"]
    return replace(
        source,
        config={**source.config, **made.token_ids},
        tokenizer_files=list(files.values()),
        tokenizer_texts=lambda: texts,
    )


def local_path(source: str | Path, revision: str | None = None) -> Path:
    """Where a model is if it is in a folder; a checkpoint of one's own goes before the bundled model of its name.

    Raises UserError for a revision of a folder, which has none.
    """
    path = Path(source).expanduser()
    recover(path)
    if str(source) == BUNDLED and not (is_store(path) or is_meta_folder(path) or (path / "config.json").is_file()):
        path = BUNDLED_FOLDER
    if revision is not None and path.exists():
        what = "comes with jaxpaint" if path == BUNDLED_FOLDER else f"is a {'folder' if path.is_dir() else 'file'}"
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
    """Raises UserError for what is neither a folder or GGUF file nor spelled like a hub id, nor the bundled model."""
    path = local_path(source)
    if _is_gguf_file(path):
        return
    if path.exists() and not path.is_dir():
        raise UserError(f"{source} is a file, and no GGUF file; give the folder that it is in")
    if not path.is_dir() and not hub.is_hub_id(str(source)):
        near = difflib.get_close_matches(str(source), [BUNDLED], n=1)
        hint = f"; did you mean {BUNDLED}?" if near else ""
        raise UserError(f"no folder {source}, and it is not a hub id (owner/name) either{hint}")


def _is_gguf_file(path: Path) -> bool:
    """Whether it is read as one: by its first bytes, or by its name, so that what is wrong with it is told."""
    return is_gguf(path) or (path.suffix == ".gguf" and path.is_file())


def _is_part(name: str, before: str, after: str) -> bool:
    return re.fullmatch(rf"{re.escape(before)}-\d{{5}}{re.escape(after)}", name) is not None


def files_read(folder: Path) -> list[Path]:
    """The files of a local checkpoint that conversion depends on; of a GGUF file itself, and its other parts."""
    if folder.is_file():
        part = re.fullmatch(r"(.+)-\d{5}(-of-\d{5}\.gguf)", folder.name)
        others = folder.parent.iterdir() if part else ()
        return sorted({folder, *(file for file in others if part and _is_part(file.name, part[1], part[2]))})
    patterns = ("*.json", "*.safetensors", "*.bin", "*.pth")
    files = {file for file in folder.iterdir() if file.is_file() and any(fnmatch(file.name, one) for one in patterns)}
    return sorted(files.union(_tokenizer_files(folder)))


def read_config_file(file: Path) -> Mapping[str, Any]:
    """A Hugging Face config.json. Raises UserError for one that is damaged."""
    config = read_json(file)
    if not isinstance(config, dict):
        raise UserError(f"{file} holds a JSON {type(config).__name__}, not a model's configuration")
    return config


def _generation_config(folder: Path) -> Path | None:
    file = folder / GENERATION_CONFIG
    if not file.is_file():
        return None
    read_json(file, dict[str, Any])  # what cannot be read is told now
    return file


def _has_huggingface_weights(folder: Path) -> bool:
    return any(any(folder.glob(pattern)) for _, pattern, _ in HUGGINGFACE_WEIGHTS)


def _read_weights(folder: Path) -> Mapping[str, Tensor]:
    for index_name, pattern, read in HUGGINGFACE_WEIGHTS:
        files = _shards(folder, index_name, pattern)
        if files:
            for file in files:
                require_regular(file)
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
        index = read_json(folder / index_name, Index)
    except UserError as error:
        raise UserError(f"{error}, so it is not an index of shards; download it again") from error
    named = [inside(folder, name, index_name) for name in sorted(set(index["weight_map"].values()))]
    absent = [file.name for file in named if not file.exists()]
    if absent or not named:
        which = f": {abbreviated(absent)}" if absent else " none of"
        raise UserError(f"{folder} lacks shards that {index_name} names{which}; download them")
    return named


def _tokenizer_files(folder: Path) -> list[Path]:
    files = {
        file.name: file
        # Meta keeps one tokenizer.model beside the folders of its models.
        for file in (*(folder.parent.glob("tokenizer.model") if is_meta_folder(folder) else ()), *folder.iterdir())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in hub.TOKENIZER_PATTERNS)
    }
    return [files[name] for name in sorted(files)]
