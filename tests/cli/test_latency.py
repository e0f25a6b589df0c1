"""jaxpaint bench --model: plans timed in turn, shown, kept beside scores, and drawn by a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jaxpaint.bench import latency as measuring
from tests.helpers.study_store import rows
from tests.helpers.tiny_folder import NUM_LAYERS

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
FULL, SHORT, GROUP = f"0-{NUM_LAYERS - 1}", "0 1 4", "0 {1-3} 4"
SMALL = ["--prompt-length", 8, "--new-tokens", 4, "--rounds", 2]
ROWS = "SELECT m.dtype, p.text, a.name, a.settings, a.value FROM analyses a JOIN models m ON m.id = a.model "
ROWS += "JOIN plans p ON p.id = a.plan ORDER BY a.plan, a.settings"


@pytest.fixture
def bench(run, store):
    """The command on the tiny model, which must succeed: what it printed."""

    def command(*arguments: object) -> str:
        status, out, err = run("bench", "--model", store, *SMALL, *arguments)
        assert status == 0, err
        return out

    return command


@pytest.fixture
def turns(monkeypatch) -> list[tuple[str, int]]:
    """What ran, as (plan, new tokens), by a clock on which each plan takes its cost, and a token a tenth of it."""
    found: list[tuple[str, int]] = []
    seconds = [0.0]

    def generate(model, prompts, plans, **how):
        (plan,), new = plans, prompts[0].max_new_tokens
        found.append((str(plan), new))
        seconds[0] += plan.cost * (1 + (new - 1) / 10)
        return iter(())

    monkeypatch.setattr(measuring, "generate", generate)
    monkeypatch.setattr(measuring, "perf_counter", lambda: seconds[0])
    return found


@pytest.mark.slow
def test_plans_take_turns_and_rates_follow_from_the_times(bench, turns, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    out = bench("--plan", GROUP, "--compare", SHORT, "--compare", GROUP, "--rounds", 3, "--output", output)
    # The one that needs less first, then by turns, each with one new token and with all.
    rounds = [plan for plan, new in turns if new == 1]
    assert rounds == [SHORT, GROUP, GROUP, SHORT, SHORT, GROUP, GROUP, SHORT]
    assert [plan for plan, new in turns if new == 4] == rounds
    figures = json.loads(output.read_text())
    first, second = figures["plans"]
    assert (first["plan"], second["plan"], first["cost"], first["depth"]) == (GROUP, SHORT, 5, 3)
    assert second["first_token_seconds"] == {"median": 3, "low": 3, "high": 3, "rounds": [3, 3, 3]}
    assert second["further_token_seconds"]["median"] == pytest.approx(0.3)
    assert second["prefill_tokens_per_second"] == pytest.approx(8 / 3)
    assert second["decode_tokens_per_second"] == pytest.approx(1 / 0.3)
    assert second["first_token_by_first_plan"] == pytest.approx(3 / 5)
    assert second["further_token_by_first_plan"] == pytest.approx(3 / 5)
    lines = out.splitlines()
    assert "1 prompt of 8 tokens, 4 new ones each; medians of 3 rounds, plans in turn" in lines
    (row,) = [line for line in lines if line.startswith(SHORT) and "2,700" not in line and "3,000" in line]
    assert row.split()[3:7] == ["3,000", "3,000-3,000", "3", "0.60"]


@pytest.mark.slow
def test_lines_of_eighty_columns(bench, turns) -> None:
    out = bench("--compare", "0 1 2 3 4 3 2 1 {0 1 2 3 4}*900 1 2 3 0")
    assert max(map(len, out.splitlines()[1:])) <= 80
    assert "0-4 3-1 {0-4}*900 1…" in out
    assert "0-4 3-1 {0-4}*900 1-3 0" in bench("--compare", "0 1 2 3 4 3 2 1 {0 1 2 3 4}*900 1 2 3 0", "--json")


@pytest.mark.slow
def test_it_really_runs(bench, tmp_path: Path) -> None:
    output = tmp_path / "figures.json"
    out = bench("--compare", GROUP, "--batch-size", 3, "--output", output)
    assert "3 prompts of 8 tokens, 4 new ones each" in out
    assert len([line for line in out.splitlines() if line.startswith(FULL)]) == 2
    figures = json.loads(output.read_text())
    setting = figures["setting"]
    assert (setting["batch_size"], setting["prompt_length"], setting["new_tokens"]) == (3, 8, 4)
    assert setting["device"]
    assert setting["threads"] >= 1
    assert figures["model"]["dtype"] == "float32"
    for plan in figures["plans"]:
        assert len(plan["first_token_seconds"]["rounds"]) == 2
        assert plan["first_token_seconds"]["low"] > 0
        assert plan["peak_memory_bytes"] > 1 << 20


@pytest.mark.slow
def test_rows_are_kept_by_machine_sizes_and_dtype_and_replaced_by_the_same(bench, turns, tmp_path, monkeypatch) -> None:
    store = tmp_path / "study.sqlite"
    assert f"{store}: 2 latencies kept" in bench("--compare", SHORT, "--store", store)
    bench("--compare", SHORT, "--store", store, "--rounds", 3)  # in place of the first
    bench("--store", store, "--new-tokens", 5, "--dtype", "bfloat16")
    monkeypatch.setattr(measuring, "processor", lambda: "Another Processor")
    figures = json.loads(bench("--store", store, "--json"))  # and nothing else is printed
    assert figures["setting"]["device"] == "Another Processor"
    found = rows(store, ROWS)
    assert {row["name"] for row in found} == {"latency"}
    kept = [
        (
            row["text"],
            row["dtype"],
            (s := json.loads(row["settings"]))["new_tokens"],
            s["device"] == "Another Processor",
        )
        for row in found
    ]
    assert sorted(kept) == sorted(
        [
            (FULL, "float32", 4, False),
            (SHORT, "float32", 4, False),
            (FULL, "bfloat16", 5, False),
            (FULL, "float32", 4, True),
        ]
    )
    by_plan = {row["text"]: json.loads(row["value"]) for row in found if row["text"] == SHORT}
    assert by_plan[SHORT][:2] == [[3.0] * 3, [pytest.approx(3.9)] * 3]
    assert rows(store, "SELECT * FROM variants") == []  # a plan stands for a strategy where a study says so


@pytest.mark.slow
def test_results_show_what_was_kept(bench, run, turns, tmp_path: Path) -> None:
    store = tmp_path / "study.sqlite"
    bench("--compare", SHORT, "--store", store)
    status, out, _ = run("results", store)
    assert status == 0
    assert "1 prompt of 8 tokens, 4 new ones each; medians and quartiles" in out
    (row,) = [line for line in out.splitlines() if line.startswith(SHORT)]
    assert row.split()[3:] == ["3e+03", "(3e+03-3e+03)", "300", "(300-300)"]
    merged = tmp_path / "merged.sqlite"
    assert run("results", "--merge", merged, store)[0] == 0
    assert rows(merged, ROWS) == rows(store, ROWS)
    # What only was timed is no study.
    status, _, err = run("report", store, "-o", tmp_path / "report")
    assert status == 2
    assert "holds no results yet" in err


@pytest.mark.slow
def test_a_report_draws_a_real_study_against_it(run, tmp_path: Path) -> None:
    results, skip = tmp_path / "study.sqlite", "0-4 12-15"
    study = ["study", "--model", "painter-16", "--tasks", "painter_letters", "--limit", 40, "--strategies", "skip"]
    assert run(*study, "--starts", 4, "--store", results)[0] == 0
    sizes = ["--new-tokens", 100, "--rounds", 3, "--store", results]
    status, _, err = run("bench", "--model", "painter-16", "--compare", skip, *sizes)
    assert status == 0, err
    status, _, err = run("report", results, "-o", tmp_path / "report")
    assert status == 0, err
    assert (tmp_path / "report" / "figures" / "figure-score-against-latency.pdf").exists()
    table = (tmp_path / "report" / "tables" / "latency.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in table[1:]] == [["full", "full"], ["skip", "skip start=4"]]
    assert "1 prompt of 128 tokens" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ("give --model M", "--compile-for")),
        (["--model", "M", "--compile-for", "v5e"], ("not both",)),
        (["--model", "M", "--rows", 3], ("--rows does not go with --model",)),
        (["--compile-for", "v5e"], ("needs a --shape",)),
        (["--compile-for", "v5e", "--shape", "llama2-7b", "--new-tokens", 9], ("--new-tokens does not go with",)),
        (["--model", "M", "--new-tokens", 1], ("--new-tokens is 1", "at least 2")),
        (["--model", "M", "--rounds", 0], ("--rounds is 0", "at least 1")),
        (["--model", "M", "--plan", "0-3", "--strategy", "skip"], ("not both",)),
    ],
)
def test_mistakes_are_told_before_a_model_is_looked_for(refused, arguments: list, expected: tuple[str, ...]) -> None:
    refused("bench", *arguments, expected=expected)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--compare", "0-9"], ("layers 5-9", "5 layers")),
        (["--prompt-length", 61], ("prompts of 61 tokens and 4 new ones", "64 positions")),
        (["--store", "/nowhere/study.sqlite"], ("--store /nowhere/study.sqlite", "does not exist")),
        (["--batch-size", 1 << 16], ("do not fit", "smaller --batch-size")),
        (["--plans-file", "/nowhere.txt"], ("/nowhere.txt",)),
    ],
)
def test_mistakes_about_a_model(refused, store, arguments: list, expected: tuple[str, ...]) -> None:
    refused("bench", "--model", store, *SMALL, *arguments, expected=expected)


@pytest.mark.slow
def test_nothing_is_kept_of_a_run_that_does_not_end(run, store, tmp_path: Path, monkeypatch) -> None:
    results, calls = tmp_path / "study.sqlite", []

    def generate(*_, **__):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr(measuring, "generate", generate)
    status, _, err = run("bench", "--model", store, *SMALL, "--compare", SHORT, "--store", results)
    assert status == 130, err
    assert len(calls) == 9
    assert not results.exists()


def test_times_that_mean_nothing_are_not_shown(bench, monkeypatch, turns) -> None:
    monkeypatch.setattr(measuring, "perf_counter", lambda: float(len(turns)))  # each call takes the same
    out = bench()
    (row,) = [line for line in out.split("each further token")[1].splitlines() if line.startswith(FULL)]
    assert row.split()[1:] == ["-", "-", "-", "-"]
    assert "give more --new-tokens" in out
