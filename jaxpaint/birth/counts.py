"""How often each character of Tiny Shakespeare occurs, and which one follows: all that is kept of the text.

    python -m jaxpaint.birth.counts tinyshakespeare.txt > jaxpaint/birth/tiny_shakespeare.json

The text (1,115,394 characters, 65 different ones) is in the public domain:
github.com/karpathy/char-rnn, data/tinyshakespeare/input.txt.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

FILE = Path(__file__).parent / "tiny_shakespeare.json"


@dataclass(frozen=True)
class Counts:
    """`unigrams[i]` says how often the token `tokens[i]` occurs, `bigrams[i][j]` how often token j follows it."""

    tokens: str
    unigrams: tuple[int, ...]
    bigrams: tuple[tuple[int, ...], ...]


def count(text: str) -> Counts:
    """The characters of a text, in the order of their code points."""
    tokens, following = "".join(sorted(set(text))), Counter(pairwise(text))
    one = Counter(text)
    rows = (tuple(following[first, second] for second in tokens) for first in tokens)
    return Counts(tokens, tuple(one[token] for token in tokens), tuple(rows))


def shipped() -> Counts:
    """Tiny Shakespeare's."""
    told = json.loads(FILE.read_text())
    return Counts(told["tokens"], tuple(told["unigrams"]), tuple(map(tuple, told["bigrams"])))


def as_json(counts: Counts) -> str:
    """A line for each token's successors."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in counts.bigrams)
    head = f'"tokens": {json.dumps(counts.tokens)},\n"unigrams": {json.dumps(counts.unigrams)}'
    return f'{{{head},\n"bigrams": [\n{rows}\n]}}'


if __name__ == "__main__":
    print(as_json(count(Path(sys.argv[1]).read_text())))
