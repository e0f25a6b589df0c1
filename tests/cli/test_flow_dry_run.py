"""jaxpaint flow --dry-run: how much there is to do beside what a store has, and no weights are read."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

import jaxpaint
from convert import store_for
from jaxpaint.analysis import flow, roles, subjects
from jaxpaint.analysis.asking import asked
from jaxpaint.analysis.knockouts import Knockouts
from jaxpaint.analysis.roles import clocked, regression
from jaxpaint.cli import flow as command
from jaxpaint.engine.source import Source
from jaxpaint.painter.facts import facts
from jaxpaint.plans.events import steps
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.results.flow import settings_of
from jaxpaint.results.kinds import FLOW
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import register

pytestmark = [pytest.mark.usefixtures("nothing_of_the_users"), pytest.mark.slow]
SHORT = "0-7 12-15"
EXTRAS = ("patches", "sublayers", "clock")


def keep(file: Path, variant: Variant) -> None:
    """As if the plan's flow were done."""
    source = Source.of(store_for("painter-16"), "float32")
    setting = asked(source, facts()[:6], extras=EXTRAS).setting
    with Store.open(file, create=True) as store:
        about = register(store, source, [variant], [])
        store.add_record(about.model_id, about.plan_ids[0], FLOW, settings_of(setting), {})


def counted(monkeypatch) -> Counter[str]:
    """What extras then compute of one plan were all facts known, in the names of what is foreseen."""
    found: Counter[str] = Counter()

    def known(model, prompts, plans, windows, **how):
        answers = np.array(asked(model, facts()[: len(prompts)]).answers)
        nothing = np.zeros((len(prompts), 1 + 3 * len(windows)))
        return [Knockouts(answers, *[nothing] * 4, len(windows), 3) for _ in plans]

    def patched(run, prompts, states):
        made = np.zeros((len(states), len(prompts[0].sets), len(run.events), len(prompts)), bool)
        found["patched_applications"] += made[..., 0].size  # one batch
        return made

    def silenced(model, to_ask, plan, numbers, *what):
        found["silenced_applications"] += plan.applications
        return np.zeros(len(numbers))

    def fitted(*samples):
        found["regressions"] += 1
        return regression(*samples)

    def read(model, clocks, plan):
        found["clock_states"] += 1 + len(steps(plan))
        found["clock_facts"] += len(clocks.held_out)
        return clocked(model, clocks, plan)

    monkeypatch.setattr(flow, "knock_out", known)
    monkeypatch.setattr(flow, "extracts_with", patched)
    monkeypatch.setattr(subjects, "late_without", silenced)
    monkeypatch.setattr(roles, "regression", fitted)
    monkeypatch.setattr(flow, "clocked", read)
    return found


def test_what_is_foreseen(run, tmp_path, monkeypatch) -> None:
    """Of what is asked on top, too: what is counted is what is then computed."""
    model, kept = jaxpaint.load("painter-16", dtype="float32"), tmp_path / "flow.sqlite"
    monkeypatch.setattr(Source, "loaded", property(lambda self: pytest.fail("the weights were read")))
    options = [f"--{name}" for name in EXTRAS]
    given = ("flow", "--model", "painter-16", "--dtype", "float32", "--limit", 6, "--plan", SHORT, "--dry-run")
    asking = (*given, *options)
    keep(kept, build("full", 16))
    status, out, err = run(*asking, "--store", kept, "--json")
    assert status == 0, err
    document = json.loads(out)
    shape = TypeAdapter(command.Answer)
    assert json.loads(shape.dump_json(shape.validate_json(out))) == document
    numbers, lines = document["numbers"], document["lines"]
    assert (numbers["facts"], numbers["plans"], numbers["num_layers"]) == (6, 2, 16)
    assert numbers["windows"] == 1 + 16 + 16  # everywhere, and around each layer and each step
    assert numbers["knockouts"] == 3 * numbers["windows"]
    assert numbers["finished_plans"] == 1
    assert (numbers["applications"], numbers["separate_applications"]) == (12, 12)
    parts = [numbers[f"{name}_seconds"] for name in EXTRAS]
    assert min(parts) > 0
    assert sum(parts) < numbers["seconds"] < 3600
    assert 0 < numbers["clock_bytes"] < numbers["memory_bytes"]
    assert [line.split()[0] for line in lines[-5:]] == ["patches", "without", "clock", "memory", "time"]
    assert lines[-1].startswith("time    about ")
    assert all(option in lines[-1] for option in options)
    computed = counted(monkeypatch)
    flow.flows(model, asked(model, facts()[:6], extras=EXTRAS), [SHORT])
    assert len(computed) == 5
    assert computed == {name: numbers[name] for name in computed}
    keep(kept, Variant(CUSTOM, Plan.parse(SHORT), 16))
    assert run(*asking, "--store", kept)[1].splitlines()[-1] == f"store   {kept} has 2 of 2 plans"
