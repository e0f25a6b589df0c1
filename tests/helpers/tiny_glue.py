"""A tiny BERT with a tokenizer, and pairs of texts that it can learn to tell apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convert import convert
from jaxpaint.tasks.glue import Examples
from tests.helpers.bert_models import VOCAB_SIZE, torch_bert

WORDS = [f"w{i}" for i in range(VOCAB_SIZE - 5)]


def tiny_folder(folder: Path) -> Path:
    """A Hugging Face folder."""
    from transformers import BertTokenizerFast

    torch_bert().save_pretrained(folder / "model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder / "model")
    return folder / "model"


def tiny_store(folder: Path) -> Path:
    """A converted store."""
    return convert(tiny_folder(folder), folder / "store")


def pairs(seed: int, size: int) -> Examples:
    """Pairs whose label says which few words they are made of."""
    random = np.random.default_rng(seed)
    texts, labels = [], random.integers(0, 2, size).astype(np.int32)
    for label in labels:
        pair = (random.integers(3, size=random.integers(2, 9)) + 3 * label for _ in range(2))
        texts.append(tuple(" ".join(WORDS[i] for i in words) for words in pair))
    return Examples(tuple(texts), labels)
