"""The checkpoint's own tokenizer, loaded without executing anything the checkpoint contains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import StrictFloat
from typing_extensions import TypedDict  # pydantic asks for it before Python 3.12

from jaxpaint.base.documents import read_json
from jaxpaint.base.errors import UserError, first_line

PANIC = "PanicException"  # of Rust, which cannot be imported


class Token(TypedDict):
    content: str


Named: TypeAlias = str | Token | None


class Special(TypedDict, total=False):
    """What tokenizer_config.json and special_tokens_map.json say of special tokens, and of the class."""

    bos_token: Named
    eos_token: Named
    unk_token: Named
    sep_token: Named
    pad_token: Named
    cls_token: Named
    mask_token: Named
    additional_special_tokens: list[str | Token] | None
    added_tokens_decoder: dict[int, Token] | None
    add_bos_token: bool | None
    add_eos_token: bool | None
    model_max_length: StrictFloat | None  # what it is compared with is a number
    tokenizer_class: str | None
    chat_template: str | list[dict[str, str]] | dict[str, str] | None


# tokenizer.json is read strictly as it is.
SHAPES: dict[str, Any] = {
    "tokenizer_config.json": Special,
    "special_tokens_map.json": Special,
    "added_tokens.json": dict[str, int],
    "vocab.json": dict[str, int],
}


def require_shapes(folder: Path) -> None:
    """Raises UserError for a tokenizer's JSON file of another shape, which its reader may find out late or never."""
    for name, shape in SHAPES.items():
        if (folder / name).exists():
            read_json(folder / name, shape)


def load_tokenizer(store: Path) -> Any:
    """The Hugging Face tokenizer of a converted store.

    Raises:
        UserError: the checkpoint brought none, or transformers cannot read it.
    """
    logging.getLogger("transformers").addFilter(_wanted)
    from transformers import AutoTokenizer

    from jaxpaint.models.checkpoint import tokenizer_path

    folder = tokenizer_path(store)
    require_shapes(folder)
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **_of_older_meta_store(folder)
        )
    except BaseException as error:  # whatever its readers make of files that are not theirs, Rust's panics included
        if isinstance(error, MemoryError) or (not isinstance(error, Exception) and type(error).__name__ != PANIC):
            raise
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {first_line(error)[:300]}") from error


def _of_older_meta_store(folder: Path) -> dict[str, Any]:
    """What stores converted from Meta's files lacked: their texts begin with BOS. Now they have a settings file."""
    alone = [file.name for file in folder.iterdir() if file.name.startswith("tokenizer")] == ["tokenizer.model"]
    begins = "bos_token_id" in read_json(folder / "config.json", dict[str, Any]) if alone else True
    return {} if begins else {"add_bos_token": True}


def _wanted(record: logging.LogRecord) -> bool:
    """Not the advice to install PyTorch, which nothing here needs."""
    return "PyTorch was not found" not in str(record.msg)
