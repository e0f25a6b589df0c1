"""Meta's own tokenizers as ordinary Hugging Face files: SentencePiece (Llama 1 and 2), tiktoken's ranks (Llama 3).

What is written is what transformers' `convert_llama_weights_to_hf.py` writes: equal tokens, BOS and ends.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxpaint.base.documents import read_bytes
from jaxpaint.base.errors import UserError

_RANK = re.compile(rb"([A-Za-z0-9+/]+={0,2}) ([0-9]+)")
SPECIAL_TOKENS = 256  # after the ranks
# The numbers of special tokens that end a text: its end, of a turn, and (3.1 on) of a message to a tool.
END_OF_TEXT, END_OF_MESSAGE, END_OF_TURN = 1, 8, 9


@dataclass(frozen=True)
class MetaTokenizer:
    """The files to write, by name, and what config.json says of the tokens that begin and end a text.

    `kept` says that `tokenizer.model` stays beside them.
    """

    written: Mapping[str, str]
    token_ids: Mapping[str, Any]
    kept: bool


def read_meta_tokenizer(file: Path, folder: Path, config: Mapping[str, Any]) -> MetaTokenizer:
    """The tokenizer in a `tokenizer.model`, of the model in `folder` with this (Hugging Face style) config.

    One that is neither SentencePiece's nor tiktoken's is kept as it is: a store needs none.

    Raises:
        UserError: tiktoken ranks that are damaged.
    """
    content = read_bytes(file)
    if _RANK.fullmatch(content[:1000].partition(b"\n")[0].rstrip()):
        return _of_ranks(_ranks(content, file), folder, config)
    return _of_sentencepiece(file)


def _of_sentencepiece(file: Path) -> MetaTokenizer:
    from sentencepiece import SentencePieceProcessor

    try:
        model = SentencePieceProcessor(model_file=str(file))
    except (OSError, RuntimeError):
        return MetaTokenizer({}, {}, kept=True)
    ids = {name: getattr(model, f"{name}_id")() for name in ("bos", "eos", "unk")}
    tokens = {f"{name}_token": model.id_to_piece(number) for name, number in ids.items() if number >= 0}
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": ids["bos"] >= 0,
        "add_eos_token": False,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    return MetaTokenizer(
        {"tokenizer_config.json": json.dumps(settings, indent=2)},
        {f"{name}_token_id": ids[name] for name in ("bos", "eos") if ids[name] >= 0},
        kept=True,
    )


def _of_ranks(ranks: Mapping[bytes, int], folder: Path, config: Mapping[str, Any]) -> MetaTokenizer:
    scaled_rope = "rope_scaling" in config
    names = special_tokens(scaled_rope)
    # All of them, whatever the model, as Meta's own code has it; a base model writes the first alone.
    ends = [END_OF_TEXT, *([END_OF_MESSAGE] if scaled_rope else []), END_OF_TURN]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[0],
        "eos_token": names[END_OF_TURN if _is_instruct(folder) else END_OF_TEXT],
        "clean_up_tokenization_spaces": True,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": config["max_position_embeddings"],
    }
    return MetaTokenizer(
        {"tokenizer.json": _tokenizer(ranks, names), "tokenizer_config.json": json.dumps(settings, indent=2)},
        {"bos_token_id": len(ranks), "eos_token_id": [len(ranks) + number for number in ends]},
        kept=False,
    )


def special_tokens(scaled_rope: bool) -> list[str]:
    """Llama 3's in the order of their ids, with a `scaled_rope` those of 3.1 and later."""
    names = ["<|begin_of_text|>", "<|end_of_text|>", "", "", "", "", "<|start_header_id|>", "<|end_header_id|>", ""]
    names += ["<|eot_id|>", ""]
    if scaled_rope:
        names[4], names[8], names[10] = "<|finetune_right_pad_id|>", "<|eom_id|>", "<|python_tag|>"
    names += [""] * (SPECIAL_TOKENS - len(names))
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(SPECIAL_TOKENS))
    return [name or next(reserved) for name in names]


def _is_instruct(folder: Path) -> bool:
    """By the name of the release: nothing in it says so. The hub keeps Meta's files in a folder `original`."""
    names = (part for part in reversed(folder.parts) if not re.fullmatch(r"original|snapshots|[0-9a-f]{40}", part))
    return re.search("instruct|guard", next(names, ""), re.IGNORECASE) is not None


def _tokenizer(ranks: Mapping[bytes, int], names: list[str]) -> str:
    """tokenizer.json, by the steps of transformers' converter."""
    from tokenizers import AddedToken, processors
    from transformers.convert_slow_tokenizer import TikTokenConverter

    class Converter(TikTokenConverter):
        """Reads ranks that are at hand, where transformers' needs tiktoken to read them."""

        @staticmethod
        def load_tiktoken_bpe(_: Any) -> Any:
            return dict(ranks)

    made = Converter(vocab_file="").converted()
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    begin = names[0]
    template = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin}:0 $A:0 {begin}:1 $B:1", special_tokens=[(begin, len(ranks))]
    )
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return made.to_str()


def _ranks(content: bytes, file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(content.splitlines(), 1):
        found = _RANK.fullmatch(line.rstrip())
        if found is None:
            if not line.strip():
                continue
            raise UserError(f"{file}, line {number}: {line[:40]!r} is not a token and its rank; download it again")
        try:
            ranks[base64.b64decode(found[1], validate=True)] = int(found[2])
        except (binascii.Error, ValueError) as error:
            raise UserError(f"{file}, line {number}: {line[:40]!r} is not base64; download it again") from error
    lacking = 256 - sum(bytes([byte]) in ranks for byte in range(256))
    if lacking or sorted(ranks.values()) != list(range(len(ranks))):
        what = f"{lacking} of the 256 single bytes" if lacking else f"some of the ranks 0 to {len(ranks) - 1}"
        raise UserError(f"{file} is damaged: it lacks {what}; download it again")
    return ranks
