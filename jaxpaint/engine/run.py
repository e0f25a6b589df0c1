"""One run of a plan, looked into: states, attention, what sublayers gave, what the model would say at each step."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.errors import UserError
from jaxpaint.base.memory import require_memory
from jaxpaint.base.words import require_characters
from jaxpaint.engine import lens as lenses
from jaxpaint.engine.attribution import Attribution, along, by_head_and_source, directions
from jaxpaint.engine.interventions import Intervention, Knockout, checked
from jaxpaint.engine.lens import Lens
from jaxpaint.engine.observe import observe
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.spans import places_named, spans
from jaxpaint.models.family import require_lm_head
from jaxpaint.models.observed import Found
from jaxpaint.plans.events import Event, Step, steps
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    import pandas as pd

    from jaxpaint.engine.model import Model

Kept: TypeAlias = Literal["states", "reads", "attention", "values", "attention_out", "mlp_out"]
KEPT: tuple[Kept, ...] = ("states", "reads", "attention", "values", "attention_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Run:
    """A text or several under one plan, with interventions. What is asked for is computed when it is, and kept.

    Arrays have rows B and positions S up to the longest text's; what lies beyond a row's length means nothing. Events
    E are the plan's applications of layers (`jaxpaint.plans.events.Event`), states one more than its `steps`.
    """

    model: Model
    plan: Plan
    inputs: Inputs
    steps: tuple[Step, ...]
    interventions: tuple[Intervention, ...] = ()
    _kept: dict[str, Array] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        rows, positions = self.inputs.tokens.shape[:2]
        changed = f", {len(self.interventions)} interventions" if self.interventions else ""
        return f"Run(plan={str(self.plan)!r}, {len(self.steps)} steps, tokens {rows} x {positions}{changed})"

    @cached_property
    def events(self) -> tuple[Event, ...]:
        """The layers' applications, in the order of the arrays' first axis."""
        return tuple(event for step in self.steps for event in step.events)

    @property
    def lengths(self) -> Int[np.ndarray, " B"]:
        """Tokens of each row's text."""
        return self.inputs.lengths

    def texts(self, row: int = 0) -> tuple[str, ...]:
        """A row's tokens as the parts of its text that they make up, spaces included; "" within a character."""
        whole, own = spans(self.model.tokenizer, self._tokens(row))
        begun = [-1, *(span.begin for span in own[:-1])]
        pairs = zip(begun, own, strict=True)
        return tuple(whole[span.begin : span.stop] if span.begin > before else "" for before, span in pairs)

    def positions(self, part: str, row: int = 0) -> tuple[int, ...]:
        """Where the row's tokens stand that make up `part`, words of the text; of several `word#2`, or `word#all`.

        Raises UserError for a part that is not in the text or no whole tokens of it, and for one that is there several
        times without a number.
        """
        return places_named(self.model.tokenizer, self._tokens(row), part)

    def state(self, step: int, position: int = -1) -> Float[Array, "B 1 D"]:
        """The state after a step, 0 the embeddings, at one position of each row; below 0 from its text's own end."""
        if not 0 <= step <= len(self.steps):
            raise UserError(f"step {step} is not among the plan's: 0 (the embeddings) to {len(self.steps)}")
        return self.states[step][np.arange(len(self.lengths)), self._places(position)][:, None]

    @property
    def states(self) -> Float[Array, "states B S D"]:
        """The embeddings, then the hidden state after each step, before the final norm."""
        return self._take("states")

    @property
    def reads(self) -> Float[Array, "E B S D"]:
        """The state that each event read."""
        return self._take("reads")

    @property
    def attention(self) -> Float[Array, "E B N S S"]:
        """Attention's weights in float32: of each query, those of its keys add up to 1, or to 0 if all are blocked."""
        return self._take("attention")

    @property
    def values(self) -> Float[Array, "E B S K H"]:
        """What attention's heads sum up of each token, by key/value head: queries' heads share them in groups."""
        return self._take("values")

    @property
    def attention_out(self) -> Float[Array, "E B S D"]:
        """What attention added to the state; of an encoder, before the norm that follows."""
        return self._take("attention_out")

    @property
    def mlp_out(self) -> Float[Array, "E B S D"]:
        """What the feed-forward added to the state; of an encoder, before the norm that follows."""
        return self._take("mlp_out")

    @property
    def logits(self) -> Float[Array, "B S V"]:
        """As `jaxpaint.Model.logits`, in float32."""
        return self.model.logits_of(self._take("last"))

    @property
    def last_logits(self) -> Float[Array, "B V"]:
        """Of the token after each row's text, in float32."""
        return self.model.logits_of(self._take("last")[np.arange(len(self.lengths)), self._places(-1)][:, None])[:, 0]

    def logit_lens(self, k: int = 5, position: int | None = None) -> Lens:
        """The `k` most likely tokens by each state, were it the last one; at one position of each row, or at all."""
        if not 1 <= _whole("k", k) <= self.model.config.vocab_size:
            raise UserError(f"k is {k}; give 1 to {self.model.config.vocab_size}, the vocabulary")
        own = self.model.graphdef, self.model.state
        found = [lenses.most_likely(*own, x, k, self.model.config.vocab_size) for x in self._said_by(position)]
        return Lens(*map(np.stack, zip(*found, strict=True)))

    def logprobs(self, token: int | str, position: int | None = None) -> Float[np.ndarray, "states B S"]:
        """The log-probability in nats of one token by each state; at one position of each row, or at all."""
        own, vocabulary = (self.model.graphdef, self.model.state), self.model.config.vocab_size
        each = self._said_by(position)
        return np.stack([lenses.logprobs_of(*own, x, self._token(token), vocabulary) for x in each])

    def attribution(self, token: int | str | None = None, position: int = -1) -> Attribution:
        """The logit of `token` at `position` as the sum of what each event wrote (`jaxpaint.engine.attribution`).

        Without a token that which is most likely there, row by row.

        Raises:
            UserError: an encoder, or interventions on states, which are parts of no event.
        """
        direction, bias, logit, tokens, places = self._explained(token, position)
        direction, bias, logit = jax.device_get((direction, bias, logit))
        self.keep("states", "attention_out", "mlp_out")
        weights = np.array([event.weight for event in self.events], np.float32)[:, None]
        attention = weights * along(direction, self.at_places("attention_out", places))
        mlp = weights * along(direction, self.at_places("mlp_out", places))
        embedding = along(direction, self.at_places("states", places)[:1])[0]
        return Attribution(tokens, places, embedding, attention, mlp, bias, logit)

    def attribution_by_head(
        self, token: int | str | None = None, position: int = -1
    ) -> tuple[Float[np.ndarray, "E B N S"], Float[np.ndarray, "E B"]]:
        """`(parts, bias)`: attention's parts of `attribution` by head and source token, and its output's bias' part.

        Raises:
            UserError: as `attribution`, and for scaled or replaced attention, whose heads are not known any more.
        """
        if any(not isinstance(each, Knockout) and each.what == "attention" for each in self.interventions):
            raise UserError(
                "attention was scaled or replaced, so it is no longer the sum of its heads; see attribution"
            )
        traits: Any = getattr(self.model.config, "traits", None)
        if traits and traits.norms[1]:
            raise UserError(f"a {self.model.config.model_type} norms attention's output, which mixes its heads")
        direction, _, _, _, places = self._explained(token, position)
        self.keep("attention", "values")
        rows, attention, values = np.arange(len(places)), self._here("attention"), self._here("values")
        found = [
            by_head_and_source(
                self.model.graphdef,
                self.model.state,
                event.layer,
                direction * event.weight,
                attention[event.number, rows, :, places],
                values[event.number],
            )
            for event in self.events
        ]
        parts, bias = zip(*jax.device_get(found), strict=True)
        return np.stack(parts), np.stack(bias)

    def frame(self) -> pd.DataFrame:
        """A row for each row, state and position: what it would say, how surely, and how long it is."""
        import pandas as pd

        found = self.logit_lens(1)
        norms = np.asarray(jnp.linalg.norm(self.states.astype(jnp.float32), axis=-1))
        labels = ["embeddings", *(step.label for step in self.steps)]
        decode = self.model.tokenizer.decode if self.model.store is not None else None
        rows = []
        for row, length in enumerate(self.lengths):
            tokens = self._tokens(row)
            for number, label in enumerate(labels):
                for position in range(length):
                    likely = int(found.tokens[number, row, position, 0])
                    read = int(tokens[position])
                    rows.append(
                        {
                            "row": row,
                            "step": number,
                            "label": label,
                            "position": position,
                            "token": read,
                            "text": decode([read]) if decode else None,
                            "lens_token": likely,
                            "lens_text": decode([likely]) if decode else None,
                            "lens_logprob": float(found.logprobs[number, row, position, 0]),
                            "norm": float(norms[number, row, position]),
                        }
                    )
        return pd.DataFrame(rows)

    to_frame = frame

    def at_places(self, name: Kept, places: Int[np.ndarray, " B"]) -> Shaped[np.ndarray, "of B D"]:
        """What was kept, at one position of each row."""
        return np.asarray(self._here(name)[:, np.arange(len(places)), places])

    def keep(self, *names: Kept) -> Run:
        """Computes, in one pass, what of `names` is not there yet. Returns the run.

        Raises UserError for other names, and where the memory of a CPU's host does not hold it.
        """
        for name in names:
            if name not in KEPT:
                raise UserError(f"{name!r} is nothing that a run keeps; give one of {', '.join(KEPT)}")
        self._observe({name for name in names if name not in self._kept})
        return self

    def _take(self, name: str) -> Array:
        if name not in self._kept:
            self._observe({name})
        return self._kept[name]

    def _here(self, name: str) -> Any:
        """What was kept, where it lies; on a CPU as NumPy's, which compiles nothing for each number of events."""
        return np.asarray(self._take(name)) if on_cpu() else self._take(name)

    def _observe(self, names: Collection[str]) -> None:
        if not names:
            return
        asked: frozenset[Found] = frozenset(names) - {"states", "last"}  # type: ignore[assignment]
        if on_cpu():
            what = f"{', '.join(sorted(names))} of {len(self.events)} events"
            require_memory(self._bytes(names), what, "ask for less, or for fewer texts at once")
        states: list[Array] = []
        found: dict[str, list[Array]] = {name: [] for name in asked}
        last = None
        for last, own in observe(self.model, self.inputs, self.steps, self.interventions, asked):
            if "states" in names:
                states.append(last)
            for name, each in own.items():
                found[name].append(each)
        assert last is not None
        self._kept["last"] = last
        if "states" in names:
            self._kept["states"] = _joined([state[None] for state in states])
        self._kept.update({name: _joined(each) for name, each in found.items()})

    def _bytes(self, names: Collection[str]) -> int:
        rows, positions = self.inputs.tokens.shape[:2]
        config, size = self.model.config, self.model.dtype.itemsize
        state = rows * positions * config.hidden_size * size
        each: Mapping[str, int] = {
            "attention": rows * config.num_attention_heads * positions**2 * 4 * len(self.events),
            "states": state * (1 + len(self.steps)),
            "last": state,
        }
        return 2 * sum(each.get(name, state * len(self.events)) for name in names)

    def _said_by(self, position: int | None) -> list[Any]:
        self.model.require_logits()
        if position is None:
            return list(self._here("states"))
        return list(self.at_places("states", self._places(position))[:, :, None])

    def _explained(self, token: int | str | None, position: int) -> tuple[Any, Any, Any, Any, Any]:
        require_lm_head(self.model.config, "attribution")
        if any(not isinstance(each, Knockout) and each.what == "state" for each in self.interventions):
            raise UserError("a state was changed between steps, which is no event's part: the parts would not add up")
        places = self._places(position)
        last = self._take("last")[np.arange(len(places)), places]
        if token is None:
            tokens = np.asarray(self.model.logits_of(last[:, None])[:, 0].argmax(axis=-1))
        else:
            tokens = np.full(len(places), self._token(token))
        return *directions(self.model.graphdef, self.model.state, last, jnp.asarray(tokens)), tokens, places

    def _places(self, position: int) -> Int[np.ndarray, " B"]:
        lengths = self.lengths
        found = np.where(_whole("position", position) < 0, lengths + position, position)
        if (found < 0).any() or (found >= lengths).any():
            raise UserError(f"position {position} is not in a text of {lengths.min()} tokens")
        return found

    def _tokens(self, row: int) -> list[int]:
        if not -len(self.lengths) <= row < len(self.lengths):
            raise UserError(f"row {row} is not among the run's {len(self.lengths)}, from 0")
        return self.inputs.tokens[row, : self.lengths[row]].tolist()

    def _token(self, token: int | str) -> int:
        if isinstance(token, str):
            require_characters(token, "the token")
            tokens = self.model.tokenizer.encode(token, add_special_tokens=False)
            if len(tokens) != 1:
                raise UserError(
                    f"{token!r} is {len(tokens)} tokens; give one, such as ' Paris' with its space, or an id"
                )
            return int(tokens[0])
        if not 0 <= _whole("token", token) < self.model.config.vocab_size:
            raise UserError(f"token {token} is not in the vocabulary of {self.model.config.vocab_size}")
        return int(token)


def _joined(arrays: Sequence[Array]) -> Array:
    """Along the first axis; on a CPU without a program for each number of them."""
    return jnp.asarray(np.concatenate([np.asarray(each) for each in arrays])) if on_cpu() else jnp.concatenate(arrays)


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}; give one whole number") from None


def run_of(
    model: Model, inputs: Inputs, plan: Plan, interventions: Sequence[Intervention], keep: Sequence[Kept]
) -> Run:
    """The run of checked inputs and a checked plan. Raises UserError for interventions that do not fit."""
    own = steps(plan)
    lengths = [int(length) for length in inputs.lengths]
    known = checked(interventions, own, model.config, lengths, inputs.tokens.shape[1])
    several: Any = [keep] if isinstance(keep, str) else keep
    return Run(model, plan, inputs, own, known).keep(*several)
