"""Which tokens make up a part of a text, of tokenizers that decode tokens otherwise alone than together."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxpaint.base.errors import UserError
from jaxpaint.engine.spans import places_named, places_of, spans
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


class TestNames:
    """What one calls a part of a text, of which there may be several."""

    TEXT = "question : what is the animal of lumor ? answer : the lumor"

    def named(self, name: str, text: str = TEXT) -> tuple[int, ...]:
        tokenizer = painters(256)
        return places_named(tokenizer, tokenizer.encode(text), name)

    def test_one_of_several_wants_a_number(self) -> None:
        first, second = self.named("lumor#1"), self.named("lumor#2")
        assert len(first) == len(second) == 1
        assert first < second
        assert self.named("lumor#all") == first + second
        with pytest.raises(
            UserError, match="'lumor' is 2 times in the text; say which: lumor#1 to lumor#2, or lumor#all"
        ):
            self.named("lumor")
        with pytest.raises(UserError, match="'lumor' is 2 times in the text; there is no lumor#3"):
            self.named("lumor#3")
        with pytest.raises(UserError, match="there is no lumor#0"):
            self.named("lumor#0")

    def test_one_of_one_may_have_a_number(self) -> None:
        assert self.named("animal of") == self.named("animal of#1") == self.named("animal of#all")
        with pytest.raises(UserError, match="'animal' is 1 time in the text"):
            self.named("animal#2")

    def test_what_is_within_a_word_is_not_it(self) -> None:
        """`the` is no part of `other` where it is a word, too, nor of a token that has more."""
        assert len(self.named("the#all")) == 2
        with pytest.raises(UserError, match="'anim' is no whole tokens of the text, only within 'animal'"):
            self.named("anim")
        with pytest.raises(UserError, match="'zebra' is not in the text"):
            self.named("zebra#1")

    def test_whole_words_before_tokens(self, of_bytes) -> None:
        """Of a token for each byte `art` is in `party` as well; where it is no word at all, tokens will do."""
        tokens = of_bytes.encode("party art 北京的")
        assert places_named(of_bytes, tokens, "art") == (6, 7, 8)
        assert places_named(of_bytes, tokens, "arty") == (1, 2, 3, 4)
        assert places_named(of_bytes, tokens, "北京") == tuple(range(10, 16))
        assert places_of(of_bytes, tokens, "art") == (6, 7, 8)

    def test_a_number_sign_of_the_text_itself(self, of_bytes) -> None:
        tokens = of_bytes.encode("a b#1 b")
        assert places_named(of_bytes, tokens, "b#1") == (2, 3, 4)
        assert places_named(of_bytes, tokens, "b#2") == (6,)
