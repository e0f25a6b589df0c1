"""jaxpaint search: what it prints and writes, again and after mistakes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from jaxpaint.plans.plan import Plan
from jaxpaint.results.latency import Latency, Setting
from jaxpaint.results.store import Store
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
    for budget, told in (("latency=0.8", "is not known before it is measured"), ("cost=0.1", "leaves no layer of 5")):
        status, _, err = search(budget=budget)
        assert status == 2
        assert told in err


def test_tasks_that_write(search, tmp_path: Path) -> None:
    status, _, err = search(tasks=make_task(tmp_path, "tiny_write", documents=20))
    assert status == 2
    assert "has the model write its answers" in err


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
