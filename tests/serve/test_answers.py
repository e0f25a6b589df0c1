"""How tokens are named in answers, where the tokenizer's decoder says less than its vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxpaint.engine.token_scores import TokenScores
from jaxpaint.serve.answers import logprobs

VOCABULARY = ["<unk>", "▁the", "▁cat", "s", "the", "▁"]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """As Llama's: the decoder takes the space off a text's first word."""
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(VOCABULARY)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def scores(logprobs: list[float], best: list[list[int]]) -> TokenScores:
    values = np.tile(np.array([-0.5, -1.5]), (len(best), 1))
    return TokenScores(np.array(logprobs), np.zeros(len(logprobs), bool), np.array(best), values)


def test_words_have_their_spaces(tokenizer) -> None:
    assert tokenizer.decode([2]) == "cat"
    found = logprobs(tokenizer, [1, 2, 3], scores([-2.0, -2.5], [[4, 0], [2, 4], [1, 4]]), 2)
    assert found["tokens"] == [" the", " cat", "s"]
    assert found["text_offset"] == [0, 4, 8]
    assert found["top_logprobs"][1] == {" cat": -2.0, "the": -0.5, "<unk>": -1.5}


def test_a_token_of_the_same_text_is_told_as_the_vocabulary_spells_it() -> None:
    """A client that looks for the largest number must not take the text's own token to be the most likely."""
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "b</w>": 2, "b": 3}, "<unk>"))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert fast.decode([2]) == fast.decode([3]) == "b"
    found = logprobs(fast, [1, 3], scores([-2.0], [[2, 1], [1, 2]]), 2)
    assert found["top_logprobs"][1] == {"b": -2.0, "b</w>": -0.5, "a": -1.5}


def test_a_model_may_have_more_tokens_than_its_tokenizer(tokenizer) -> None:
    found = logprobs(tokenizer, [1, 99], scores([-2.0], [[98, 1], [1, 2]]), 2)
    assert found["tokens"] == [" the", ""]
    assert found["top_logprobs"][1] == {"": -2.0, "<98>": -0.5, " the": -1.5}
