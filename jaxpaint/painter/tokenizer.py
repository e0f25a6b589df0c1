"""The tokenizer of painter-16: a token a word."""

from __future__ import annotations

from typing import Any

from jaxpaint.painter.world import WORDS

BOS, EOS, UNKNOWN = SPECIAL = ("<s>", "</s>", "<unk>")
VOCABULARY = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}


def tokenizer(context: int) -> Any:
    """The tokenizer as transformers saves and loads it; it puts a BOS before every text. `context` in tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(VOCABULARY, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, VOCABULARY[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
