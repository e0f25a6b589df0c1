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
from jaxpaint.plans.events import branches, events

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
    if (others is None and len(attributes) < 2) or not all(attributes) or len({len(each) for each in attributes}) > 1:
        raise UserError("give two subjects or more, with equally many attributes each, at least one")
    others = [*attributes[1:], attributes[0]] if others is None else others
    (found,) = attributes_said(run, states_at(run, [[at] for at in positions], states), attributes, others)
    return found


def attributes_said(
    run: Run,
    here: Float[np.ndarray, "of B places D"],
    attributes: Sequence[Sequence[int]],
    others: Sequence[Sequence[int]],
) -> tuple[Enrichment, ...]:
    """`enrichment` of states at some places of each row, as `states_at` and `branch_ends` give them: one for each."""
    said = _on_top(run, here, len(attributes[0]))
    own, control = (
        (said[..., None] == np.array(tokens)[:, None, None]).any(axis=-1).mean(axis=-1)
        for tokens in (attributes, others)
    )
    return tuple(Enrichment(own[:, :, at], control[:, :, at]) for at in range(here.shape[2]))


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
    return words_said(run, states_at(run, positions, states), words, others)


def words_said(
    run: Run,
    here: Float[np.ndarray, "of B places D"],
    words: Sequence[frozenset[str]],
    others: Sequence[frozenset[str]],
) -> tuple[Enrichment, ...]:
    """`words_told` of states at some places of each row, as `attributes_said` takes them."""
    said = _on_top(run, here, min(TOP, run.model.config.vocab_size))
    shares = [[rates(run.model.tokenizer, each, own) for each in said] for own in (words, others)]
    own, control = np.array(shares).transpose(0, 3, 1, 2)
    return tuple(Enrichment(*both) for both in zip(own, control, strict=True))


def states_at(
    run: Run, positions: Sequence[Sequence[int]], states: Sequence[int] | None = None
) -> Float[np.ndarray, "states B places D"]:
    """A run's states, all of them unless some are given, at some places of each row.

    Raises UserError for positions that are not within the rows' texts.
    """
    places = np.asarray(positions)
    if (places < 0).any() or (places >= run.lengths[:, None]).any():
        raise UserError(f"positions {places.tolist()} are not all within the rows' texts, of {run.lengths} tokens")
    here = np.stack([run.at_places("states", each) for each in places.T], axis=2)
    return here if states is None else here[list(states)]


def branch_ends(run: Run, positions: Sequence[Sequence[int]]) -> Float[np.ndarray, "branches B places D"]:
    """The state at the end of each branch of the plan's outermost groups, at some places of each row.

    The state before the group with all that the branch's events write, each by its weight within the branch.
    """
    places, own = np.asarray(positions), branches(run.plan)
    if not own:
        return np.zeros((0, *places.shape, run.model.config.hidden_size), np.float32)
    run.keep("states", "attention_out", "mlp_out")
    found = []
    for at in places.T:
        states, attention, mlp = (run.at_places(name, at) for name in ("states", "attention_out", "mlp_out"))
        whole = attention + mlp
        for branch in own:
            weights = np.array([event.weight for event in events(branch.plan)], np.float32)
            added = np.einsum("e,ebd->bd", weights, whole[branch.first : branch.stop])
            found.append(states[branch.step - 1] + added)
    return np.reshape(found, (len(places.T), len(own), *found[0].shape)).transpose(1, 2, 0, 3)


def _on_top(run: Run, here: Float[np.ndarray, "of B places D"], k: int) -> Int[np.ndarray, "of B places k"]:
    """The tokens that states have on top."""
    model = run.model
    own = model.graphdef, model.state
    return np.stack([most_likely(*own, jnp.asarray(x), k, model.config.vocab_size)[0] for x in here])
