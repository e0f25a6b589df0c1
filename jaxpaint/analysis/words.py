"""Which words tell of a subject: those of texts about it, and those that a state has on top.

As the notebook of Geva et al. (arXiv 2304.14767) has it: of the 500 tokens that the logit lens has on top the first 50
that are words, neither function words nor shorter than three characters. The list of function words is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

TOP, KEPT, SHORTEST = 500, 50, 3
_FUNCTION_WORDS = """
about above across after afterwards again against all almost alone along already also although always among and
another any anyone anything anywhere are around because been before behind being below beside besides between both
but can cannot could did does doing done down during each either else elsewhere enough etc even ever every everyone
everything everywhere few first for former from further had has have having hence her here hers herself him himself
his how however into its itself just last latter least less like made make many may maybe meanwhile might mine more
moreover most mostly much must myself namely neither never nevertheless next nobody none nor not nothing now nowhere
off often once one only onto other others otherwise our ours ourselves out over own per perhaps quite rather really
same second several shall she should since some somehow someone something sometimes somewhere still such than that
the their theirs them themselves then thence there thereby therefore these they this those though through throughout
thus together too toward towards two under unless until upon use used using various very via was well were what
whatever when whenever where whereas wherever whether which whichever while who whoever whole whom whose why will
with within without would yes yet you your yours yourself yourselves
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


def tells(word: str) -> bool:
    """Whether a word may say something of a subject."""
    return len(word) >= SHORTEST and word not in FUNCTION_WORDS


def words_of(text: str) -> frozenset[str]:
    """A text's words that tell something, in small letters."""
    return frozenset(word for word in re.findall(r"\w+", text.lower()) if tells(word))


def rates(tokenizer: Any, top: Int[np.ndarray, "... k"], words: Sequence[frozenset[str]]) -> np.ndarray:
    """Of tokens in the order of their likelihood, for each of the first axis' rows the share that is among its words.

    Of each word once, and out of `KEPT`, even where fewer tokens are words. A token
    that begins a longer word counts as it stands.
    """
    own = {int(token): tokenizer.decode([int(token)]).strip().lower() for token in np.unique(top)}

    def share(tokens: Iterable[int], among: frozenset[str]) -> float:
        said = dict.fromkeys(own[token] for token in tokens if tells(own[token]))
        return len(among.intersection([*said][:KEPT])) / KEPT

    flat = top.reshape(len(top), -1, top.shape[-1])
    found = [[share(each, among) for each in row.tolist()] for row, among in zip(flat, words, strict=True)]
    return np.array(found).reshape(top.shape[:-1])
