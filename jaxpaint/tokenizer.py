"""The checkpoint's own tokenizer, loaded without executing anything the checkpoint contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxpaint.errors import UserError


def load_tokenizer(store: Path) -> Any:
    """The Hugging Face tokenizer of a converted store.

    Raises:
        UserError: the checkpoint brought none, or transformers cannot read it.
    """
    from transformers import AutoTokenizer

    from jaxpaint.checkpoint import tokenizer_path

    folder = tokenizer_path(store)
    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"the tokenizer in {folder} cannot be loaded: {reason}") from error
