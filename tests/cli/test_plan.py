"""jaxpaint plan."""

from __future__ import annotations

import pytest

import jaxpaint

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


def test_it_draws_and_counts(run) -> None:
    status, out, err = run("plan", "0-8 {9-22}*3 23-31", "--layers", 32)
    assert (status, err) == (0, "")
    plan = jaxpaint.Plan.parse("0-8 {9-22}*3 23-31")
    assert out.startswith(plan.draw())
    assert "plan    0-8 {9-22}*3 23-31\n" in out
    assert "cost    60 layer applications (1.88 of the full model's)\n" in out
    assert "depth   21 layers" in out
    assert "layers  32 of 32 used\n" in out


def test_a_strategy(run) -> None:
    spelled = run("plan", "0-8 {9-22}*3 23-31", "--layers", 32)
    named = run("plan", "--strategy", "looped-parallel", "--start", 8, "--layers", 32)
    assert named[0] == 0
    assert "plan    0-8 {9-23}*3 24-31\n" in named[1]
    assert named[1] != spelled[1]
    skip = run("plan", "--strategy", "skip", "--start", 1, "--layers", 5)[1]
    assert "plan    0 1 4\n" in skip
    assert "cost    3 layer" in skip
    assert "layers  3 of 5 used" in skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--layers", 5], ("give a plan", "--strategy NAME")),
        (["0", "--layers", 0], ("--layers is 0", "at least 1")),
        (["0-5", "--layers", 5], ("layer 5", "the model has 5 layers")),
        (["0", "--strategy", "skip", "--start", 1, "--layers", 5], ("not both",)),
        (["--strategy", "skip", "--layers", 5], ("strategy skip needs a start layer", "0-1")),
        (["--strategy", "skip", "--start", 2, "--layers", 5], ("start 2 is out of range", "0-1")),
        (["--strategy", "skp", "--layers", 5], ("unknown strategy 'skp'", "did you mean skip")),
        (["0-4", "--seed", 3, "--layers", 5], ("--seed", "--strategy")),
        (["0-4", "--from", "x.yml", "--layers", 5], ("give one of them",)),
        (["--from", "nowhere.yml", "--layers", 5], ("nowhere.yml",)),
        (["--from", "[(0,9)]", "--layers", 5], ("layers 5-8",)),
        (["0-4", "--to", "mergekit", "--layers", 5], ("--to mergekit copies", "give --model")),
        (["0-4", "--model", "m", "--layers", 5], ("--model m says how many layers", "leave --layers away")),
        (["--strategy", "skip", "--start", 1], ("a --strategy is of a number of layers", "--layers 32")),
        (["0-4", "--to", "repeats", "--json"], ("--to is a notation",)),
        (["0-4", "--model", "no/such/folder"], ("no folder no/such/folder",)),
        (["0 {1 2}", "--to", "repeats", "--layers", 5], ("a parallel group", "no mere order of layers")),
    ],
)
def test_mistakes(refused, arguments, expected) -> None:
    refused("plan", *arguments, expected=expected)


def test_mergekit_and_repeats(run, tmp_path) -> None:
    status, text, err = run("plan", "0-3 2-4", "--layers", 5, "--to", "mergekit", "--model", "org/model")
    assert (status, err) == (0, "")
    (tmp_path / "merge.yml").write_text(text)
    status, out, err = run("plan", "--from", tmp_path / "merge.yml", "--layers", 5)
    assert (status, err) == (0, "")
    assert "plan    0-3 2-4\n" in out
    assert run("plan", "--from", "[(0, 4), (2, 5)]", "--layers", 5, "--to", "repeats")[1] == "[(0, 4), (2, 5)]\n"
    status, _, err = run("plan", "--from", tmp_path / "merge.yml", "--layers", 4)
    assert status == 2
    assert "layer 4" in err


def test_layers_of_the_model_or_of_the_plan(run) -> None:
    assert "layers  4 of 9 used\n" in run("plan", "0-2 8")[1]
    assert "layers  4 of 16 used\n" in run("plan", "0-2 8", "--model", "painter-16")[1]
    skip = run("plan", "--strategy", "skip", "--start", 3, "--model", "painter-16")[1]
    assert "plan    0-3 13-15\n" in skip


@pytest.mark.parametrize("format", ["text", "svg", "mermaid", "json"])
def test_formats(run, refused, tmp_path, format) -> None:
    status, out, err = run("plan", "0 {1 2} 3", "--format", format)
    assert (status, err) == (0, "")
    file = tmp_path / "plan"
    assert run("plan", "0 {1 2} 3", "--format", format, "-o", file) == (0, f"wrote {file}\n", "")
    assert file.read_text() == out
    begins = {"text": " input", "svg": "<svg ", "mermaid": "flowchart TD", "json": "{"}
    assert out.startswith(begins[format])
    if format == "json":
        assert out == run("plan", "0 {1 2} 3", "--json")[1]
