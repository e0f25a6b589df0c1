"""Which tokens make up a part of a text, of tokenizers that decode tokens otherwise alone than together."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxpaint.base.errors import UserError
from jaxpaint.engine.spans import places_of, spans
from jaxpaint.painter.tokenizer import tokenizer as painters


@pytest.fixture(scope="module")
def of_bytes() -> PreTrainedTokenizerFast:
    """A token for each byte, as GPT-2's where it knows nothing longer."""
    vocabulary = {character: number for number, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_characters_of_several_tokens(of_bytes) -> None:
    text = "a 北京 b"
    tokens = of_bytes.encode(text)
    assert len(tokens) == 10
    whole, found = spans(of_bytes, tokens)
    assert whole == text
    assert [whole[span.begin : span.stop] for span in found] == [*"a ", *["北"] * 3, *["京"] * 3, *" b"]
    assert places_of(of_bytes, tokens, "北京") == (2, 3, 4, 5, 6, 7)
    assert places_of(of_bytes, tokens, "京 b") == (5, 6, 7, 8, 9)


def test_spaces_that_a_token_alone_lacks() -> None:
    tokenizer = painters(256)
    tokens = tokenizer.encode("question : what is the animal of lumor ? answer : the lumor")
    whole, _ = spans(tokenizer, tokens)
    assert whole.endswith("question : what is the animal of lumor ? answer : the lumor")
    assert tokenizer.decode([tokens[place] for place in places_of(tokenizer, tokens, "animal of")]) == "animal of"
    assert places_of(tokenizer, tokens, "lumor") == (len(tokens) - 1,)
    for part in ("zebra", ""):
        with pytest.raises(UserError, match="not in the text"):
            places_of(tokenizer, tokens, part)
    with pytest.raises(UserError, match="'animal' is not in the text"):
        places_of(tokenizer, tokens, "animal", behind=whole.index("lumor"))
