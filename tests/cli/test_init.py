"""jaxpaint init: a settings file of every setting, which the study takes; TOML and YAML."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from jaxpaint.studies.settings import COMMAND_LINE_ONLY, KINDS, checked_names, report_from, spec_from

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_is_a_study(run, here) -> None:
    status, out, err = run("init")
    assert (status, err) == (0, "")
    assert out == "wrote study.toml; edit it, then: jaxpaint study study.toml --dry-run\n"
    spec = spec_from({}, Path("study.toml"))
    assert (spec.model, spec.tasks, spec.store) == (
        "painter-16",
        ("painter_facts", "painter_places"),
        Path("study.sqlite"),
    )
    assert max(map(len, Path("study.toml").read_text().splitlines())) <= 100


@pytest.mark.parametrize("name", ["study.toml", "study.yaml", "study.yml"])
def test_options_stand_in_it(run, here, name) -> None:
    options = {
        "model": "m",
        "tasks": "arc_easy,hellaswag",
        "strategies": "skip,random",
        "starts": "0-14/2",
        "limit": "50",
    }
    options |= {"store": "out.sqlite", "report": "out", "gen-kwargs": "max_gen_toks=3,until=x", "seeds": "3"}
    words = [word for option, value in options.items() for word in (f"--{option}", value)]
    words += ["--plan", "0-8 {9-22}", "--plan", "0 1", "--data", "arc_easy=a b.jsonl", "--offload"]
    words += ["--system-instruction", 'say "ä" \\ 1']
    assert run("init", name, *words)[0] == 0
    spec = spec_from({}, Path(name))
    assert (spec.model, spec.tasks, spec.strategies) == ("m", ("arc_easy", "hellaswag"), ("skip", "random"))
    assert (spec.starts, spec.limit, spec.seeds, spec.offload) == (tuple(range(0, 15, 2)), 50, (0, 1, 2), True)
    assert (spec.plans, spec.data) == (("0-8 {9-22}", "0 1"), ("arc_easy=a b.jsonl",))
    assert spec.system_instruction == 'say "ä" \\ 1'
    assert spec.gen_kwargs == {"max_gen_toks": 3, "until": "x"}
    assert report_from(Path(name)) == Path("out")


@pytest.mark.parametrize(("name", "read"), [("a.toml", tomllib.loads), ("a.yaml", yaml.safe_load)])
def test_every_setting_is_there_with_a_value_that_it_takes(run, here, name, read) -> None:
    """What stands behind a # is a value of its kind."""
    assert run("init", name)[0] == 0
    lines = Path(name).read_text().splitlines()
    assign = ": " if name.endswith("yaml") else " = "
    settings = [line.removeprefix("# ") for line in lines if line.removeprefix("# ").partition(assign)[0] in KINDS]
    found = read("\n".join(settings))
    assert found.keys() == KINDS.keys() - {*COMMAND_LINE_ONLY}
    Path("samples.json").write_text('{"arc_easy": [0]}')
    assert checked_names(found).keys() == found.keys()


def test_a_file_that_exists_is_left_alone(refused, run, here) -> None:
    (here / "study.toml").write_text("# mine\n")
    refused("init", expected=("study.toml exists already", "--force"))
    assert (here / "study.toml").read_text() == "# mine\n"
    assert run("init", "--force")[0] == 0
    assert "# mine" not in (here / "study.toml").read_text()
    refused("init", "study.json", expected=(".toml, .yaml, .yml",))
    refused("init", "other.toml", "--strategies", "skpi", expected=("did you mean skip",))
    assert not (here / "other.toml").exists()


@pytest.mark.slow
def test_the_report_of_the_file_is_written(run, here) -> None:
    Path("s.yaml").write_text("model: painter-16\ntasks: painter_facts\nstore: s.sqlite\nreport: pages\nlimit: 2\n")
    status, out, err = run("study", "s.yaml")
    assert status == 0, err
    assert out.endswith("report: pages/report.html\n")
    assert Path("pages/report.html").is_file()


def test_yaml_that_is_none(refused, here) -> None:
    for text, expected in (("[1]", "holds no settings"), ("a: [", "is not YAML"), ("taks: x", "did you mean tasks")):
        Path("s.yaml").write_text(text)
        refused("study", "s.yaml", expected=("s.yaml", expected))
