"""What a loaded model does in one call: text, scores, studies; beside the rooms that do it piece by piece."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxpaint as jp
from jaxpaint.base.bundled import TASKS
from jaxpaint.tasks.harness import PlanLM
from jaxpaint.tasks.load import evaluate, load_tasks
from tests.helpers.decoders import make_tiny

QUESTION = "question : what is the animal of lumor ? answer :"
OTHER = "question : what is the dish of tirud ? answer :"
SKIP, LOOP = "0-3 8-15", "0-3 {4-11}*2 12-15"
LIMIT = 12


@pytest.fixture(scope="module")
def model() -> jp.Model:
    return jp.load("painter-16")


@pytest.fixture(scope="module")
def study(model: jp.Model) -> jp.Study:
    return model.study([LOOP, jp.Plan(SKIP)], tasks=["painter_places", "painter_work"], limit=LIMIT)


def greedy(model: jp.Model, text: str, plan: str, new: int) -> tuple[int, ...]:
    tokens = model.tokenizer.encode(text)
    for _ in range(new):
        padded = np.zeros((1, 24), np.int32)
        padded[0, : len(tokens)] = tokens
        tokens = [*tokens, int(model.logits(padded, plan, [len(tokens)])[0, len(tokens) - 1].argmax())]
    return tuple(tokens[-new:])


@pytest.mark.slow
def test_texts_come_in_the_order_asked(model: jp.Model) -> None:
    plans = [LOOP, jp.Plan("0-15"), SKIP, LOOP]
    found = model.generate([OTHER, QUESTION], plans, max_new_tokens=3)
    assert [str(each.plan) for each in found] == 2 * list(map(str, plans))
    for each, text in zip(found, [OTHER] * 4 + [QUESTION] * 4, strict=True):
        assert each.prompt.tokens == tuple(model.tokenizer.encode(text))
        assert each.tokens == greedy(model, text, str(each.plan), 3)
        assert str(each) == each.text == model.tokenizer.decode(each.tokens)
    assert len({each.text for each in found}) > 2
    assert re.fullmatch(r"Written\(plan='0-15', text='.*', ending='length'\)", repr(found[1]))


@pytest.mark.slow
def test_prompts_may_be_tokens_and_end_at_strings(model: jp.Model) -> None:
    tokens = model.tokenizer.encode(QUESTION)
    (of_text,) = jp.generate(model, QUESTION, max_new_tokens=3, stop=" .")
    (of_tokens,) = jp.generate(model, tokens, "0-15", max_new_tokens=3, stop=[" ."])
    (of_prompt,) = jp.generate(model, jp.Prompt(tuple(tokens), 3, (" .",)))
    assert of_text.text == of_tokens.text == of_prompt.text == "hare"
    assert of_text.ending == "stop"


@pytest.mark.slow
def test_scores_are_lm_evals_own(model: jp.Model) -> None:
    tasks = ["painter_places", "painter_facts"]
    found = model.evaluate(tasks, LOOP, limit=LIMIT)
    oracle = evaluate(PlanLM(model, jp.Plan(LOOP)), load_tasks(tasks), limit=LIMIT)["results"]
    frame = found.frame()
    for row in frame.itertuples():
        assert row.value == oracle[row.task][f"{row.metric},{row.filter}"]
        assert row.documents == LIMIT
    assert set(frame["metric"]) == {"acc", "acc_norm", "perplexity"}
    assert found["painter_facts"] == oracle["painter_facts"]["acc_norm,none"]
    assert f"painter_places acc {found['painter_places']:.4g}" in repr(found)
    with pytest.raises(jp.UserError, match="no score of 'arc'; the tasks are painter_places, painter_facts"):
        found["arc"]


def test_a_study_is_the_scores_of_each_plan(model: jp.Model, study: jp.Study) -> None:
    frame = study.frame()
    assert frame["plan"].tolist() == 2 * ["0-15", LOOP, SKIP]  # the full model, which was not asked for, first
    assert frame["task"].tolist() == 3 * ["painter_places"] + 3 * ["painter_work"]
    for row in frame.itertuples():
        assert row.value == pytest.approx(model.evaluate(row.task, row.plan, limit=LIMIT)[row.task])
        assert (row.cost, row.depth) == (jp.Plan(row.plan).cost, jp.Plan(row.plan).depth)
        assert row.documents == LIMIT
    values = frame.pivot(index="plan", columns="task", values="value")
    differences = frame.pivot(index="plan", columns="task", values="difference")
    assert np.allclose(differences, values - values.loc["0-15"])
    assert differences.loc[SKIP].min() < 0
    assert repr(study).startswith("Study(painter-16: 3 plans, 6 of 6 results finished")


def test_a_difference_has_the_error_of_its_documents(model: jp.Model, study: jp.Study) -> None:
    def right(plan: str) -> np.ndarray:
        task = load_tasks(["painter_places"])
        samples = evaluate(PlanLM(model, jp.Plan(plan)), task, limit=LIMIT, log_samples=True)["samples"]
        return np.array([each["acc"] for each in samples["painter_places"]], float)

    difference = right(SKIP) - right("0-15")
    row = study.frame().query("plan == @SKIP and task == 'painter_places'").iloc[0]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["difference_stderr"] == pytest.approx(difference.std(ddof=1) / np.sqrt(LIMIT))


@pytest.mark.slow
def test_a_study_is_drawn_and_reported(study: jp.Study, tmp_path: Path) -> None:
    figure = study.plot()
    assert [panel.get_title() for panel in figure.axes] == ["painter_places", "painter_work"]
    drawn = {tuple(point) for point in figure.axes[0].lines[0].get_xydata()}
    own = study.frame().query("task == 'painter_places'")
    assert drawn == set(zip(own["cost"], own["value"], strict=True))
    assert {text.get_text() for text in figure.axes[0].texts} == {"full", LOOP, SKIP}
    assert SKIP in study.report(tmp_path / "report").read_text()


def test_a_store_of_ones_own_is_kept_and_a_temporary_one_is_not(model: jp.Model, tmp_path: Path) -> None:
    store = tmp_path / "own.sqlite"
    first = jp.study("painter-16", strategies="skip", starts=(6, 7), tasks="painter_sales", limit=5, store=store)
    assert first.frame()["label"].tolist() == ["full", "skip start=6", "skip start=7"]
    again = jp.study(model, "0-15", tasks="painter_sales", limit=5, store=str(store))
    assert again.summary.work.executed == 0
    assert again.frame()["plan"].tolist() == ["0-15"]  # what was asked, not what the store knows
    gone = model.study("0-15", tasks="painter_sales", limit=5)
    path = gone.store
    assert path.exists()
    del gone
    assert not path.exists()
    assert store.exists()


@pytest.mark.slow
def test_written_answers_come_in_their_place(model: jp.Model) -> None:
    frame = model.study(SKIP, tasks=["painter_arithmetic", "painter_sales"], limit=4).frame()
    assert frame["task"].tolist() == 2 * ["painter_arithmetic"] + 2 * ["painter_sales"]
    assert frame["metric"].tolist() == 2 * ["exact_match"] + 2 * ["acc"]
    assert frame["difference"].iloc[1] == frame["value"].iloc[1] - frame["value"].iloc[0]


@pytest.mark.slow
def test_questions_of_ones_own(model: jp.Model, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (TASKS / "painter_facts.jsonl").read_text().splitlines()[:10]]
    file = tmp_path / "mine.jsonl"
    file.write_text(
        "".join(
            json.dumps({"ask": line["question"].removesuffix(" answer :"), "of": line["choices"], "right": right})
            + "\n"
            for line in lines
            for right in [line["choices"][line["gold"]]]
        )
    )
    mine = jp.multiple_choice(file, question="{{ask}} answer :", choices="of", answer="right")
    bundled = {"limit": 10, "plan": SKIP}
    assert model.evaluate(mine, SKIP).results["results"]["mine"]["acc,none"] == pytest.approx(
        model.evaluate("painter_facts", **bundled).results["results"]["painter_facts"]["acc,none"]  # type: ignore[arg-type]
    )
    frame = model.study(SKIP, tasks=[mine, "painter_facts"], limit=10).frame()
    own, theirs = (frame.query("task == @name")["value"].tolist() for name in ("mine", "painter_facts"))
    assert own == theirs
    for wrong, said in [
        (
            jp.multiple_choice(file, choices="of", answer="right"),
            "no column 'question'; its columns are ask, of, right",
        ),
        (jp.multiple_choice(file, question="ask", choices="of", answer="ask"), "none of its choices"),
    ]:
        with pytest.raises(jp.UserError, match=said):
            model.evaluate(wrong)
    with pytest.raises(jp.UserError, match="two tasks are called 'mine'"):
        model.evaluate([mine, jp.multiple_choice(file, question="ask", choices="of", answer="right")])
    with pytest.raises(jp.UserError, match="no file"):
        jp.multiple_choice(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda model: model.study(["0-99"], tasks="painter_facts"), "the model has 16 layers"),
        (lambda model: model.study([3], tasks="painter_facts"), "plans is (3,); expected a list of texts"),
        (lambda model: model.study(3, tasks="painter_facts"), "plans is (3,); expected a list of texts"),
        (lambda model: model.study("0-9", tasks="painter_fact"), "near names: painter_facts"),
        (lambda model: model.study("0-9", tasks="painter_facts", seds=3), "did you mean seeds or seed?"),
        (
            lambda model: model.study("0-9", tasks="painter_facts", dtype="bfloat16"),
            "dtype is of a model that is to be",
        ),
        (lambda model: model.study("0-9", tasks=[]), "a study needs tasks"),
        (lambda model: model.study("0-9", tasks="painter_facts", store=5), "store is 5; expected the name of a file"),
        (lambda model: model.evaluate("painter_facts", 3), "plan is 3; give a jaxpaint.Plan or its text"),
        (lambda model: model.evaluate("painter_facts", data=3), "data is 3"),
        (lambda model: model.generate(QUESTION, "0-"), "column"),
        (lambda model: model.evaluate(None), "tasks is None"),
        (lambda model: model.evaluate("painter_facts", limit="5"), "limit is 5; expected a number"),
        (lambda model: model.generate(QUESTION, max_new_tokens=0), "0 new tokens"),
        (lambda model: model.generate(QUESTION, max_new_tokens="2"), "'2' new tokens after"),
        (lambda model: model.generate(QUESTION, max_new_tokens=2.5), "2.5 new tokens after"),
        (lambda model: model.generate([[1, 2.5]]), "after (1, 2.5): how many tokens, and their ids, are whole"),
        (lambda model: model.generate(b"the red"), "prompts is b'the red'; give a text"),
        (lambda model: model.generate([b"the red"]), "a prompt is b'the red'; give a text"),
        (lambda model: model.generate(5), "prompts is 5; give a text"),
        (lambda model: model.generate("the \ud83d"), "text 1 of 1 has half of a surrogate pair, \\ud83d, which is no"),
        (lambda model: model.logits(["the", "\udc80"]), "text 2 of 2 has half of a surrogate pair, \\udc80"),
        (lambda model: jp.most_likely_next(model, model.full_plan, "\ud83d"), "the text has half of a surrogate pair"),
        (lambda model: model.generate(QUESTION, stop=5), "stop is 5; give a text"),
        (lambda model: model.generate(QUESTION, sampling=0.8), "sampling is 0.8; give a jaxpaint.Sampling"),
        (lambda model: jp.Sampling(temperature="warm"), "temperature is 'warm'; expected a number"),  # type: ignore[arg-type]
        (lambda model: jp.load(None), "model is None; give a hub id"),  # type: ignore[arg-type]
        (lambda model: jp.load(""), "model is ''; give a hub id"),
        (lambda model: jp.StudySpec("m", Path("s"), plans=3), "plans is 3; expected a list of texts"),  # type: ignore[arg-type]
    ],
)
def test_mistakes_are_told(model: jp.Model, wrong, said: str) -> None:
    with pytest.raises(jp.UserError, match=re.escape(said)):
        wrong(model)


def test_a_spec_takes_what_python_has() -> None:
    own = {"plans": (jp.Plan("0-3"), "4  5"), "data": {"a": Path("a.jsonl")}, "tasks": "a,b", "store": "s"}
    spec = jp.StudySpec("m", **own)  # type: ignore[arg-type]
    assert (spec.plans, spec.data, spec.tasks, spec.store) == (("0-3", "4 5"), ("a=a.jsonl",), ("a", "b"), Path("s"))


@pytest.mark.slow
def test_a_model_in_one_line(model: jp.Model) -> None:
    assert repr(model) == "Model('painter-16', llama, 16 layers, hidden size 96, 1.8M parameters, float32, cpu)"
    assert repr(make_tiny("grouped-query").model).startswith("Model('in memory', llama, ")


@pytest.mark.slow
def test_prompts_may_be_arrays(model: jp.Model) -> None:
    tokens = model.tokenizer.encode(QUESTION)
    for array in (np.array(tokens), np.array([tokens]), jnp.array(tokens)):
        (written,) = model.generate(array, max_new_tokens=2)
        assert (written.prompt.tokens, str(written)) == (tuple(tokens), "hare .")


@pytest.mark.slow
def test_one_name_may_stand_for_a_list(model: jp.Model) -> None:
    (of_one,), (of_list,) = jp.analyse(model, QUESTION, SKIP), jp.analyse(model, [QUESTION], [SKIP])
    assert np.array_equal(of_one.similarity, of_list.similarity)
    assert model.run(QUESTION, keep="states").states.shape[0] == 17  # type: ignore[arg-type]


@pytest.mark.slow
def test_proposals_and_analyses_take_texts(model: jp.Model) -> None:
    texts = [QUESTION, OTHER]
    tokens = [model.tokenizer.encode(text) for text in texts]
    plans = [jp.propose(model, "drop-by-influence", each, count=3).plan for each in (texts, tokens)]
    assert plans[0] == plans[1]
    (of_text,), (of_tokens,) = (jp.analyse(model, each, [SKIP]) for each in (texts, tokens))
    assert np.array_equal(of_text.similarity, of_tokens.similarity)
