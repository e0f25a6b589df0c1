"""jaxpaint flow --dry-run: how much there is to do beside what a store has, and no weights are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from convert import store_for
from jaxpaint.analysis.asking import asked
from jaxpaint.cli import flow as command
from jaxpaint.engine.source import Source
from jaxpaint.painter.facts import facts
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.results.flow import settings_of
from jaxpaint.results.kinds import FLOW
from jaxpaint.results.store import Store
from jaxpaint.studies.cells import register

pytestmark = [pytest.mark.usefixtures("nothing_of_the_users"), pytest.mark.slow]
SHORT = "0-7 12-15"


def keep(file: Path, variant: Variant) -> None:
    """As if the plan's flow were done."""
    source = Source.of(store_for("painter-16"), "float32")
    setting = asked(source, facts()[:6]).setting
    with Store.open(file, create=True) as store:
        about = register(store, source, [variant], [])
        store.add_record(about.model_id, about.plan_ids[0], FLOW, settings_of(setting), {})


def test_what_is_foreseen(run, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Source, "loaded", property(lambda self: pytest.fail("the weights were read")))
    kept = tmp_path / "flow.sqlite"
    asking = ("flow", "--model", "painter-16", "--dtype", "float32", "--limit", 6, "--plan", SHORT, "--dry-run")
    keep(kept, build("full", 16))
    status, out, err = run(*asking, "--store", kept, "--json")
    assert status == 0, err
    document = json.loads(out)
    shape = TypeAdapter(command.Answer)
    assert json.loads(shape.dump_json(shape.validate_json(out))) == document
    numbers = document["numbers"]
    assert (numbers["facts"], numbers["plans"], numbers["num_layers"]) == (6, 2, 16)
    assert numbers["windows"] == 1 + 16 + 16  # everywhere, and around each layer and each step
    assert numbers["knockouts"] == 3 * numbers["windows"]
    assert numbers["finished_plans"] == 1
    assert (numbers["applications"], numbers["separate_applications"]) == (12, 12)
    assert 0 < numbers["seconds"] < 3600
    assert document["lines"][-1].startswith("time    about ")
    keep(kept, Variant(CUSTOM, Plan.parse(SHORT), 16))
    assert run(*asking, "--store", kept)[1].splitlines()[-1] == f"store   {kept} has 2 of 2 plans"
