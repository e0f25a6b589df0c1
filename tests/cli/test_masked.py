"""jaxpaint masked: a table of plans, against score_masked's own oracle, and mistakes told in a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpaint.plans.plan import Plan
from tests.engine.test_masked import _one_by_one
from tests.helpers.tiny_glue import WORDS, tiny_store

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TEXTS = [" ".join(WORDS[3:9]), " ".join(WORDS[20:23])]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    return tiny_store(tmp_path_factory.mktemp("bert"))


@pytest.mark.slow
def test_a_table_of_plans(run, bert, tmp_path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text(f"{TEXTS[0]}\n\n{TEXTS[1]}\n")
    plans = ("--strategies", "skip", "--starts", 1, "--plan", "0 2*2 4")
    status, out, err = run("masked", "--model", bert, "--dtype", "float32", "--text-file", file, *plans)
    assert (status, err) == (0, "")
    first, heading, *rows = out.splitlines()
    assert first == "2 texts, 9 tokens masked, float32"
    assert heading.split() == ["log-prob.", "accuracy", "strategy", "plan"]
    names = [("full", "0-4"), ("skip start=1", "0 1 4"), ("0 2*2 4", "0 2*2 4")]
    tokens = [[2, *(5 + WORDS.index(word) for word in text.split()), 3] for text in TEXTS]
    for row, (label, plan) in zip(rows, names, strict=True):
        mean, share, rest = row.split(maxsplit=2)
        assert rest.split() == [*label.split(), *plan.split()]
        scores = [_one_by_one(text, Plan.parse(plan)) for text in tokens]
        assert float(mean) == pytest.approx(sum(total for total, _ in scores) / 9, abs=6e-4)
        assert float(share) == pytest.approx(sum(found for _, found in scores) / 9, abs=6e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("there is no text to score; give --text or --text-file",)),
        (("--text", "w1 " * 60), ("text 1 of 1 has 62 tokens, more than the model's 40 positions",)),
        (("--text", ""), ("text 1 of 1 holds special tokens alone",)),
        (("--text", "w1", "--text", "w1 [MASK]"), ("text 2 of 2 holds [MASK] itself; give texts without masks",)),
        (("--text", "w1", "--plan", "0-9"), ("the model has 5 layers",)),
        (("--text", "w1", "--strategies", "skipp"), ("did you mean skip",)),
        (("--text", "w1", "--seeds", "3"), ("--seeds is of strategy random",)),
        (("--text-file", "absent.txt"), ("absent.txt",)),
    ],
)
def test_mistakes_are_one_line(refused, bert, options, expected) -> None:
    refused("masked", "--model", bert, *options, expected=expected)


def test_a_file_without_texts(refused, bert, tmp_path) -> None:
    (tmp_path / "texts.txt").write_text(" \n\n")
    refused("masked", "--model", bert, "--text-file", tmp_path / "texts.txt", expected=("has no text",))


def test_a_decoder_is_told(refused, store) -> None:
    refused("masked", "--model", store, "--text", "She put", expected=("this llama checkpoint has no masked-LM head",))
