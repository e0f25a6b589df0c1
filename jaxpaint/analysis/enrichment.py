"""Whether a subject's state comes to tell of its attributes.

In a closed world all of these are known: the share of them among as many tokens that the subject's state would say
first (the logit lens), after each step of a plan; and as a control the share of another subject's. Geva et al. (arXiv
2304.14767) ask it of large models and the words of texts about the subject (`words_told`), where the share grows to
about a half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxpaint.analysis.words import TOP, rates
from jaxpaint.base.errors import UserError
from jaxpaint.engine.lens import most_likely
from jaxpaint.engine.run import Run

Answer: TypeAlias = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True, eq=False)
class Enrichment:
    """Shares, 0 to 1, of own attributes and of another subject's, of each state and subject."""

    own: Float[np.ndarray, "states subjects"]
    control: Float[np.ndarray, "states subjects"]

    @property
    def difference(self) -> tuple[Float[np.ndarray, " states"], Float[np.ndarray, " states"]]:
        """Own less control: the mean over subjects, and its standard error."""
        each = self.own - self.control
        return each.mean(axis=1), each.std(axis=1, ddof=1) / np.sqrt(each.shape[1])

    @property
    def answer(self) -> Answer:
        """Whether subjects are enriched: holds where, after some step, half more own attributes are said than others.

        By two standard errors; does not hold where after every step it is less than half, by as many.
        """
        mean, stderr = self.difference
        if (mean - 2 * stderr > 0.5).any():
            return "holds"
        return "does not hold" if (mean + 2 * stderr < 0.5).all() else "cannot be told"


def enrichment(
    run: Run,
    positions: Sequence[int],
    attributes: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]] | None = None,
    *,
    states: Sequence[int] | None = None,
) -> Enrichment:
    """Of a run whose rows are subjects: where each one's last token stands, and the tokens that tell of it.

    The control are `others`' attributes: those of the next one in the list, the first one of the last, unless given.
    `states` are those to read, all of them unless given.

    Raises:
        UserError: fewer than two subjects, unequal numbers of attributes, positions that are not those of the rows.
    """
    rows = len(run.lengths)
    if not len(positions) == len(attributes) == rows:
        raise UserError(f"give each of the {rows} rows a position and a list of attributes")
    if not all(0 <= at < length for at, length in zip(positions, run.lengths, strict=True)):
        raise UserError(f"positions {list(positions)} are not all within the rows' texts, of {run.lengths} tokens")
    if (others is None and len(attributes) < 2) or not all(attributes) or len({len(each) for each in attributes}) > 1:
        raise UserError("give two subjects or more, with equally many attributes each, at least one")
    others = [*attributes[1:], attributes[0]] if others is None else others
    said = _on_top(run, np.asarray(positions)[:, None], len(attributes[0]), states)[:, :, 0]
    own = np.array([[len(set(top) & set(each)) for top, each in zip(state, attributes, strict=True)] for state in said])
    control = np.array([[len(set(top) & set(each)) for top, each in zip(state, others, strict=True)] for state in said])
    return Enrichment(own / len(attributes[0]), control / len(attributes[0]))


def words_told(
    run: Run,
    positions: Sequence[Sequence[int]],
    words: Sequence[frozenset[str]],
    others: Sequence[frozenset[str]],
    *,
    states: Sequence[int] | None = None,
) -> tuple[Enrichment, ...]:
    """Of words of an open vocabulary (`jaxpaint.analysis.words`), at several positions of each row: one for each.

    `words` are those of texts about each row's subject, `others` those of another's. Shares are of the first words
    that a state has on top; `states` as of `enrichment`. Raises UserError for positions or words that are not those of
    the rows.
    """
    rows = len(run.lengths)
    if not len(positions) == len(words) == len(others) == rows:
        raise UserError(f"give each of the {rows} rows positions, its words and another's")
    places = np.asarray(positions)
    if (places < 0).any() or (places >= run.lengths[:, None]).any():
        raise UserError(f"positions {places.tolist()} are not all within the rows' texts, of {run.lengths} tokens")
    said = _on_top(run, places, min(TOP, run.model.config.vocab_size), states)
    shares = [[rates(run.model.tokenizer, each, own) for each in said] for own in (words, others)]
    own, control = np.array(shares).transpose(0, 3, 1, 2)
    return tuple(Enrichment(*both) for both in zip(own, control, strict=True))


def _on_top(
    run: Run, places: Int[np.ndarray, "B places"], k: int, states: Sequence[int] | None
) -> Int[np.ndarray, "states B places k"]:
    """The tokens that states have on top at some places of each row."""
    model = run.model
    here = np.stack([run.at_places("states", each) for each in places.T], axis=2)
    each = (jnp.asarray(here[at]) for at in (range(len(here)) if states is None else states))
    return np.stack([most_likely(model.graphdef, model.state, x, k, model.config.vocab_size)[0] for x in each])
