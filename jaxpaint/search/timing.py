"""Plans timed for a search with a latency for its budget; what was measured is kept, so that it stays what it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple

from jaxpaint.base.words import count
from jaxpaint.bench.latency import MOST_PLANS, Sizes, measure, setting_of
from jaxpaint.models.manifest import identity
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import build
from jaxpaint.results.kinds import CLOCK
from jaxpaint.results.latency import Latency
from jaxpaint.search.clock import Clock, probes
from jaxpaint.search.spec import Timing
from jaxpaint.studies.cells import register
from jaxpaint.studies.run import Session


def sizes(timing: Timing) -> Sizes:
    return Sizes(timing.batch_size, timing.prompt_length, timing.new_tokens)


def clock_of(session: Session, timing: Timing) -> Clock:
    """The machine's for the session's model: from the store, else measured and kept there.

    Raises UserError as `jaxpaint.bench.latency.measure`.
    """
    source, store = session.model, session.store
    study = register(store, source, [build("full", source.num_layers)], [])
    where = study.model_id, study.plan_ids[0], CLOCK
    settings = {**asdict(setting_of(source, sizes(timing))), "rounds": timing.rounds}
    if (known := store.analysis(*where, settings)) is None:
        plans = probes(source.num_layers)
        session.tell(f"timing {count(len(plans), 'plan')}, from which the latency of others is foreseen: {timing}")
        found = _measured(session, plans, timing)
        seconds = [each.whole.median for each in found]
        clock = Clock.fitted(plans, seconds)
        off = max(abs(clock.seconds(plan) / took - 1) for plan, took in zip(plans, seconds, strict=True))
        session.tell(
            f"the full model takes {1000 * seconds[0]:.3g} ms; of an attention {1000 * clock.attention:.3g}, of a "
            f"feed-forward {1000 * clock.mlp:.3g}, of a layer of the longest chain {1000 * clock.chain:.3g}; "
            f"this tells each of the {len(plans)} to {100 * off:.0f} %"
        )
        known = store.agreed(*where, settings, [[*astuple(clock)]])
    ((overhead, attention, mlp, chain),) = known
    return Clock(overhead, attention, mlp, chain)


def timed(session: Session, plans: Sequence[Plan], timing: Timing) -> Mapping[Plan, float]:
    """Seconds of a call under each plan, all measured in turn; from the store where it has all of them."""
    setting = setting_of(session.model, sizes(timing))
    model_id = register(session.store, session.model, [build("full", session.model.num_layers)], []).model_id
    rows = [row for row in session.store.latencies(model_id) if row.latency.setting == setting]
    known = {row.text: row.latency for row in rows if len(row.latency.first_seconds) == timing.rounds}
    if not all(str(plan) in known for plan in plans):
        session.tell(f"timing {count(len(plans), 'plan')}: {timing}")
        found: dict[Plan, Latency] = {}
        for start in range(0, len(plans), MOST_PLANS):
            part = plans[start : start + MOST_PLANS]
            found |= dict(zip(part, _measured(session, part, timing), strict=True))
        model = session.model
        about = {**identity(model.manifest), "dtype": model.computed_in, "num_layers": model.num_layers}
        session.store.add_latencies(about, list(found.items()))
        known = {str(plan): latency for plan, latency in found.items()}
    return {plan: known[str(plan)].whole.median for plan in plans}


def _measured(session: Session, plans: Sequence[Plan], timing: Timing) -> list[Latency]:
    advance = session.progress(len(plans) * (timing.rounds + 1), "timing")
    return measure(session.model.loaded, plans, sizes(timing), timing.rounds, progress=advance)
