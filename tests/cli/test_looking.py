"""jaxpaint run, jaxpaint lens, jaxpaint routes and jaxpaint flow."""

from __future__ import annotations

import json
import re

import pytest

import jaxpaint
from convert import store_for
from jaxpaint.cli.routes import HEAD
from tests.cli.test_logits import TEXT, torch_logits

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

PLAN = "0 {1 2}*2 3 4"


@pytest.mark.slow
def test_the_last_state_says_what_torch_says(run, folder) -> None:
    store_for(folder)
    status, out, err = run("lens", "--model", folder, "--dtype", "float32", "--text", TEXT, "--json", "--top", 2)
    assert (status, err) == (0, "")
    said = json.loads(out)
    assert [state["layers"] for state in said["states"]] == ["embeddings", "0", "1", "2", "3", "4"]
    assert "".join(said["tokens"]).endswith(TEXT)
    last = said["states"][-1]["said"][-1]
    chances = torch_logits(folder, range(5)).log_softmax(-1)
    assert [each["id"] for each in last] == chances.topk(2).indices.tolist()
    assert [each["logprob"] for each in last] == pytest.approx(chances.topk(2).values.tolist(), abs=1e-4)
    table = run("lens", "--model", folder, "--text", TEXT, "--top", 1, "--plan", PLAN)[1].splitlines()
    assert len(table) == 3 + 6
    assert max(map(len, table)) <= 80
    assert [line.split()[0] for line in table[3:]] == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.slow
def test_a_run_is_the_models(run, folder) -> None:
    common = ("run", "--model", folder, "--dtype", "float32", "--text", TEXT, "--plan", PLAN)
    status, out, err = run(*common, "--json", "--block", "kettle", "--layers", "1-2")
    assert (status, err) == (0, "")
    said = json.loads(out)
    model = jaxpaint.load(folder, dtype="float32")
    plain = model.run(TEXT, PLAN)
    changed = model.run(TEXT, PLAN, jaxpaint.Knockout(queries=-1, keys=plain.positions("kettle"), layers=[1, 2]))
    found, logits = changed.attribution(), changed.logits[0, -1]
    assert said["next"][0]["id"] == found.token[0] == int(logits.argmax())
    assert said["attribution"]["logit"] == pytest.approx(float(logits.max()), abs=1e-4)
    parts = said["attribution"]
    total = parts["embedding"] + sum(parts["attention"]) + sum(parts["mlp"]) + parts["bias"]
    assert total == pytest.approx(parts["logit"], abs=1e-4)
    assert said["changed"] == {"block": "kettle", "layers": "1-2"}
    assert [event["layer"] for event in said["events"]] == [0, 1, 2, 1, 2, 3, 4]

    out = run(*common, "--block", "kettle", "--layers", "1-2", "--top", 2)[1]
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    before = float(jaxpaint.most_likely_next(model, jaxpaint.Plan.parse(PLAN), TEXT, 1)[0].probability)
    top = next(line for line in lines if f"({int(plain.logits[0, -1].argmax())})" in line).split()
    assert float(top[1]) == pytest.approx(before, abs=1e-4)
    assert float(top[0]) != pytest.approx(before, abs=1e-6)


@pytest.mark.slow
def test_which_of_several_words_is_blocked(run, refused, folder) -> None:
    common = ("run", "--model", folder, "--dtype", "float32", "--text", f"{TEXT} {TEXT}", "--json", "--block")
    said = {name: json.loads(run(*common, name)[1]) for name in ("kettle#1", "kettle#2", "kettle#all")}
    model = jaxpaint.load(folder, dtype="float32")
    plain = model.run(f"{TEXT} {TEXT}")
    for name, each in said.items():
        changed = model.run(f"{TEXT} {TEXT}", None, jaxpaint.Knockout(queries=-1, keys=plain.positions(name)))
        assert each["attribution"]["logit"] == pytest.approx(float(changed.attribution().logit[0]), abs=1e-4)
    assert plain.positions("kettle#all") == (*plain.positions("kettle#1"), *plain.positions("kettle#2"))
    refused(*common, "kettle", expected=("'kettle' is 2 times in the text", "kettle#1 to kettle#2"))


@pytest.mark.slow
def test_routes_are_the_models(run, folder) -> None:
    common = ("routes", "--model", folder, "--dtype", "float32", "--text", TEXT, "--plan", PLAN)
    status, out, err = run(*common, "--json", "--threshold", 0.1, "--without", 2)
    assert (status, err) == (0, "")
    found = jaxpaint.routes(jaxpaint.load(folder, dtype="float32").run(TEXT, PLAN), threshold=0.1, without=2)
    said, ours = json.loads(out), found.to_json()
    assert said.keys() == ours.keys()
    assert said["nodes"] == ours["nodes"]
    assert said["left_out"] == ours["left_out"]
    assert "".join(token["text"] for token in said["tokens"]).endswith(TEXT)
    assert [edge["share"] for edge in said["edges"]] == pytest.approx(
        [edge["share"] for edge in ours["edges"]], abs=1e-5
    )

    lines = run(*common, "--threshold", 0.1, "--without", 2)[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith(f"plan {PLAN} ")
    assert lines[1].endswith(f"{len(found.nodes)} nodes, {len(found.edges)} edges")
    assert any("without 2 coordinates" in line for line in lines)
    # A line for each state after a layer and each join, from the last one down, but for those that are passed on.
    passed = {edge.target for edge in found.edges if edge.kind == "residual"}
    changed = {edge.target for edge in found.edges if edge.kind != "residual"}
    attended = {edge.source for edge in found.edges if found.nodes[edge.source].kind == "attention"}
    own = {edge.target for edge in found.edges if edge.source in attended & changed} | changed
    states = [
        node
        for number, node in reversed(list(enumerate(found.nodes)))
        if node.kind in ("state", "join") and (number in own or number not in passed)
    ]
    begun = [line.split() for line in lines[lines.index(HEAD) + 1 :] if line[3:5].strip()]
    assert [(what, number) for what, number, *_ in begun] == [
        ("join", str(node.join)) if node.layer is None else (str(node.layer), str(node.event)) for node in states
    ]
    every = run(*common, "--threshold", 0.1, "--all-shares", "--json")[1]
    assert not json.loads(every)["renormalised"]


@pytest.mark.slow
def test_mistakes(refused, store) -> None:
    for command in ("run", "lens", "routes"):
        common = (command, "--model", store)
        refused(*common, "--text", "", expected=("the text is empty",))
        if command != "routes":
            refused(*common, "--text", "A", "--top", 0, expected=("0 tokens to show",))
        refused(*common, "--text", "A", "--plan", "0 99", expected=("99",))
    common = ("routes", "--model", store, "--text", "A")
    refused(*common, "--threshold", 1, expected=("threshold is 1.0; give 0",))
    refused(*common, "--without", 1000, expected=("without is 1000",))
    refused(*common, "--position", 5, expected=("position 5 is not in a text",))
    refused("lens", "--model", store, "--text", "A", "--position", 5, expected=("position 5 is not in a text",))
    common = ("run", "--model", store, "--text", "She put")
    refused(*common, "--layers", "1", expected=("--block PART or --off",))
    refused(*common, "--block", "zebra", expected=("'zebra' is not in the text",))
    refused(*common, "--off", "mlp", "--layers", "9", expected=("5 layers from 0 to 4",))
    refused(*common, "--off", "mlp", "--layers", "x", expected=("x",))


def test_layers_that_no_plan_runs_are_told_before_weights_are_read(refused, store, monkeypatch) -> None:
    monkeypatch.setattr("jaxpaint.engine.source.load", lambda *_, **__: pytest.fail("the weights were read"))
    common = ("run", "--model", store, "--text", "She put", "--plan", "0-2")
    refused(*common, "--block", "put", "--layers", "3", expected=("layers [3]", "3 layers from 0 to 2"))
    refused(*common, "--off", "mlp", "--steps", "4", expected=("steps [4]", "steps 1 to 3"))


@pytest.mark.slow
def test_flow(run, tmp_path) -> None:
    common = ("flow", "--model", "painter-16", "--limit", 12, "--plan", "0-3 {4-11}*2 12-15", "--plan", "15-0")
    status, out, err = run(*common, "--figure", tmp_path / "flow.png")
    assert status == 0
    assert len(err.splitlines()) <= 1  # the model is converted
    assert max(map(len, out.splitlines())) <= 80
    full, looped, reverse = out.split("\n\n")
    assert full.startswith("full: plan 0-15\n12 of 12 facts known")
    assert "layer 15" in looped
    assert "layers at once" not in full
    assert reverse.splitlines()[1] == "none of 12 facts known, so there is nothing to block"
    assert (tmp_path / "flow.png").read_bytes()[1:4] == b"PNG"
    status, out, _ = run(*common, "--json")
    said = json.loads(out)["plans"]
    assert [each["plan"] for each in said] == ["0-15", "0-3 {4-11}*2 12-15", "15-0"]
    assert said[0]["left"][2] == 1.0
    assert said[2]["left"] == [None, None, None]
    assert said[0]["clock"] is None
    assert len(said[1]["enriched"]["own_by_branch"]["value"]) == 16


@pytest.mark.slow
def test_flow_by_the_clock(run) -> None:
    common = ("flow", "--model", "painter-16", "--limit", 40, "--plan", "0-7 7*3 8-15", "--clock")
    status, out, _ = run(*common)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("clock, R² on prompts held out of its fit") == 2
    assert len(re.findall(r"^  part \d+ +[0-9]+\.\d ±", out, flags=re.M)) == 17 + 20
    assert re.search(r"^(holds|does not hold): the clock is less than a layer off", out, flags=re.M)
    said = json.loads(run(*common, "--json")[1])["plans"][1]["clock"]
    assert said["roles"] == ["subject", "last", "others"]
    assert len(said["reading"]["value"]) == len(said["ridge_lens"]["stderr"]) == 20


@pytest.mark.slow
def test_flow_is_kept_and_told(run, tmp_path) -> None:
    store = tmp_path / "flow.sqlite"
    common = ("flow", "--model", "painter-16", "--limit", 8, "--strategies", "skip,parallel", "--starts", "4,6")
    status, out, _ = run(*common, "--store", store, "--story", 2, "--branches", "--patches", "--sublayers")
    assert status == 0
    assert max(len(line) for line in out.splitlines() if str(store) not in line) <= 80
    assert re.search(r"^skip start=6 +\d/8", out, flags=re.M)
    assert "“question : " in out
    assert "in the end, with a probability of" in out
    assert "5 of them new" in out
    status, out, _ = run(*common, "--store", store, "--story", 2, "--branches", "--patches", "--sublayers", "--json")
    said = json.loads(out)
    assert len(said["plans"]) == len(said["stories"]) == 5
    assert said["plans"][0]["patched"]["states"][0] == 0
    assert said["stories"][0]["sentences"]
    assert said["plans"][3]["branches"][0] == "5 of part 6"
    status, out, _ = run("report", store, "-o", tmp_path / "report")
    assert status == 0
    assert "How facts flow" in out
    status, out, _ = run("results", store)
    assert status == 0
    assert out.splitlines()[:3] == [
        "Kept, and drawn by `jaxpaint report`:",
        "  how facts flow: 5 plans",
        "  the story of one prompt: 5 plans",
    ]
    assert "jaxpaint flow --store" in out


def test_mistakes_of_flow(refused, store, tmp_path) -> None:
    refused("flow", "--model", store, expected=("--facts FILE is lacking",))
    common = ("flow", "--model", "painter-16")
    refused(*common, "--story", 97, expected=("--story 97: there are 96 facts",))
    refused(*common, "--limit", 0, expected=("--limit 0: give 1 or more",))
    refused(*common, "--figure", tmp_path / "flow.gif", expected=("ends in .png or .pdf",))
    refused(*common, "--facts", tmp_path / "none.json", expected=("none.json",))
    refused(*common, "--plan", "0 99", expected=("99",))
