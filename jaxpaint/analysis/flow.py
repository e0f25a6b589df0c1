"""How facts reach the last token under plans: knockouts of many facts, summed up, and what was claimed of them.

The method and the claims are those of Geva et al. (arXiv 2304.14767) for large models run in order. Here they are
questions: each can be answered by no, under the full model and under every other plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxpaint.analysis.asking import BRANCHES, CLOCK, PATCHES, Asked, asked
from jaxpaint.analysis.extraction import Extraction, extraction, joined
from jaxpaint.analysis.facts import Fact
from jaxpaint.analysis.knockouts import EVERYWHERE, Knockouts, Window, centred, knock_out
from jaxpaint.analysis.patching import donors, extracts_with
from jaxpaint.analysis.roles import Clocks, clocked, clocks_of
from jaxpaint.analysis.runs import batches
from jaxpaint.analysis.subjects import what_subjects_tell
from jaxpaint.analysis.written import sources_are_known, written
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.plans.events import branches, events, steps
from jaxpaint.plans.plan import Plan
from jaxpaint.results.flow import (
    SETS,
    Enriched,
    Extracted,
    Flow,
    FlowSetting,
    Mean,
    Patched,
    Silenced,
    Verdict,
    Windows,
)

# Per cent of a probability: less is no change.
NOTHING = 5.0


def flows(
    model: Model,
    facts: Sequence[Fact] | Asked,
    plans: Sequence[Plan | str],
    *,
    among: Sequence[Plan] = (),
    batch_tokens: int | None = None,
    progress: Callable[[int], Callable[[int], None]] | None = None,
    **how: Any,
) -> tuple[Flow, ...]:
    """Every plan's `Flow` of the facts, those that it knows: whose answer's first token is its most likely one.

    `how` are the arguments of `asked`, where `facts` are not `Asked` already. `among` are more plans, for which the
    same windows are to serve: all calls that name the same share their executables.

    Raises:
        PlanError: a plan names a layer that the model lacks.
        UserError: an encoder, and as `asked`.
    """
    if not plans or isinstance(plans, str | Plan):
        raise UserError(f"plans is {plans!r}; give a list of them, one at least")
    to_ask = facts if isinstance(facts, Asked) else asked(model, facts, **how)
    checked = [model.checked_plan(plan).of_whole_layers("the flow of facts") for plan in plans]
    windows = _Windows.of(to_ask.setting, model.num_layers, [*checked, *among])
    tokens = sum(len(prompt.tokens) for prompt in to_ask.prompts)
    has_clock = CLOCK in to_ask.setting.extras
    fit = tokens * model.num_layers * has_clock
    own = [tokens * plan.applications * (1 + has_clock) for plan in checked]  # a clock reads every state of a run
    advance: Callable[[int], None] = _nothing

    def started(whole: int) -> Callable[[int], None]:
        """What is read off ordinary runs comes after the knockouts."""
        nonlocal advance
        if progress is not None:
            advance = progress(whole + fit + sum(own))
        return advance

    found = knock_out(model, to_ask.prompts, checked, windows.whole, batch_tokens=batch_tokens, progress=started)
    clocks = clocks_of(model, to_ask) if has_clock else None
    advance(fit)
    made = []
    for plan, each, work in zip(checked, found, own, strict=True):
        made.append(_flow(model, to_ask, plan, each, windows, clocks))
        advance(work)
    return tuple(made)


def windows_of(setting: FlowSetting, num_layers: int, plans: Sequence[Plan]) -> tuple[Window, ...]:
    """In which edges are blocked for `flows` of these plans."""
    return _Windows.of(setting, num_layers, plans).whole


def read_off(model: Model, to_ask: Asked, plan: Plan) -> None:
    """What `flows` reads of ordinary runs, of facts that are known, for whoever asks how long it takes."""
    _Inside.of(model, to_ask, plan, np.ones(len(to_ask.prompts), bool))


def _nothing(amount: int) -> None:
    """Where no progress is shown."""


@dataclass(frozen=True)
class _Windows:
    """Of a call: everywhere, around each layer, around each depth, each branch of any plan; in this order."""

    layers: tuple[Window, ...]
    depths: tuple[Window, ...]
    of_branches: tuple[Window, ...]

    @classmethod
    def of(cls, setting: FlowSetting, num_layers: int, plans: Sequence[Plan]) -> _Windows:
        wanted = [window for plan in plans for window in _of_branches(plan)] if BRANCHES in setting.extras else []
        depths = max(plan.chain_length for plan in plans)
        return cls(
            centred("layer", setting.size, num_layers),
            centred("depth", setting.size, depths),
            tuple(sorted(set(wanted), key=lambda window: (window.start, window.stop))),
        )

    @property
    def whole(self) -> tuple[Window, ...]:
        return (EVERYWHERE, *self.layers, *self.depths, *self.of_branches)

    def taken(self, change: Float[np.ndarray, "prompts windows sets"], plan: Plan) -> list[np.ndarray]:
        """Those around layers, around the plan's own depths, and its branches."""
        layers, depths = 1 + len(self.layers), 1 + len(self.layers) + len(self.depths)
        own = [depths + self.of_branches.index(window) for window in _of_branches(plan)] if self.of_branches else []
        return [change[:, 1:layers], change[:, layers : layers + plan.chain_length], change[:, own]]

    def means(self, values: Float[np.ndarray, "prompts windows sets"], plan: Plan) -> Windows:
        """Over prompts, of the plan's own windows."""
        by_layer, by_depth, by_branch = (Mean.of(each) for each in self.taken(values, plan))
        return Windows(Mean.of(values[:, :1]), by_depth, by_layer, by_branch)


def _of_branches(plan: Plan) -> list[Window]:
    return [Window("event", branch.first, branch.stop) for branch in branches(plan)]


def _flow(model: Model, to_ask: Asked, plan: Plan, found: Knockouts, windows: _Windows, clocks: Clocks | None) -> Flow:
    known = found.token == np.array(to_ask.answers)
    change = windows.means(found.change[known], plan)
    answers_left = windows.means(found.left[known].astype(np.float64), plan)
    inside = _Inside.of(model, to_ask, plan, known)
    clock, told = (None, []) if clocks is None else clocked(model, clocks, plan)
    return Flow(
        plan,
        known,
        change.everywhere,
        answers_left.everywhere.value[0],
        change.by_depth,
        change.by_layer,
        change.by_branch,
        (*_verdicts(found.change[known, 0], windows.taken(found.change[known], plan)[1]), *inside.verdicts, *told),
        inside.written,
        inside.extracted,
        inside.patched,
        inside.enriched,
        windows.means(found.logit_change[known], plan),
        answers_left,
        inside.silenced,
        clock,
    )


@dataclass(frozen=True, eq=False)
class _Inside:
    """What ordinary runs of the known prompts tell."""

    written: Mean | None = None
    extracted: Extracted | None = None
    patched: Patched | None = None
    enriched: Enriched | None = None
    silenced: Silenced | None = None
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def of(cls, model: Model, to_ask: Asked, plan: Plan, known: np.ndarray) -> _Inside:
        enriched, silenced, verdicts = what_subjects_tell(model, to_ask, plan)
        own = [prompt for prompt, is_known in zip(to_ask.prompts, known, strict=True) if is_known]
        if not own:
            return cls(enriched=enriched, silenced=silenced, verdicts=tuple(verdicts))
        writes, extractions, patches = [], [], []
        by_source = sources_are_known(model)
        states = donors(len(steps(plan)))
        for part, run in batches(model, own, plan):
            run.keep("states", "attention_out", "mlp_out", *(("attention", "values") if by_source else ()))
            extractions.append(extraction(run, len(part)))
            if by_source:
                writes.append(written(run, part))
            if PATCHES in to_ask.setting.extras:
                patches.append(extracts_with(run, part, states))
        extracted, patched = joined(extractions), None
        verdicts.append(Verdict.of("first", extracted.later([event.depth for event in events(plan)]), below=0.5))
        if patches:
            patched, verdict = _patched(np.concatenate(patches, axis=-1), extracted, states)
            verdicts.append(verdict)
        rates = [extracted.attention, extracted.mlp, extracted.steps]
        shares = Extracted(np.array(list(extracted.shares.values())), *(each.mean(axis=1) for each in rates))
        return cls(
            Mean.of(np.concatenate(writes)) if writes else None, shares, patched, enriched, silenced, tuple(verdicts)
        )


def _patched(found: np.ndarray, own: Extraction, states: Sequence[int]) -> tuple[Patched, Verdict]:
    """Of [donors, sets, E, prompts]: shares of events; whether the subject's embeddings cost more than the rest's."""
    shares = found.mean(axis=2)
    subject, rest = SETS.index("subject"), SETS.index("rest")
    verdict = Verdict.of("patched", shares[0, subject] - shares[0, rest])
    before = Mean.of(own.attention.mean(axis=0)[:, None, None])
    return Patched(tuple(states), before, Mean.of(shares.transpose(2, 0, 1))), verdict


def _verdicts(
    everywhere: Float[np.ndarray, "prompts sets"], by_depth: Float[np.ndarray, "prompts depths sets"]
) -> Iterator[Verdict]:
    """Of knockouts, of differences within each prompt."""
    subject, rest, last = (SETS.index(name) for name in SETS)
    yield Verdict.of("itself", np.abs(everywhere[:, last]), below=NOTHING)
    if not len(by_depth):
        return
    strongest = by_depth.mean(axis=0).argmin(axis=0)
    hurts = {key: by_depth[:, strongest[key], key] for key in (subject, rest)}
    yield Verdict.of("subject", hurts[subject] - hurts[rest])
    effect = np.maximum(0, -by_depth[:, :, [subject, rest]])
    total = effect.sum(axis=1)
    moved = (total > NOTHING).all(axis=1)
    centre = np.einsum("pdk,d->pk", effect[moved], np.arange(by_depth.shape[1])) / total[moved]
    yield Verdict.of("order", centre[:, 1] - centre[:, 0])
