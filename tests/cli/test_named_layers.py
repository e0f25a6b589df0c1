"""Plans of a composed model by its layers' names: every way in, the same as by numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxpaint as jp
from convert import compose
from convert.layer_names import layer_names, names_of
from jaxpaint.base.errors import UserError
from jaxpaint.models.manifest import identity, read_manifest
from jaxpaint.plans.plan import PlanError
from jaxpaint.serve.offered import by_name, offered
from jaxpaint.studies.settings import spec_from

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
NAMED, NUMBERS = "A:0-1 {B:1 A:3m}*2 B:0", "0 1 {6 3m}*2 7"
SERIES, SERIES_NUMBERS = "A:0-1 B:1a B:0", "0 1 6a 7"


@pytest.fixture(scope="module")
def both(store, tmp_path_factory) -> Path:
    """Four of A's layers, then B's, backwards; B is the same model."""
    return compose({"A": store, "B": store}, "A:0-3 B:3-0", tmp_path_factory.mktemp("composed") / "both")


def test_names_are_those_of_the_manifest() -> None:
    def names(layers: str, *models: str) -> Any:
        return layer_names({"composed": {"layers": layers, "models": {key: {} for key in models}}})

    assert names("A:0-1 B:7 A:0 merge(B:1-2) B:7-6", "A", "B") == {"A": {0: 0, 1: 1}, "B": {7: 2, 6: 6}}
    assert names("3 merge(0-1)", "A") == {"A": {3: 0}}
    assert names("B:0", "A", "B") == {"A": {}, "B": {0: 0}}
    assert names("0-3", "the model") == layer_names({}) == {}


def test_python(both: Path) -> None:
    model, tokens = jp.load(both, dtype="float32"), np.arange(12).reshape(2, 6)
    found = model.logits(tokens, NAMED)
    np.testing.assert_array_equal(found, model.logits(tokens, NUMBERS))
    np.testing.assert_array_equal(found, model.logits(tokens, "0 1 {1 3m}*2 0"))  # B is A here
    assert jp.Plan.parse(NAMED, model.layer_names) == jp.Plan(NUMBERS)
    with pytest.raises(PlanError, match="column 3: there is no model C; there is A, B"):
        model.logits(tokens, "0 C:1")


def test_the_command(run, both: Path, store: Path, tmp_path: Path) -> None:
    def answer(*arguments: object) -> Any:
        status, out, err = run(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    asked = ("logits", "--model", both, "--text", "the harbour", "--plan")
    assert answer(*asked, NAMED) == answer(*asked, NUMBERS)
    assert answer("plan", NAMED, "--model", both)["plan"] == NUMBERS
    exported = answer("export", both, tmp_path / "out", "--plan", SERIES)
    assert (exported["plan"], exported["num_layers"]) == (SERIES_NUMBERS, 4)
    lacking = "column 3: A:4: of A the store has layers 0-3"
    for arguments, told in (
        (("logits", "--text", "x", "--model", both, "--plan", "0 A:0-4"), lacking),
        (("generate", "--prompt", "x", "--model", both, "--plan", "0 A:0-4"), lacking),
        (("bench", "--model", both, "--compare", "0 A:0-4"), lacking),
        (("serve", "--model", both, "--plan", "x=0 A:0-4"), lacking),
        (("logits", "--text", "x", "--model", store, "--plan", "A:0"), "layers of this one have no names; jaxpaint"),
        (("plan", "A:0"), "no model is given; give its store as --model"),
    ):
        status, out, err = run(*arguments)
        assert (status, out, told in err) == (2, "", True), err


def test_studies(both: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "plans.txt").write_text(f"0 1  # by numbers\n{NAMED}\n")
    (tmp_path / "study.toml").write_text(
        f'model = "{both}"\nstore = "s.sqlite"\ntasks = "x"\nplans = ["B:0-2", "A:1"]\n'
    )
    spec = spec_from({"plans-file": str(tmp_path / "plans.txt"), "plans": ["B:3"]}, tmp_path / "study.toml")
    assert spec.plans == ("4", "0 1", NUMBERS)
    assert spec_from({}, tmp_path / "study.toml").plans == ("7-5", "1")
    for model, told in (
        (both, "there is no model C; there is A, B"),
        (store, "have no names"),
        ("no/such/one", "no folder"),
    ):
        with pytest.raises(UserError, match=told):
            jp.StudySpec(model=str(model), store=tmp_path / "s", plans=("C:1",))
    with pytest.raises(UserError, match="expected a layer's number after C:"):
        jp.StudySpec(model=str(both), store=tmp_path / "s", plans=("C:",))


def test_serving(both: Path) -> None:
    names = by_name(offered("m", 8, [f"a={SERIES}", NAMED], names_of(both)))
    assert {name: str(each.plan) for name, each in names.items()} == {
        "m": "0-7",
        **dict.fromkeys(("m@a", f"m@{SERIES}", f"m@{SERIES_NUMBERS}"), SERIES_NUMBERS),
        **dict.fromkeys((f"m@{NAMED}", f"m@{NUMBERS}"), NUMBERS),
    }


def test_results_say_how_a_model_was_made(both: Path, store: Path) -> None:
    source = read_manifest(store)["source"]
    healed = {**read_manifest(store), "healed": [{"plan": "0 2 4"}, {"plan": "0 " * 40}]}
    assert identity(read_manifest(both))["source"] == f"{source}, composed of A:0-3 B:3-0"
    first, plan, again = identity(healed)["source"].split(", ")
    assert (first, plan, again) == (source, "healed for 0 2 4", f"healed for {'0 ' * 24}…")
    assert identity(read_manifest(store)) == {"source": source, "revision": None, "fingerprint": healed["fingerprint"]}
    assert identity({}) == dict.fromkeys(("source", "revision", "fingerprint"))
