"""jaxpaint study: what it says before, while and after it runs; every mistake is one line, told before the work."""

from __future__ import annotations

import csv
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from jaxpaint.engine import model, source
from jaxpaint.studies import analysis_estimate
from jaxpaint.studies import estimate as study_estimate
from jaxpaint.studies import run as study
from jaxpaint.studies.analysis_estimate import AnalysisRates
from jaxpaint.studies.estimate import Rates, plan_work
from tests.helpers.cli_fixtures import Terminal
from tests.helpers.tiny_tasks import make_task

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


@pytest.fixture
def settings(store, tmp_path) -> Path:
    """A TOML file: five plans (the full one, two starts of skip and of parallel) on two tiny tasks."""
    tasks = [str(make_task(tmp_path, name)) for name in ("tiny_choice", "tiny_word")]
    file = tmp_path / "study.toml"
    file.write_text(
        f'model = "{store}"\ntasks = {tasks}\nstrategies = ["skip", "parallel"]\nlimit = 4\ndtype = "float32"\n'
        f'store = "{tmp_path / "study.sqlite"}"\nbatch-tokens = 256\n'
    )
    return file


def finished(file: Path) -> set[tuple[str, str]]:
    """Plans and tasks that a results store has finished."""
    query = (
        "SELECT p.text, t.name FROM cells AS c JOIN plans AS p ON p.id = c.plan JOIN tasks AS t ON t.id = c.task "
        "WHERE c.status = 'finished'"
    )
    with closing(sqlite3.connect(file)) as connection:
        return set(connection.execute(query))


@pytest.mark.smoke
def test_it_runs_what_the_settings_say_and_continues(run, settings, tmp_path) -> None:
    file = tmp_path / "study.sqlite"
    status, out, err = run("study", settings, "--tasks", tmp_path / "tiny_word.yaml", "--strategies", "skip")
    assert (status, err) == (0, "")
    assert out.startswith(f"{file}: 3 plans, 3 of 3 results finished; 12 scores with ")
    assert finished(file) == {(plan, "tiny_word") for plan in ("0-4", "0", "0 1 4")}
    before = scores(file)

    status, out, err = run("study", settings, "--plans-file", plans_file(tmp_path, "0 2*3 4 # twice\n0-4\n"))
    assert (status, err) == (0, "")
    assert "6 plans, 12 of 12 results finished" in out
    plans = {"0-4", "0", "0 1 4", "0 {1-4}", "0 1 {2 3} 4", "0 2*3 4"}
    assert {plan for plan, _ in finished(file)} == plans
    assert {task for _, task in finished(file)} == {"tiny_word", "tiny_choice"}
    assert before.items() <= scores(file).items()

    assert run("study", settings)[1] == f"{file}: 5 plans, 10 of 10 results finished; there was nothing to compute\n"


@pytest.mark.slow
def test_several_models_are_compared_in_one_report(run, settings, store, tmp_path) -> None:
    short = tmp_path / "short"
    assert run("compose", "--model", store, "--layers", "0 2-4", "--output", short)[0] == 0
    command = ("study", settings, "--models", f"{store},{short}", "--strategies", "skip", "--report", tmp_path / "out")
    status, out, err = run(*command)
    assert (status, err) == (0, "")
    file = tmp_path / "study.sqlite"
    assert f"{file}: 2 models\n  {store}: 3 plans, 6 of 6 results finished" in out
    assert f"\n  {short}: 3 plans, 6 of 6 results finished" in out
    assert {plan for plan, _ in finished(file)} == {"0-4", "0 1 4", "0", "0-3", "0 1 3"}
    with open(tmp_path / "out" / "tables" / "across-tasks.csv") as table:
        columns, *tasks = csv.reader(table)
    assert len(columns) == 6  # the task, its metric, and of each model its score with its error
    assert {task[0] for task in tasks} == {"tiny_choice", "tiny_word"}

    assert "nothing to compute" in run(*command)[1]
    for mistake in (["--model", store], ["--revision", "main"]):
        status, _, err = run(*command, *mistake)
        assert status == 2
        assert "leave one of the two away" in err


def plans_file(folder: Path, text: str) -> Path:
    (folder / "plans.txt").write_text(text)
    return folder / "plans.txt"


def scores(file: Path) -> dict[tuple[int, int], float]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT cell, request, loglikelihood FROM scores")
        return {(cell, request): value for cell, request, value in rows}


@pytest.mark.slow
def test_shards_together_are_the_study(run, settings, tmp_path) -> None:
    whole = tmp_path / "study.sqlite"
    assert run("study", settings)[0] == 0
    parts = [tmp_path / f"part-{index}.sqlite" for index in (1, 2)]
    for index, part in enumerate(parts, 1):
        assert run("study", settings, "--shard", f"{index}/2", "--store", part)[0] == 0
    assert not finished(parts[0]) & finished(parts[1])
    status, out, _ = run("results", "--merge", tmp_path / "joined.sqlite", *parts)
    assert (status, out) == (0, f"merged 2 stores into {tmp_path / 'joined.sqlite'}\n")
    assert finished(tmp_path / "joined.sqlite") == finished(whole)


class TestDryRun:
    @pytest.fixture(autouse=True)
    def no_weights(self, monkeypatch):
        """Weights are not read, the device not timed: its rates are 1 µs a layer, 2 µs a head."""

        def read(*_, **__):
            raise AssertionError("weights are read")

        monkeypatch.setattr(model, "load", read)
        monkeypatch.setattr(source, "load", read)
        monkeypatch.setattr(study_estimate, "measured_rates", lambda *_: Rates(1e-6, 2e-6))

    def lines(self, out: str) -> dict[str, str]:
        return {line[:8].strip() or line[8:].split()[0]: line[8:] for line in out.splitlines()}

    def test_what_it_counts(self, run, settings, tmp_path) -> None:
        status, out, err = run("study", settings, "--dry-run")
        assert (status, err) == (0, "")
        lines = self.lines(out)
        assert lines["model"].startswith("5 layers, ")
        assert lines["plans"] == "5 plans (5 variants of strategies)"
        # Layer 0, then nothing, or {1-4}, or 1 and then 4, 2 3 4 or {2 3} 4.
        assert lines["layers"] == "13 applications a token, plan by plan 19 (1.5 x)"
        assert lines["tasks"].startswith("tiny_choice: 4 documents, ")
        assert lines["tiny_word:"].startswith("tiny_word: 4 documents, 4 requests, ")
        assert lines["time"] == "about 1 s (from one batch on this cpu), and compiling"
        assert "parameters" in lines["memory"]
        distinct, separate = (int(n.replace(",", "")) for n in lines["tokens"].split() if n.replace(",", "").isdigit())
        assert distinct < separate
        assert f"{13 * distinct:,} applications" in lines["work"]
        assert f"text by text {19 * separate:,} " in lines["work"]
        assert not (tmp_path / "study.sqlite").exists()

    def test_more_than_is_left(self, run, settings, monkeypatch) -> None:
        monkeypatch.setattr(study_estimate, "memory_left", lambda: 1 << 15)
        assert self.lines(run("study", settings, "--dry-run")[1])["memory"].endswith(": more than the 0 MiB left here")

    def test_the_numbers_of_the_engine(self, run, settings, tmp_path, monkeypatch) -> None:
        """What a dry run promises is what the run then records."""
        promised = self.lines(run("study", settings, "--dry-run")[1])["work"]
        monkeypatch.undo()
        assert run("study", settings)[0] == 0
        with closing(sqlite3.connect(tmp_path / "study.sqlite")) as connection:
            distinct, separate = connection.execute("SELECT sum(distinct_work), sum(separate) FROM runs").fetchone()
        assert promised.startswith(f"{distinct:,} applications, plan by plan, text by text {separate:,} ")

    def test_shards(self, run, settings) -> None:
        lines = self.lines(run("study", settings, "--shard", "2/2", "--dry-run")[1])
        assert lines["plans"].startswith("5 plans")
        plans, applications = map(int, re.fullmatch(r"2 of 2: (\d+) plans, (\d+) .*", lines["shard"]).groups())
        assert 1 <= plans <= 4
        assert 5 <= applications <= 8
        assert "together" in lines["shards"]

    def test_analyses(self, run, settings, tmp_path, monkeypatch) -> None:
        rates = AnalysisRates(1e-3, 2e-3, 1e-3)
        monkeypatch.setattr(study_estimate, "analysis_rates", lambda *_: rates)
        on = ("--analysis-task", tmp_path / "tiny_word.yaml", "--analysis-samples", 4, "--dry-run")
        lines = self.lines(run("study", settings, "--analyses", "similarity,variance", *on)[1])
        assert lines["also"] == f"similarity, variance of 5 plans on 4 texts of {tmp_path / 'tiny_word.yaml'}"
        # The embeddings; 0; {1-4}; 1; 4; 2 3 4; {2 3} 4: ten states. Their pairs, by depth: 1 2 3 3 4 4 5 6 4 5.
        assert re.fullmatch(
            r"4 texts, \d+ tokens: 13 applications a token, 10 states and 37 pairs of states", lines["states"]
        )
        # 4 rows of 32 positions, each with 13 layers, 10 states and 37 pairs.
        assert lines["about"] == "about 9 s for analyses (from one batch on this cpu), and compiling"
        # The full model runs once more to answer, and once to be fitted.
        lines = self.lines(run("study", settings, "--analyses", "entropy,clock,ridge_lens", *on)[1])
        assert lines["states"].endswith(": 23 applications a token, 10 states")
        with monkeypatch.context() as little:  # of memory: each of the fits' 2 and 6 regressions is a run by itself
            little.setattr("jaxpaint.analysis.fits.memory_left", lambda: 0)
            little.setattr(analysis_estimate, "SHOWN_BYTES", 0)
            lines = self.lines(run("study", settings, "--analyses", "clock,ridge_lens", *on)[1])
        assert lines["states"].endswith(f": {13 + 5 + 8 * 5} applications a token, 10 states, 0.0 GB for fits")
        some = ("--analyses", "variance", "--analysis-strategies", "full", "--strategies", "skip")
        lines = self.lines(run("study", settings, *some, *on)[1])
        assert lines["also"].startswith("variance of 1 plan on 4 texts of ")
        assert lines["states"].endswith(": 5 applications a token, 6 states")

    @pytest.mark.slow
    def test_analyses_that_the_store_has(self, run, settings, tmp_path, monkeypatch) -> None:
        monkeypatch.undo()
        on = ("--analyses", "variance", "--analysis-task", tmp_path / "tiny_word.yaml", "--analysis-samples", 4)
        assert run("study", settings, *on, "--analysis-strategies", "full")[0] == 0
        lines = self.lines(run("study", settings, *on, "--dry-run")[1])
        assert lines["states"].endswith(", 1 of 5 plans analysed")
        assert re.fullmatch(r"about \d+ s for analyses \(from one batch on this cpu\), and compiling", lines["about"])
        assert run("study", settings, *on)[0] == 0
        lines = self.lines(run("study", settings, *on, "--dry-run")[1])
        assert lines["states"].endswith(", 5 of 5 plans analysed")
        assert "about" not in lines

    @pytest.mark.slow
    def test_a_store_that_has_some(self, run, settings, monkeypatch) -> None:
        monkeypatch.undo()
        assert run("study", settings, "--strategies", "skip")[0] == 0
        lines = self.lines(run("study", settings, "--dry-run")[1])
        assert lines["store"].endswith("study.sqlite has finished 3 of 5 plans")
        assert "as fast as the runs in the store" in lines["time"]
        more = self.lines(run("study", settings, "--dry-run", "--limit", 5)[1])
        assert more["store"].endswith("has finished 0 of 5 plans")
        assert run("study", settings)[0] == 0
        lines = self.lines(run("study", settings, "--dry-run")[1])
        assert lines["store"].endswith("has finished 5 of 5 plans")
        assert "time" not in lines

    def test_plans_are_counted_where_tasks_cannot_be_loaded(self, run, settings) -> None:
        status, out, err = run("study", settings, "--tasks", "lambada_opena", "--dry-run")
        assert status == 2
        assert "5 plans" in out
        assert err.startswith("jaxpaint: error: unknown task 'lambada_opena'; near names: lambada_openai")
        assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_the_rate_is_measured(store, settings, run) -> None:
    status, out, err = run("study", settings, "--dry-run")
    assert (status, err) == (0, "")
    assert "time    about " in out


def test_ctrl_c(run, settings, tmp_path, monkeypatch) -> None:
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "run_study", interrupted)
    assert run("study", settings) == (
        130,
        "",
        f"jaxpaint: interrupted; {tmp_path / 'study.sqlite'} keeps what is done, and the same command continues\n",
    )


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own(run, settings, tmp_path, cache) -> None:
    """Wherever it meets the process after the model is loaded, what is done is kept."""
    file = tmp_path / "study.sqlite"
    process = subprocess.Popen(
        [sys.executable, "-m", "jaxpaint.cli", "study", str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HF_DATASETS_CACHE": str(cache / "datasets")},
        # Tests that a shell runs in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1].endswith("keeps what is done, and the same command continues")
    assert "Traceback" not in err
    assert run("study", settings)[0] == 0
    assert len(finished(file)) == 10


def test_a_terminal_shows_progress(run, settings, monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("study", settings)[0] == 0
    last = terminal.getvalue().rstrip().split("\r")[-1]
    assert last.startswith("study: 100%")
    assert "tokens/s" in last


def test_a_report_at_the_end(run, settings, tmp_path) -> None:
    status, out, err = run("study", settings, "--report", tmp_path / "report")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"report: {tmp_path / 'report' / 'report.html'}"
    assert "<html" in (tmp_path / "report" / "report.html").read_text().lower()


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--strategies", "skp"], ("--strategies: unknown strategy 'skp'", "did you mean skip?")),
            (["--starts", "9-1"], ("--starts: the range '9-1' runs backwards",)),
            (["--strategies", "random", "--seeds", "0"], ("--seeds is '0'; expected how many seeds",)),
            (["--loops", "1-28"], ("--loops is of strategy looped-parallel", "add it")),
            (["--limit", "0"], ("--limit is 0",)),
            (["--limit", "many"], ("--limit", "'many'", "jaxpaint study --help")),
            (["--num-fewshot", "-1"], ("--num-fewshot is -1",)),
            (["--batch-tokens", "0"], ("--batch-tokens is 0",)),
            (["--tensor-parallel", "0"], ("--tensor-parallel is 0",)),
            (["--shard", "3/2"], ("--shard is '3/2'", "1/2 to 2/2")),
            (["--analyses", "similarty"], ("--analyses: unknown analysis", "similarity")),
            (["--preset", "papr"], ("--preset is 'papr'; expected one of quick, paper",)),
            (["--store", "absent/study.sqlite"], ("--store", "absent does not exist")),
            (["--store", "."], ("--store . is a folder",)),
            (["--report", "study.toml"], ("--report", "is a file")),
            (["--plans-file", "absent"], ("cannot read absent",)),
            (["--data", "tiny_choice"], ("expected TASK=FILE",)),
            (["--model", "no/such/folder"], ("no folder no/such/folder",)),
            (["--nonsense"], ("unrecognized arguments: --nonsense",)),
        ],
    )
    def test_are_told_before_anything_is_done(
        self, options, expected, refused, settings, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        refused("study", settings, *options, expected=expected)
        assert not (tmp_path / "study.sqlite").exists()

    def test_missing(self, refused, store) -> None:
        refused("study", "--tasks", "hellaswag", expected=("a study needs a model", "--model", "--preset demo"))
        refused("study", "--model", store, expected=("a study needs a store", "--store"))
        refused("study", "--model", store, "--store", "s.sqlite", expected=("a study needs tasks", "--tasks"))
        refused("study", "absent.toml", expected=("absent.toml cannot be read",))

    def test_what_does_not_fit_the_model(self, refused, settings, tmp_path) -> None:
        refused("study", settings, "--starts", "0-2", expected=("start 2 is out of range", "5 layers"))
        refused("study", settings, "--plans-file", plans_file(tmp_path, "0-5\n"), expected=("plan '0-5'", "layer 5"))

    def test_a_store_that_is_none(self, refused, settings, tmp_path) -> None:
        (tmp_path / "study.sqlite").write_text("nothing of the kind")
        refused("study", settings, expected=("study.sqlite", "not a results store"))
        refused("results", tmp_path / "study.sqlite", expected=("not a results store",))


def test_plans_of_the_fixture(settings) -> None:
    """The counts in these tests, by the counting that `test_estimate` proves."""
    from jaxpaint.studies.settings import spec_from

    work = plan_work([variant.plan for variant in spec_from({}, settings).variants(5)])
    assert (work.plans, work.distinct, work.separate) == (5, 13, 19)
