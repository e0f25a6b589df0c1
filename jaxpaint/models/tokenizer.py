"""The checkpoint's own tokenizer, loaded without executing anything the checkpoint contains."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jaxpaint.base.documents import read_json
from jaxpaint.base.errors import UserError, first_line


def load_tokenizer(store: Path) -> Any:
    """The Hugging Face tokenizer of a converted store.

    Raises:
        UserError: the checkpoint brought none, or transformers cannot read it.
    """
    logging.getLogger("transformers").addFilter(_wanted)
    from transformers import AutoTokenizer

    from jaxpaint.models.checkpoint import tokenizer_path

    folder = tokenizer_path(store)
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, **_of_older_meta_store(folder)
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = first_line(error)
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error


def _of_older_meta_store(folder: Path) -> dict[str, Any]:
    """What stores converted from Meta's files lacked: their texts begin with BOS. Now they have a settings file."""
    alone = [file.name for file in folder.iterdir() if file.name.startswith("tokenizer")] == ["tokenizer.model"]
    begins = "bos_token_id" in read_json(folder / "config.json", dict[str, Any]) if alone else True
    return {} if begins else {"add_bos_token": True}


def _wanted(record: logging.LogRecord) -> bool:
    """Not the advice to install PyTorch, which nothing here needs."""
    return "PyTorch was not found" not in str(record.msg)
