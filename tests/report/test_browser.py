"""The page in a browser: three widths, light and dark, from a copied file alone; and on paper.

Playwright drives a Chromium that the machine has; where either is missing, these are skipped.
"""

from __future__ import annotations

import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build, family
from jaxpaint.report import write_report
from jaxpaint.results.document_texts import DocumentText
from tests.helpers.report_store import FakeModel, FakeTask, add_texts, write_store

pytestmark = pytest.mark.slow
LAYERS = 16
SHARES = {"full": 1.0, "skip": 0.3, "middle-repeat": 0.1, "random": 0.8, "parallel": 0.6, "reverse": 0.5}
ONES = 12  # windows of one layer
QUESTION = "<script>document.title = 'broken'</script>\nWhich? " + "w" * 150 + " two"


def accuracy(variant: Variant) -> float:
    if variant.strategy == CUSTOM:
        return 0.4 + 0.02 * next(layer for layer in range(LAYERS) if layer not in variant.plan.layers)
    return 0.8 * SHARES[variant.strategy]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file in a folder of its own, as it comes by mail."""
    folder = tmp_path_factory.mktemp("report")
    plans = [v for name in SHARES for v in family(name, LAYERS, seeds=range(2))]
    plans += [
        Variant(CUSTOM, Plan.of(range(first), range(first + width, LAYERS)), LAYERS)
        for width, last in ((1, ONES), (2, 10))
        for first in range(1, 1 + last)
    ]
    tasks = [
        FakeTask("a_task_whose_name_is_long_<b>", accuracy, documents=60),
        FakeTask("two", accuracy, chance=0.25, documents=60),
    ]
    store = write_store(folder / "study.sqlite", FakeModel([build("full", LAYERS), *plans[1:]], tasks, LAYERS))
    add_texts(store, tasks[0].name, {number: DocumentText(QUESTION, f"<b>{number}</b>") for number in range(60)})
    alone = tmp_path_factory.mktemp("mailed") / "report.html"
    shutil.copy(write_report(store, folder / "report"), alone)
    return alone


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: apt install chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Any]:
    """Opens the page at a width in a scheme; at the end nothing was complained of or asked of a network."""
    complaints: list[str] = []
    contexts = []

    def open_page(width: int, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url.startswith(("file:", "data:")) else complaints.append(request.url),
        )
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-drawn=true]")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, place: int) -> list[str]:
    """The visible cells of a column of the table of plans."""
    cells = page.locator(f"table.plans tbody tr:visible td:nth-child({place})")
    return [text.split("\n")[0] for text in cells.all_inner_texts()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 800, 400])
def test_the_page_is_no_wider_than_the_window(opened: Any, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    for details in page.locator("details").all():
        details.evaluate("each => each.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = "getComputedStyle(document.body).backgroundColor", "getComputedStyle(document.body).color"
    paper, ink = (sum(map(int, re.findall(r"\d+", page.evaluate(colour))[:3])) for colour in colours)
    assert (paper > ink) == (scheme == "light")
    sizes = page.evaluate(
        "[...document.querySelectorAll('.drawing > svg')].filter(svg => svg.clientWidth).map(svg =>"
        " 10 * svg.clientWidth / svg.viewBox.baseVal.width)"
    )
    assert len(sizes) >= 6
    assert all(9.5 <= size <= 16 for size in sizes)  # the letters of figures, in pixels
    contents = page.locator("nav.contents").bounding_box()
    assert (contents["width"] < width / 3) == (width == 1280)


def test_tables_are_sorted_and_filtered(opened: Any) -> None:
    page = opened(1280)
    first = column(page, 1)
    assert first[0] == "full model"
    scores = list(map(float, column(page, 5)))
    assert scores == sorted(scores, reverse=True)
    head = page.locator("table.plans th", has_text="cost")
    head.click()
    costs = list(map(float, column(page, 3)))
    assert (head.get_attribute("aria-sort"), costs) == ("descending", sorted(costs, reverse=True))
    head.click()
    assert (head.get_attribute("aria-sort"), list(map(float, column(page, 3)))) == ("ascending", sorted(costs))
    box = page.locator(".plans-first input[type=search]")
    box.fill("MIDDLE-repeat start=3")
    assert column(page, 1) == ["middle-repeat start=3"]
    box.fill("")
    assert len(column(page, 1)) == len(first)
    page.locator("#table-scores summary").click()
    rows = page.locator("#table-scores tbody tr:visible")
    assert rows.count() > 2 * len(first) - 10
    page.locator("#table-scores input[type=search]").fill("a_task custom")
    assert rows.count() == ONES + 10


def test_a_point_leads_to_its_plan_and_documents(opened: Any) -> None:
    page = opened(1280)
    chart = page.locator("figure.explored").first
    points = chart.locator(".live g.mark-symbol.role-mark path")
    assert points.count() == len(column(page, 1))
    chosen = page.locator(".chosen")
    assert not chosen.is_visible()
    page.get_by_role("button", name="skip start=1", exact=True).click()
    assert "Right by the full model alone, documents 34: 14, 15, 16" in chosen.inner_text()
    assert "a_task_whose_name_is_long_<b>" in chosen.inner_text()
    row = page.locator("tr.is-chosen")
    assert row.locator("td").first.inner_text().startswith("skip start=1")
    (link,) = chosen.locator("a").all()
    assert page.locator(link.get_attribute("href")).count() == 1
    chosen.get_by_role("button", name="close").click()
    assert not chosen.is_visible()
    cells = page.locator("figure.explored[data-map='0'] .live g.mark-rect.role-mark path")
    assert cells.count() >= ONES + 10
    cells.last.click(position={"x": 4, "y": 4})  # beside its number
    assert chosen.is_visible()
    assert page.locator("tr.is-chosen").count() == 1


@pytest.mark.parametrize("width", [1280, 400])
def test_documents_that_flipped_are_shown_as_texts(opened: Any, width: int) -> None:
    page = opened(width)
    page.get_by_role("button", name="skip start=1", exact=True).click()
    lost = page.locator(".chosen details", has_text="Right by the full model alone: 34")
    assert not lost.locator("li").first.is_visible()  # many, which a click opens
    lost.locator("summary").click()
    number, question, answer = lost.locator("li").first.locator("> *").all()
    assert (number.inner_text(), answer.inner_text()) == ("14", "<b>14</b>")
    assert question.inner_text() == QUESTION
    assert lost.locator("li").count() == 34
    assert "broken" not in page.title()
    assert page.locator(".chosen script, .chosen li b b").count() == 0
    chosen = page.locator(".chosen")
    assert chosen.evaluate("each => each.scrollWidth") <= chosen.evaluate("each => each.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_axes_are_chosen_and_one_task_shown(opened: Any) -> None:
    page = opened(800)
    across, up = page.locator("figure.explored select").all()
    assert across.locator("option").all_inner_texts() == [
        "cost: layer applications",
        "depth: layers on the longest chain",
    ]
    up.select_option("1")
    across.select_option("depth")
    chart = page.locator("figure.explored").first.locator(".live")
    chart.get_by_text("depth: layers on the longest chain").last.wait_for()
    chart.locator("text", has_text="a_task_whose_name_is_long_<b>").wait_for()


def test_hovering_shows_a_plans_numbers(opened: Any) -> None:
    page = opened(1280)
    page.locator("figure.explored .live g.mark-symbol.role-mark path").last.hover()
    told = page.locator("#vg-tooltip-element")
    told.get_by_text("less full").wait_for()
    assert "cost" in told.inner_text()


def test_the_csv_is_in_the_page(opened: Any, tmp_path: Path) -> None:
    page = opened(800)
    with page.expect_download() as download:
        page.locator(".plans-first .download a").click()
    download.value.save_as(tmp_path / "plans.csv")
    assert download.value.suggested_filename == "plans.csv"
    assert (tmp_path / "plans.csv").read_text().startswith("rank,strategy,name,plan,cost,depth")


def test_printed_it_is_open_and_static(opened: Any) -> None:
    page = opened(1280, "dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator(".live .view").first.is_visible()
    assert page.locator("figure.explored .drawing > svg").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    pdf = page.pdf(prefer_css_page_size=True)
    streams = re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL)
    assert sum(len(_inflated(stream)) for stream in streams) > 10_000
    assert pdf.count(b"/MediaBox [0 0 59") == pdf.count(b"/MediaBox")  # A4 is 595 points wide
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0


def _inflated(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_without_scripts_the_page_is_whole(browser: Any, page_file: Path) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 400, "height": 900})
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("figure.explored .drawing > svg").first.is_visible()
    assert not page.locator(".live").first.is_visible()
    assert page.locator("table.plans tbody tr").count() > 20
    context.close()
