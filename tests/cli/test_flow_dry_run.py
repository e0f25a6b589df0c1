"""jaxpaint flow --dry-run: how much it would be, by what it is afterwards, and no weights are read."""

from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter

from jaxpaint.cli import flow as command
from jaxpaint.engine.source import Source

pytestmark = [pytest.mark.usefixtures("nothing_of_the_users"), pytest.mark.slow]


def test_what_is_foreseen(run, tmp_path, monkeypatch) -> None:
    kept = tmp_path / "flow.sqlite"
    common = ("flow", "--model", "painter-16", "--limit", 6, "--plan", "0-7 12-15", "--store", kept, "--json")
    with monkeypatch.context() as patched:
        patched.setattr(Source, "loaded", property(lambda self: pytest.fail("the weights were read")))
        status, out, err = run(*common, "--dry-run", "--clock")
        assert status == 0, err
        assert not kept.exists()
        document = json.loads(out)
        assert json.loads(TypeAdapter(command.Answer).dump_json(TypeAdapter(command.Answer).validate_json(out))) == (
            document
        )
        numbers = document["numbers"]
        assert (numbers["facts"], numbers["plans"], numbers["num_layers"]) == (6, 2, 16)
        assert numbers["windows"] == 1 + 16 + 16  # everywhere, and around each layer and each step
        assert numbers["knockouts"] == 3 * numbers["windows"]
        assert (numbers["applications"], numbers["separate_applications"]) == (16 + 4, 16 + 12)
        assert 0 < numbers["seconds"] < 600
        assert document["lines"][-1].strip() == "not counted: what --clock asks on top"
    assert run(*common)[0] == 0
    status, out, _ = run(*common[:-1], "--plan", "0-9", "--dry-run")
    assert status == 0
    lines = out.splitlines()
    assert f"store   {kept} has 2 of 3 plans" in lines
    assert lines[-1].startswith("time    about ")
    assert run(*common[:-1], "--dry-run")[1].splitlines()[-1] == f"store   {kept} has 2 of 2 plans"
