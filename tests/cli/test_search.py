"""jaxpaint search: what it prints and writes, again and after mistakes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from jaxpaint.bench.latency import setting_of
from jaxpaint.plans.plan import Plan
from jaxpaint.results.latency import Latency, Setting
from jaxpaint.results.store import Store
from jaxpaint.search import timing
from jaxpaint.search.clock import Clock
from tests.helpers.study_store import rows
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def search(run, store, tmp_path):
    """The command on the tiny model of five layers."""
    task = make_task(tmp_path, "tiny_choice", documents=20)
    texts = tmp_path / "texts.txt"
    texts.write_text("The kettle is by the lantern.\nThe ladder is by the harbour.\n")

    def command(*more: object, budget: str = "cost=0.6", tasks: str = task):
        own = ("--tasks", tasks, "--dtype", "float32", "--store", tmp_path / "search.sqlite")
        return run("search", "--model", store, "--budget", budget, *own, *more)

    command.texts = texts  # type: ignore[attr-defined]
    return command


def test_a_search_from_tasks_to_front(search, run, tmp_path) -> None:
    blank = make_task(tmp_path, "tiny_blank", documents=20)
    options = ("--held-out-tasks", blank, "--calibration", search.texts, "--plans", 10, "--csv", tmp_path / "f.csv")
    status, out, err = search(*options, "--report", tmp_path / "report")
    assert status == 0, err
    assert "measuring block_influence and angular_distance of the model on 2 texts" in err
    assert "greedy, generation 1: 5 plans on 10 documents" in err
    for words in ("within cost=0.6", "times fewer layer applications", "(skip of the middle)", "winner: ", "held-out"):
        assert words in out
    with (tmp_path / "f.csv").open() as file:
        table = list(csv.DictReader(file))
    (winner,) = [row for row in table if row["role"] == "winner"]
    assert int(winner["cost"]) <= 3
    assert float(winner["low"]) < float(winner["held out"]) < float(winner["high"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "questions" not in page, "a search asks none of the paper's"
    assert f"Search within cost=0.6, winner: {winner['plan']} (cost" in " ".join(out.split())
    assert "Search for plans within cost=0.6" in page
    assert (tmp_path / "report" / "figures" / "figure-search-front.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "report" / "tables" / "search.csv").read_text().count("\n") == len(table) + 1

    status, told, _ = run("results", tmp_path / "search.sqlite")
    assert status == 0
    assert "running" not in told
    assert "that a search looked at on some documents. `jaxpaint report` draws its front." in told
    assert winner["plan"] in told
    assert "what hidden states are like" not in told

    before = rows(tmp_path / "search.sqlite", "SELECT count(*) AS n FROM scores")
    status, again, err = search(*options)
    assert (status, err) == (0, "")
    assert again.split("report: ")[0].strip() in out
    assert rows(tmp_path / "search.sqlite", "SELECT count(*) AS n FROM scores") == before
    # Another budget in the same store: what the first one scored is there.
    status, out, err = search(*options[:-2], budget="depth=4")
    assert status == 0
    assert "greedy, generation 1: 9 plans" in err  # five less one layer, and four pairs


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--methods", "greedy,evoluton"), "unknown method 'evoluton': did you mean evolution?"),
        (("--held-out", "1"), "--held-out is 1; expected a share of the documents from 0.1 to 0.9"),
        (("--plans", "1"), "--plans is 1; expected 2 to 100,000"),
        (("--csv", "none/f.csv"), "--csv none/f.csv: the folder "),
        (("--csv", "."), "--csv . is a folder; give the name of a CSV file"),
        (("--limit", "4"), "each needs 4: raise --limit"),
    ],
)
def test_mistakes(search, options: tuple[object, ...], told: str) -> None:
    status, out, err = search(*options)
    assert (status, out) == (2, "")
    assert told in err
    assert "Traceback" not in err


def test_budgets_that_are_none(search) -> None:
    for budget, told in (("latency=8", "or a time with its unit"), ("cost=0.1", "leaves no layer of 5")):
        status, _, err = search(budget=budget)
        assert status == 2
        assert told in err


def test_tasks_that_write(search, tmp_path: Path) -> None:
    status, _, err = search(tasks=make_task(tmp_path, "tiny_write", documents=20))
    assert status == 2
    assert "has the model write its answers" in err


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """In place of a clock on the wall: of each of five layers 2 ms, in a call of 1 ms; without layer 1 it takes longer
    than its parts tell.
    """
    told = Clock(0.001, 0.0012, 0.0008, 0.0)
    measured: list[Plan] = []

    def measure(model, plans, sizes, rounds, *, progress) -> list[Latency]:
        measured.extend(plans)
        setting = setting_of(model, sizes)
        slow = [1.0 if 1 in plan.layers or plan.cost < 3 else 1.3 for plan in plans]
        seconds = [by * told.seconds(plan) for by, plan in zip(slow, plans, strict=True)]
        return [Latency(setting, (each / 2,) * rounds, (each,) * rounds) for each in seconds]

    monkeypatch.setattr(timing, "measure", measure)
    object.__setattr__(told, "measured", measured)
    return told


@pytest.mark.slow
def test_a_latency_for_a_budget(search, clock, tmp_path: Path) -> None:
    """The winner is the best of those that were measured within it; what was measured stays what it was."""
    file, options = tmp_path / "f.csv", ("--plans", 20, "--prompt-length", 8, "--new-tokens", 3, "--rounds", 2)
    status, out, err = search(*options, "--csv", file, "--report", tmp_path / "report", budget="latency=0.7")
    assert status == 0, err
    assert "the full model takes 11 ms; of an attention 1.2, of a feed-forward 0.8, of a layer of the longest" in err
    assert "each of the 7 to 0 %" in err
    assert "within latency=0.7 of 1 prompt of 8 tokens, 3 new ones each on " in out
    with file.open() as lines:
        table = {row["plan"]: row for row in csv.DictReader(lines)}
    took = {text: float(row["ms a call"]) for text, row in table.items()}
    assert took["0-4"] == pytest.approx(11)
    for text, ms in took.items():
        plan = Plan.parse(text)
        slow = 1 not in plan.layers and plan.cost >= 3
        assert ms == pytest.approx(1000 * clock.seconds(plan) * (1.3 if slow else 1))
    (winner,) = [text for text, row in table.items() if row["role"] == "winner"]
    fitting = {text: float(row["search"]) for text, row in table.items() if took[text] <= 7.7 and row["role"] != "full"}
    assert winner == max(fitting, key=fitting.__getitem__)
    assert f"measured: {took[winner]:.4g} ms a call, {took[winner] / 11:.2f} of the full model's" in out
    assert ">" in next(line for line in out.splitlines() if line.endswith(f" {winner}"))

    before = len(clock.measured)
    status, again, err = search(*options, budget="latency=0.7")
    assert (status, err) == (0, "")
    assert "\n".join(again.splitlines()[1:]) in out
    assert len(clock.measured) == before
    # Another length is another clock.
    assert search("--plans", 4, "--prompt-length", 9, "--rounds", 1, budget="latency=7.7ms")[0] == 0
    assert len(clock.measured) > before + 6


def test_a_latency_that_no_finalist_has(search, clock, monkeypatch) -> None:
    real = timing.measure

    def slower(model, plans, sizes, rounds, *, progress) -> list[Latency]:
        found = real(model, plans, sizes, rounds, progress=progress)
        is_probes = plans == timing.probes(5)
        return found if is_probes else [replace(each, whole_seconds=(9 * each.whole.median,)) for each in found]

    monkeypatch.setattr(timing, "measure", slower)
    status, out, err = search("--plans", 4, "--prompt-length", 9, budget="latency=7.7ms")
    assert status == 0, err
    assert "% over the budget, as every finalist is" in out


@pytest.mark.parametrize(
    ("options", "budget", "told"),
    [
        (("--rounds", 3), "cost=0.6", "--rounds belongs to a latency; give --budget latency=0.8"),
        (("--new-tokens", 1), "latency=0.6", "--new-tokens is 1; give at least 2"),
        (("--prompt-length", 9999), "latency=0.6", "give a smaller --prompt-length or --new-tokens"),
        (("--ray", "auto"), "latency=0.6", "a latency is measured on the device here; leave --ray away"),
        (("--ray-worker", "GPU=1"), "cost=0.6", "--ray-worker is of workers on a Ray cluster"),
    ],
)
def test_latency_mistakes(search, options, budget: str, told: str) -> None:
    status, out, err = search(*options, budget=budget)
    assert (status, out) == (2, "")
    assert told in err


def test_measured_latency_stands_beside_the_front(search, run, tmp_path: Path) -> None:
    """Of plans that were timed in the same store, in the report's table and as a panel of its figure."""
    assert search("--plans", 6)[0] == 0
    file = tmp_path / "search.sqlite"
    (model,) = rows(file, "SELECT fingerprint, dtype, source, revision, num_layers FROM models")
    setting = Setting("Some Processor", 1, 4, "0.10.2", 1, 128, 11)
    timed = [(Plan.parse("0-4"), 0.020), (Plan.parse("0 1 4"), 0.012)]
    with Store.open(file, create=False) as store:
        store.add_latencies(
            model, [(plan, Latency(setting, (seconds,) * 3, (2 * seconds,) * 3, None)) for plan, seconds in timed]
        )
    assert run("report", file, "-o", tmp_path / "report")[0] == 0
    with (tmp_path / "report" / "tables" / "search.csv").open() as table:
        found = {row["plan"]: row["ms to the first token"] for row in csv.DictReader(table)}
    assert {plan: float(ms) for plan, ms in found.items() if ms} == pytest.approx({"0-4": 20.0, "0 1 4": 12.0})
