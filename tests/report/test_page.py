"""`write_report`: the folder it makes, the page, the tables, and what it refuses."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build, family
from jaxpaint.report import write_report
from jaxpaint.report.tables import Table, save
from jaxpaint.results.schema import connect
from tests.helpers.report_store import FakeModel, FakeTask, add_analysis, change, write_store

LAYERS = 8
SHARES = {"full": 1.0, "skip": 0.3, "middle-repeat": 0.1, "parallel": 0.6, CUSTOM: 0.75}


def accuracy(variant: Variant) -> float | None:
    return None if variant.strategy == "skip" and variant.start == 0 else 0.8 * SHARES[variant.strategy]


def plans(*names: str) -> list[Variant]:
    own = Variant(CUSTOM, Plan.parse("0-2 {3 4} 5-7"), LAYERS)
    return [v for name in ("full", *names) for v in family(name, LAYERS)] + [own]


TASKS = (
    FakeTask("lambada_openai", accuracy, documents=200),
    FakeTask("winogrande", lambda v: 0.5, chance=0.5, documents=200),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "study <1>.sqlite"
    return write_store(path, FakeModel(plans("skip", "middle-repeat", "parallel"), TASKS, LAYERS))


@pytest.fixture(scope="module")
def report(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(store, tmp_path_factory.mktemp("out") / "report")


class Page(HTMLParser):
    """The links, drawings and text of a page, and the tags that are not closed."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.anchors: list[str] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if found.get("class") == "drawing":
            self.pictures.append(found)
        if found.get("href"):
            self.links.append(str(found["href"]))
        if found.get("id"):
            self.anchors.append(str(found["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)


def rows(report: Path, name: str) -> list[dict[str, str]]:
    with (report.parent / "tables" / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_page_needs_nothing_but_itself(report: Path) -> None:
    page, source = Page(report), report.read_text(encoding="utf-8")
    assert not page.open
    assert not page.tags & {"link", "iframe", "img"}
    assert len(page.pictures) == 6  # every plan, figures 4, 5, 8, 11 and the trade-off
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in page.pictures)
    assert len(page.anchors) == len(set(page.anchors))
    for link in page.links:
        assert link[1:] in page.anchors if link.startswith("#") else link.startswith("data:text/csv;base64,"), link[:80]
    assert not re.search(
        r'<script[^>]* src=|url\("?(?!#)', re.sub(r"<script>.*?</script>", "", source, flags=re.DOTALL)
    )


@pytest.mark.slow
def test_figures_are_numbered_as_they_come_with_the_papers_number_beside(report: Path) -> None:
    numbers = re.findall(r"Figure (\d+)(?: \(paper: Figure (\d+)\))?\. ", Page(report).text)
    assert [own for own, _ in numbers] == [str(number) for number in range(1, 7)]
    assert [papers for _, papers in numbers] == ["", "4", "5", "8", "11", ""]


def test_figures_are_svg_and_pdf(report: Path) -> None:
    figures = report.parent / "figures"
    stems = {file.stem for file in figures.iterdir()}
    assert {"figure-04-skip", "figure-05-middle-repeat", "figure-08-parallel", "figure-11-all-strategies"} < stems
    for stem in stems:
        assert "<svg" in (figures / f"{stem}.svg").read_text(encoding="utf-8")
        assert (figures / f"{stem}.pdf").read_bytes().startswith(b"%PDF")


def test_the_page_opens_with_what_was_run(report: Path, store: Path, tmp_path: Path) -> None:
    text = Page(report).text
    assert text.index("example/Tiny-Model, 8 layers, float32") < text.rindex("Plans, best first")
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(store.read_bytes())
    environment = {"device": "Some GPU", "num_devices": 2, "python": "3.11", "versions": {"numpy": "2", "jax": "0.10"}}
    command = "/home/someone/bin/jaxpaint study --model 'a b' --store s"
    change(
        copy,
        f"INSERT INTO environments VALUES (1, '{json.dumps(environment)}')",
        "UPDATE cells SET environment = 1, finished = '2026-11-0' || (1 + id % 3) || 'T10:00:00+00:00'",
        f"""INSERT INTO runs VALUES (1, 'w', '2026-11-01', 1, 1, 1, 1, "{command}")""",
    )
    text = Page(write_report(copy, tmp_path / "out")).text
    assert "Date 2026-11-01 to 2026-11-03 Command jaxpaint study --model 'a b' --store s Documents" in text
    assert "200 of each of lambada_openai, winogrande" in text
    assert "Device 2 × Some GPU Versions jax 0.10, numpy 2, python 3.11" in text


def test_the_questions_that_were_asked_come_after_the_plans(report: Path) -> None:
    text = Page(report).text
    text = text[text.index("Before you read on") :]  # after the contents
    assert text.index("Plans, best first") < text.index("Are the middle layers all doing the same function?")
    assert "holds The paper: The middle layers do different things: repeating one of them is far worse" in text
    assert "Not asked here: questions 1 takes the similarity analysis" in text
    assert "4 takes the strategies random and reverse;" in text
    assert "Does the order of the layers matter?" not in text
    assert {row["question"] for row in rows(report, "answers")} == {"2", "3", "5", "8"}


def test_a_study_of_ones_own_plans_asks_nothing(tmp_path: Path) -> None:
    windows = [Variant(CUSTOM, Plan.of(range(first), range(first + 2, LAYERS)), LAYERS) for first in range(1, 6)]
    task = FakeTask("arc_easy", lambda v: 0.8 if v.strategy == "full" else 0.3 + 0.05 * v.plan.layers[1], chance=0.25)
    report = write_report(
        write_store(tmp_path / "s", FakeModel([build("full", LAYERS), *windows], [task], LAYERS)), tmp_path / "out"
    )
    text = Page(report).text
    assert "questions" not in text
    assert "Not enough data" not in text
    found = rows(report, "plans")
    assert [row["name"] for row in found] == ["full", "0 3-7", "0 1 4-7", "0-2 5-7", "0-3 6 7", "0-4 7"]
    assert "Figure 1. Every plan's score against its cost." in text
    assert "Figure 2. One block of layers left out." in text


def test_the_page_says_what_is_missing_and_left_out(report: Path) -> None:
    text = Page(report).text
    assert "it is left out of the normalised figures, the median and the answers." in text
    assert "1 of 26 results is not finite" in text
    assert "The median is over one benchmark, lambada_openai" in text
    assert "Figure 13: jaxpaint finetune --strategies skip" in text
    assert "Figure 10: --strategies looped-parallel --loops 1-28" in text


@pytest.mark.slow
def test_a_task_that_writes_names_its_cache(tmp_path: Path) -> None:
    """GSM8K under both caches, beside one that scores: no two are called alike, and all say how they were written."""
    tasks = [FakeTask("gsm8k", accuracy, metric="exact_match", num_fewshot=5, kv=kv) for kv in ("exact", "mean")]
    model = FakeModel(plans("parallel"), (*tasks, FakeTask("lambada_openai", accuracy)), LAYERS)
    report = write_report(write_store(tmp_path / "both", model), tmp_path / "out")
    full = {row["task"] for row in rows(report, "full-model")}
    assert full == {"gsm8k kv=exact", "gsm8k kv=mean", "lambada_openai"}
    text = Page(report).text
    assert "gsm8k kv=exact (100 documents, 5-shot, kv=exact)" in text
    assert "score kept on gsm8k kv=mean in parallel" in text.lower()
    assert "kv: what the cache holds while a model writes" in text
    one = write_report(write_store(tmp_path / "one", FakeModel(plans(), tasks[1:], LAYERS)), tmp_path / "out-one")
    assert "gsm8k (100 documents, 5-shot, kv=mean)" in Page(one).text


@pytest.mark.slow
def test_arithmetic_that_is_left_out_is_not_said_to_be_missing(tmp_path: Path) -> None:
    hopeless = FakeTask("gsm8k", lambda v: 0.0, metric="exact_match", kv="exact")
    model = FakeModel(plans("skip", "parallel"), [hopeless, TASKS[0]], LAYERS)
    text = Page(write_report(write_store(tmp_path / "s", model), tmp_path / "out")).text
    assert "Arithmetic (GSM8K), where the paper saw the largest loss, is left out, see the notes." in text
    assert "is not among these benchmarks" not in text


def test_names_are_escaped(report: Path) -> None:
    source = report.read_text(encoding="utf-8")
    assert "study &lt;1&gt;.sqlite" in source
    assert "study <1>" not in source


def test_the_answers_table_holds_the_numbers(report: Path) -> None:
    (row,) = [row for row in rows(report, "answers") if row["measured"].startswith("advantage of skip over middle")]
    assert (row["question"], row["verdict"]) == ("3", "holds")
    # Two numbers of affected layers: skip has no score at the third, and one layer repeated is the full model.
    assert float(row["value"]) == pytest.approx(0.3 - 0.1)
    assert float(row["low"]) < 0.2 < float(row["high"])
    assert "over 2 numbers" in row["measured"]


def test_tables_in_csv_and_markdown(report: Path) -> None:
    scores = rows(report, "scores")
    full = [row for row in scores if row["strategy"] == "full"]
    assert [(row["task"], row["value"], row["normalised score"]) for row in full] == [
        ("lambada_openai", "0.8", "1.0"),
        ("winogrande", "0.5", ""),
    ]
    (bad,) = [row for row in scores if row["status"] == "not finite"]
    assert (bad["strategy"], bad["affected layers"], bad["value"]) == ("skip", "7", "")
    skip = [row for row in rows(report, "strategies") if row["strategy"] == "skip" and row["task"] == "median"]
    assert [(row["affected layers"], float(row["normalised score"])) for row in skip] == [
        ("1", pytest.approx(0.3)),
        ("3", pytest.approx(0.3)),
        ("5", pytest.approx(0.3)),
    ]
    (own,) = rows(report, "beyond-the-paper")
    assert (own["plan"], own["depth"], own["cost"]) == ("0-2 {3 4} 5-7", "7", "8")
    assert float(own["median normalised score"]) == pytest.approx(0.75)
    markdown = (report.parent / "tables" / "beyond-the-paper.md").read_text(encoding="utf-8")
    assert "| custom | 0-2 {3 4} 5-7 | 7 | 8 | 0.75 |" in markdown


def test_tables_hold_hostile_names_as_texts(tmp_path: Path) -> None:
    name = "=1+1|<b>[x](http://e)"
    table = Table("t", "A table", ("task", name), ((name, -0.25), ("-1", None)))
    as_csv, as_markdown = save(table, tmp_path)
    with as_csv.open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["task", f"'{name}"], [f"'{name}", "-0.25"], ["-1", ""]]
    cell = r"=1+1\|\<b\>\[x\](http:\//e)"
    rows = f"| task | {cell} |\n| --- | --- |\n| {cell} | -0.25 |\n| -1 |  |\n"
    assert as_markdown.read_text(encoding="utf-8") == f"# A table\n\n{rows}"


@pytest.mark.slow
def test_equal_stores_make_equal_reports(store: Path, report: Path, tmp_path: Path) -> None:
    again = write_report(store, tmp_path / "again")
    files = sorted(file.relative_to(report.parent) for file in report.parent.rglob("*") if file.is_file())
    assert files == sorted(file.relative_to(again.parent) for file in again.parent.rglob("*") if file.is_file())
    assert [f for f in files if (report.parent / f).read_bytes() != (again.parent / f).read_bytes()] == []


def small(path: Path, *tasks: FakeTask) -> Path:
    return write_store(path, FakeModel([build("full", LAYERS)], tasks or (FakeTask("t", lambda v: 0.5),), LAYERS))


def test_an_earlier_report_is_replaced(tmp_path: Path) -> None:
    store, out = small(tmp_path / "s"), tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    write_report(store, out)
    change(store, "UPDATE models SET source = 'example/Renamed'")
    assert "Renamed" in write_report(store, out).read_text()
    assert sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith("s")) == ["out"]


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    store, out = small(tmp_path / "s"), tmp_path / "out"
    write_report(store, out)
    (out / "notes.txt").write_text("mine")
    before = (out / "report.html").read_bytes()
    with pytest.raises(UserError, match="left alone"):
        write_report(store, out)
    assert ((out / "notes.txt").read_text(), (out / "report.html").read_bytes()) == ("mine", before)


def test_a_link_to_a_report_stays_a_link(tmp_path: Path) -> None:
    store, real, out = small(tmp_path / "s"), tmp_path / "disk" / "real", tmp_path / "out"
    write_report(store, real)
    out.symlink_to(real)
    change(store, "UPDATE models SET source = 'example/Renamed'")
    assert "Renamed" in write_report(store, out).read_text()
    assert out.is_symlink()
    assert [file.name for file in real.parent.iterdir()] == ["real"]
    (real / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="left alone"):
        write_report(store, out)
    assert (real / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "marker",
    [
        *("", "[]", "[" * 100_000, "\udcff", '{"files": 5}', '{"files": {"report.html": 1}}', '{"files": [["x"]]}'),
        *('{"files": ["../x"]}', '{"files": ["notes/../../x"]}'),
    ],
)
def test_a_folder_with_a_strange_marker_is_left_alone(tmp_path: Path, marker: str) -> None:
    store, out = small(tmp_path / "s"), tmp_path / "out"
    write_report(store, out)
    (out / ".jaxpaint-report.json").write_text(marker, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UserError, match="left alone"):
        write_report(store, out)


def test_links_in_a_report_are_somebody_s(tmp_path: Path) -> None:
    store, out = small(tmp_path / "s"), tmp_path / "out"
    write_report(store, out)
    (tmp_path / "talk").mkdir()
    (out / "talk").symlink_to(tmp_path / "talk")
    with pytest.raises(UserError, match="left alone"):
        write_report(store, out)
    assert (out / "talk").is_symlink()


def test_an_interrupted_report_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, out = small(tmp_path / "s"), tmp_path / "out"
    before = write_report(store, out).read_bytes()
    (out / "summary.txt").unlink()  # else it would stay as it is

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jaxpaint.report.page.answers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(store, out)
    assert (out / "report.html").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    connect(tmp_path / "s", create=True).close()
    with pytest.raises(UserError, match="holds no results yet; run `jaxpaint study"):
        write_report(tmp_path / "s", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_file_and_another_database_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "s", tmp_path / "out")
    sqlite3.connect(tmp_path / "other").executescript("CREATE TABLE t (x)")
    with pytest.raises(UserError, match="not a results store"):
        write_report(tmp_path / "other", tmp_path / "out")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM cells WHERE plan = (SELECT id FROM plans WHERE text = '0-7')",
        "UPDATE cells SET status = 'not finite' WHERE plan = (SELECT id FROM plans WHERE text = '0-7')",
    ],
)
def test_a_store_without_the_full_model_says_what_to_run(tmp_path: Path, statement: str) -> None:
    plans = [*family("full", LAYERS), *family("skip", LAYERS)]
    store = write_store(tmp_path / "s", FakeModel(plans, [FakeTask("arc_easy", lambda v: 0.5)], LAYERS))
    change(store, "PRAGMA foreign_keys = OFF", "DELETE FROM metrics WHERE cell = 1", statement)
    with pytest.raises(UserError, match=r"no finished result of the full model.*--tasks arc_easy --store"):
        write_report(store, tmp_path / "out")


def test_a_study_that_only_analysed_has_a_report(tmp_path: Path) -> None:
    import numpy as np

    store = small(tmp_path / "s")
    add_analysis(store, build("full", LAYERS), "similarity", np.eye(9))
    change(store, "PRAGMA foreign_keys = OFF", "DELETE FROM cells")
    page = Page(write_report(store, tmp_path / "out"))
    assert len(page.pictures) == 1
    assert "Figure 1 (paper: Figure 3). Similarity of hidden states" in page.text


def test_a_model_without_its_full_model_is_named(tmp_path: Path) -> None:
    task = FakeTask("t", lambda v: 0.5)
    good = FakeModel(family("full", LAYERS), [task], LAYERS)
    other = FakeModel(family("skip", LAYERS), [task], LAYERS, source="x/Headless", fingerprint="e" * 64)
    page = Page(write_report(write_store(tmp_path / "s", good, other), tmp_path / "out"))
    assert "Left out, because the full model has no result there: Headless." in page.text


@pytest.mark.slow
def test_two_models_of_one_name_have_folders_of_their_own(tmp_path: Path) -> None:
    task = FakeTask("t", lambda v: 0.8 if v.strategy == "full" else 0.4)
    models = [
        FakeModel([*family("full", LAYERS), *family("skip", LAYERS)], [task], LAYERS, fingerprint=c * 64) for c in "ab"
    ]
    report = write_report(write_store(tmp_path / "s", *models), tmp_path / "out")
    page = Page(report)
    assert {"Tiny-Model float32 aaaaaaaa", "Tiny-Model float32 bbbbbbbb"} <= set(page.words)
    assert len(list(report.parent.rglob("figure-04-skip.pdf"))) == 2
    assert (report.parent / "figures" / "figure-12-skip-across-models.svg").is_file()


def test_documents_that_only_some_plans_were_scored_on(tmp_path: Path) -> None:
    plans = [*family("full", LAYERS), *family("skip", LAYERS)]
    store = write_store(tmp_path / "s", FakeModel(plans, [FakeTask("t", lambda v: 0.5)], LAYERS))
    change(
        store,
        "DELETE FROM document_scores WHERE cell = 2 AND document >= 40",
        "UPDATE cells SET documents = 40 WHERE id = 2",
    )
    report = write_report(store, tmp_path / "out")
    assert "1 of 5 results covers fewer documents than the full model's" in Page(report).text
    # The first half of the documents are right under every plan: the full model scores 1 on those 40, not 0.5.
    normalised = [float(row["normalised score"]) for row in rows(report, "scores")]
    assert normalised == pytest.approx([1.0] * 5)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write"):
        write_report(small(tmp_path / "s"), Path("/proc/self/report"))


def test_an_out_that_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small(tmp_path / "s")
    (tmp_path / "file").write_text("")
    for out, message in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "out", "cannot write")):
        with pytest.raises(UserError, match=message):
            write_report(store, out)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match="a folder of its own"):
        write_report(store, Path("."))


def test_neither_jax_nor_lm_eval_is_imported(tmp_path: Path) -> None:
    store = small(tmp_path / "s")
    code = (
        "import sys, json; from pathlib import Path; from jaxpaint.report import write_report;"
        "early = set(sys.modules); write_report(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(json.dumps([sorted(early), sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, store, tmp_path / "out"], capture_output=True, text=True, check=True
    )
    early, late = json.loads(done.stdout)
    assert not {"numpy", "matplotlib", "jinja2"} & set(early)
    assert not {"jax", "flax", "lm_eval", "torch", "transformers", "datasets", "pandas"} & set(late)
