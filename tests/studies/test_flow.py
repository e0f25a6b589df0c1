"""Flows kept in a store: what is missing is added, ended commands go on, and a report is made of them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import jaxpaint
from jaxpaint.analysis import flow as analysis
from jaxpaint.analysis.asking import asked
from jaxpaint.analysis.story import stories
from jaxpaint.painter.facts import facts
from jaxpaint.plans.plan import Plan
from jaxpaint.plans.strategies import CUSTOM, Variant, build
from jaxpaint.report import write_report
from jaxpaint.report.data import read_store
from jaxpaint.results import merge
from jaxpaint.results.flow import ROLES
from jaxpaint.results.store import Store
from jaxpaint.studies import flow as study
from jaxpaint.studies.cells import register
from jaxpaint.studies.flow import kept_flows, kept_stories, telling, told_before

TEXTS = ("0-15", "0-3 {4-11}*2 12-15", "0-4 12-15", "15-0")

STORY = r'<svg [^>]*role="application".*?</svg>'


@pytest.fixture(scope="module")
def painter() -> jaxpaint.Model:
    return jaxpaint.load("painter-16", dtype="float32")


def _variants() -> list[Variant]:
    full = build("full", 16)
    return [full, *(Variant(CUSTOM, Plan.parse(text), 16) for text in TEXTS[1:])]


def _kept(painter: jaxpaint.Model, file: Path, **how):
    to_ask = asked(painter, facts()[:12], **how)
    with Store.open(file, create=True) as store:
        about = register(store, painter, _variants(), [])
        plans = dict(zip(about.plan_ids, about.plans, strict=True))
        found, new = kept_flows(painter, store, about.model_id, plans, to_ask, progress=lambda total: lambda *_: None)
        place = telling(painter, to_ask, list(found.values()))
        told = kept_stories(painter, store, about.model_id, plans, to_ask, place)
    return list(found.values()), list(told.values()), new


@pytest.mark.slow
def test_14_an_ended_command_adds_what_is_missing(painter, tmp_path: Path, monkeypatch) -> None:
    """Ended after the first part; the second run asks for the others alone, and all digits are those of one run."""
    monkeypatch.setattr(study, "PLANS_AT_ONCE", 2)
    whole, stories, new = _kept(painter, tmp_path / "whole.sqlite")
    assert new == 4
    assert [flow.known.any() for flow in whole] == [True, True, True, False]
    calls = []

    def ended(model, to_ask, plans, **how):
        calls.append([str(plan) for plan in plans])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return analysis.flows(model, to_ask, plans, **how)

    monkeypatch.setattr(study, "flows", ended)
    with pytest.raises(KeyboardInterrupt):
        _kept(painter, tmp_path / "ended.sqlite")
    again, told, new = _kept(painter, tmp_path / "ended.sqlite")
    assert new == 2
    assert len(calls) == 3
    assert calls[2] == calls[1]
    assert [flow.value for flow in again] == [flow.value for flow in whole]
    assert [story.value for story in told] == [story.value for story in stories]
    assert _kept(painter, tmp_path / "ended.sqlite")[2] == 0
    assert len(calls) == 3


@pytest.mark.slow
def test_other_facts_and_windows_are_kept_beside(painter, tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    assert [_kept(painter, file, size=size)[2] for size in (None, 3, 2)] == [4, 0, 4]


@pytest.mark.slow
def test_a_store_of_flows_is_merged_and_has_a_report(painter, tmp_path: Path) -> None:
    flows, stories, _ = _kept(painter, tmp_path / "s.sqlite")
    merge.merge(tmp_path / "merged.sqlite", [tmp_path / "s.sqlite"])
    page = write_report(tmp_path / "merged.sqlite", tmp_path / "report").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"https?://(arxiv|www\.w3|vega\.github\.io/schema)\S+", "", page)
    assert "Eight questions" not in page
    assert page.count("<template data-plan=") == 4
    assert "The story of one prompt" in page
    # The full model is shown first, and beside it a plan that says the same.
    assert page.index('<option value="0" selected>full</option>') < page.index('<option value="1" selected>')
    assert stories[0].answer in page
    for verdict in flows[0].verdicts:
        assert verdict.words[1:].replace("'", "&#39;") in page
    assert f"{int(flows[0].known.sum())} of 12 facts known" in page
    windows = (tmp_path / "report" / "tables" / "flow-windows.csv").read_text(encoding="utf-8").splitlines()
    depth = [line for line in windows if line.startswith("full,steps around,4,subject,")]
    assert float(depth[0].split(",")[4]) == pytest.approx(flows[0].by_depth.value[4, 0])
    summary = (tmp_path / "report" / "summary.txt").read_text(encoding="utf-8")
    assert max(map(len, summary.splitlines())) <= 80
    assert "15-0" in summary


@pytest.mark.slow
def test_a_picture_says_each_of_its_words_once(painter, tmp_path: Path) -> None:
    """As the title of what it is about; a pointer, and the arrow keys, say it below."""
    told = _kept(painter, tmp_path / "s.sqlite")[1][0]
    page = write_report(tmp_path / "s.sqlite", tmp_path / "report").read_text(encoding="utf-8")
    picture = ElementTree.fromstring(re.search(STORY, page, flags=re.S).group())
    assert picture.get("tabindex") == "0"
    assert 'addEventListener("keydown"' in page
    circles = list(picture.iter("circle"))
    assert len(circles) == told.answer_logprob.size + told.change.size
    read = [line for line in picture.iter("line") if line.get("class") != "frame"]
    assert len(read) >= 5
    titles = [[title.text for title in each] for each in (*circles, *read)]
    assert all(len(own) == 1 and own[0].strip() for own in titles)
    attributes = [value for each in picture.iter() for value in each.attrib.values()]
    assert not {own[0] for own in titles} & set(attributes)
    answer = f"the answer “{told.answer.strip()}” {np.exp(told.answer_logprob[-1, -1]):.3f}"
    assert titles[told.answer_logprob.size - 1][0].endswith(answer)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium here, which runs the page's script")
def test_arrow_keys_go_from_dot_to_dot(painter, tmp_path: Path) -> None:
    """In a browser: to the first dot, right twice, left, down; another key moves nothing."""
    _kept(painter, tmp_path / "s.sqlite")
    page = write_report(tmp_path / "s.sqlite", tmp_path / "report")
    keys = ["ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "Enter"]
    script = f"""<script>
    const picture = document.querySelector(".story svg"), told = document.querySelector(".told"), said = [];
    for (const key of {keys}) {{
      picture.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      said.push(told.textContent);
    }}
    document.body.dataset.said = JSON.stringify(said);
    </script>"""
    page.write_text(page.read_text(encoding="utf-8") + script, encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}", "--dump-dom"]
    done = subprocess.run(["chromium", *options, page.as_uri()], capture_output=True, timeout=120, check=True)
    shown = done.stdout.decode()
    said = json.loads(html.unescape(re.search(r'data-said="(.*?)"', shown).group(1)))
    picture = ElementTree.fromstring(re.search(STORY, page.read_text(encoding="utf-8"), flags=re.S).group())
    dots = {(float(dot.get("cx")), float(dot.get("cy"))): dot[0].text for dot in picture.iter("circle")}
    top = min(y for _, y in dots)
    left = sorted(x for x, y in dots if y == top)
    below = sorted(y for x, y in dots if x == left[1])[1]
    went = [(left[0], top), (left[1], top), (left[2], top), (left[1], top), (left[1], below), (left[1], below)]
    assert [words.startswith(dots[at]) for words, at in zip(said, went, strict=True)] == [True] * 6, said
    assert len(set(said)) == 4
    assert shown.count('class="here"') == 1


@pytest.mark.slow
def test_what_differs_is_told_apart_and_one_prompt_is_told(painter, tmp_path: Path) -> None:
    """Other extras have another heading; and a store's story goes on with the prompt that it began with."""
    file = tmp_path / "s.sqlite"
    _, first, _ = _kept(painter, file)
    _kept(painter, file, extras=["patches"])
    to_ask = asked(painter, facts()[:12])
    with Store.open(file, create=False) as store:
        model_id = register(store, painter, _variants(), []).model_id
        place = told_before(store, model_id, to_ask)
        assert told_before(store, model_id, asked(painter, facts()[12:20])) is None
    assert place is not None
    assert facts()[place].answer == first[0].answer
    page = write_report(file, tmp_path / "report").read_text(encoding="utf-8")
    assert page.count("windows of 3, with patches. What") == page.count("windows of 3. What") == 1


@pytest.mark.slow
def test_what_was_asked_of_states_is_shown(painter, tmp_path: Path) -> None:
    """Figures and tables of the clock, of other places and of branches; a claim that does not hold, in words."""
    flows, _, _ = _kept(painter, tmp_path / "s.sqlite", extras=["clock"])
    page = write_report(tmp_path / "s.sqlite", tmp_path / "report").read_text(encoding="utf-8")
    for slug in ("clock", "clock-lens", "enrichment-places", "enrichment-branches"):
        assert f'id="figure-flow-{slug}"' in page
    (looped,) = (flow for flow in flows if str(flow.plan) == TEXTS[1])
    rows = {}
    for name in ("flow-clock", "flow-enrichment"):
        lines = (tmp_path / "report" / "tables" / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        rows[name] = [line.split(",") for line in lines if line.startswith(TEXTS[1])]
    tells = np.isfinite(looped.clock.reading.value[7])
    assert tells.any()  # of so few facts not every role
    for role, name in enumerate(ROLES):
        (row,) = (row for row in rows["flow-clock"] if row[1:3] == [name, "7"])
        assert float(row[3]) == pytest.approx(looped.clock.r2.value[0, role])
        assert float(row[8]) == pytest.approx(looped.clock.logit_lens.value[7, role])
        for column, mean in ((6, looped.clock.reading), (10, looped.clock.ridge_lens)):
            assert row[column] == "" or float(row[column]) == pytest.approx(mean.value[7, role])
            assert (row[column] == "") == (not tells[role])
    ends = [row for row in rows["flow-enrichment"] if row[1] == "branch"]
    assert len(ends) == 16 * 4
    assert float(ends[5 * 4 + 3][4]) == pytest.approx(looped.enriched.own_by_branch.value[5, 3])
    depth = next(verdict for verdict in flows[0].verdicts if verdict.claim == "layer")
    summary = (tmp_path / "report" / "summary.txt").read_text(encoding="utf-8")
    assert f"{depth.answer:<16}the clock is less than a layer off" in summary


@pytest.mark.slow
def test_flows_are_shown_once_beside_studies_of_two_kinds(painter, tmp_path: Path) -> None:
    file = tmp_path / "s.sqlite"
    _kept(painter, file)
    with Store.open(file, create=False) as store:
        about = register(store, painter, _variants(), [])
        for bos in ("off", "on"):
            how = {"version": "1", "num_fewshot": 0, "settings": {}, "chance": 0.0, "main_metric": "acc"}
            store.cells(about.model_id, store.task(name="t", bos=bos, **how), about.plan_ids)
    studies = read_store(file)
    assert [study.bos for study in studies] == ["off", "on"]
    assert [len(study.flows) for study in studies] == [4, 0]
    assert [len(study.stories) for study in studies] == [4, 0]


@pytest.mark.parametrize(
    ("change", "read"),
    [
        ([0, -10, -80, -90, -30, 31, -94, -50, 0], (6, 7)),
        ([-90, -80, 0, -44], (0, 1)),
        ([0, -4, 3], None),
        ([-9, -9, -9], (0, 2)),
    ],
)
def test_where_a_key_set_is_read_is_around_the_strongest_window(painter, change, read) -> None:
    story = told_of(painter)[0]
    shown = np.array(change, float)[:, None] * np.ones(3)
    assert replace(story, change=shown).read_at(0) == read


def told_of(painter):
    return stories(painter, asked(painter, facts()[:2]), 0, [Plan.parse("0-15")])


@pytest.mark.slow
def test_a_story_is_what_a_run_says(painter) -> None:
    """Against the run itself: what each state says, how sure it is of the answer, and when it appears."""
    to_ask = asked(painter, facts()[:3])
    plan = Plan.parse("0-3 {4-11}*2 12-15")
    (story,) = stories(painter, to_ask, 1, [plan])
    run = painter.run([to_ask.prompts[1].tokens], plan)
    answer = int(np.asarray(run.last_logits)[0].argmax())
    assert story.answer == painter.tokenizer.decode([answer])
    assert story.depths == tuple(range(11))
    assert story.labels[4] == "{4-11} 1/2"
    lens = run.logit_lens(1)
    for state in (0, 5, 10):
        said = [painter.tokenizer.decode([int(token)]) for token in lens.tokens[state, 0, :, 0]]
        assert list(story.said[state]) == said
    np.testing.assert_allclose(story.probability, np.exp(lens.logprobs[-1, 0, -1, 0]), rtol=1e-5)
    assert story.appears is not None
    assert all(said[-1] == story.answer for said in story.said[story.appears :])
    assert story.said[story.appears - 1][-1] != story.answer
    parts, _ = run.attribution_by_head()
    np.testing.assert_allclose(story.reads.sum(axis=0), parts[:, 0].sum(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(story.feed_forward.sum(), run.attribution().mlp.sum(), atol=1e-4)
    subject = story.read_at(0)
    assert subject is not None
    strongest = int(story.change[:, 0].argmin())
    assert subject[0] <= strongest <= subject[1]
