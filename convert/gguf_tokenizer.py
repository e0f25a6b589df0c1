"""The tokenizer of a GGUF file as ordinary Hugging Face files, made of its keys by transformers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.models.tokenizer import PANIC

# llama.cpp's names of ways to split a text before merges that are GPT-2's, or do not split at all.
AS_GPT2 = {None, "default", "gpt-2", "phi-2", "mpt", "olmo", "jais", "roberta-bpe"}


def gguf_tokenizer(path: Path, kind: str | None) -> Mapping[str, str]:
    """The tokenizer's files by name; none where the file says no `kind`, its tokenizer.ggml.model.

    Raises:
        UserError: transformers cannot make it.
    """
    if kind in (None, "none", "no_vocab"):
        return {}
    from transformers import PreTrainedTokenizerFast

    with tempfile.TemporaryDirectory() as folder:
        # By itself: what lies beside the file is not the model's.
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        try:
            # Not by AutoTokenizer, which reads the whole file for its config, and knows fewer architectures.
            made = PreTrainedTokenizerFast.from_pretrained(folder, gguf_file="model.gguf", local_files_only=True)
        except BaseException as error:  # whatever its readers make of such a file, Rust's panics included
            if isinstance(error, MemoryError) or (not isinstance(error, Exception) and type(error).__name__ != PANIC):
                raise
            raise UserError(
                f"the tokenizer in {path}, of the kind {kind[:40]!r}, cannot be read: {first_line(error)[:300]}"
            ) from error
        written = Path(folder) / "written"
        made.save_pretrained(written)
        return {file.name: file.read_text(encoding="utf-8") for file in sorted(written.iterdir())}


def splits_as_gpt2(split: str | None, texts: Mapping[str, str]) -> bool:
    """Whether transformers did not know the file's tokenizer.ggml.pre, and so splits texts as GPT-2 does."""
    if split in AS_GPT2 or "tokenizer.json" not in texts:
        return False
    made = json.loads(texts["tokenizer.json"])["pre_tokenizer"] or {}
    return made.get("type") == "ByteLevel" and made.get("use_regex", True)
