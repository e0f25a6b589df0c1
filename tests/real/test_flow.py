"""Facts that a real model knows (check 12 of the information-flow sheet), and how one of them flows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpaint.analysis.facts import Fact, encoded_fact, read_facts
from jaxpaint.analysis.flow import flows
from tests.helpers.real_assets import ASSETS, needs_assets

pytestmark = [pytest.mark.slow, needs_assets]

KNOWN = ASSETS.parent / "seeds" / "known_1000.json"
# Of each relation the facts whose prompt is its filled template, and how many were known to an earlier torch loop. The
# sheet names those by continent, capital, language and owner; that the others ask who develops something is read off
# its sums: with them they are its 210, and its 63.
RELATIONS = {"P30": (42, 25), "P36": (45, 18), "P37": (31, 15), "P127": (9, 0), "P176": (43, None), "P178": (40, None)}
KNOWN_IN_ALL = 63
BEATS = Fact("Beats Music is owned by", "Beats Music", "Apple")
EXAMPLES = "YouTube is owned by Google. Instagram is owned by Facebook. "


def _rank(model, before: str) -> tuple[int, float]:
    prompt, answer = encoded_fact(model.tokenizer, BEATS, before, bos=False)
    logits = np.asarray(model.logits(np.array([prompt.tokens])))[0, -1].astype(np.float64)
    return int((logits > logits[answer]).sum()), float(np.exp(logits[answer] - np.logaddexp.reduce(logits)))


def test_12_the_seeds_prompt(real_model) -> None:
    assert _rank(real_model, "")[0] == 28
    rank, probability = _rank(real_model, EXAMPLES)
    assert rank == 0
    assert probability == pytest.approx(0.245, abs=0.01)


def test_12_facts_that_are_known(real_model) -> None:
    every, entries, facts = 0, json.loads(Path(KNOWN).read_text(encoding="utf-8")), read_facts(KNOWN)
    for relation, (asked, known) in RELATIONS.items():
        chosen = [
            fact
            for entry, fact in zip(entries, facts, strict=True)
            if entry["relation_id"] == relation and entry["prompt"] == entry["template"].format(entry["subject"])
        ]
        assert len(chosen) == asked
        right = 0
        for fact in chosen:
            prompt, answer = encoded_fact(real_model.tokenizer, fact, bos=False)
            right += int(np.asarray(real_model.logits(np.array([prompt.tokens])))[0, -1].argmax()) == answer
        assert known is None or abs(right - known) <= 3
        every += right
    assert sum(asked for asked, _ in RELATIONS.values()) == 210
    assert abs(every - KNOWN_IN_ALL) <= 3


def test_the_seeds_prompt_is_drawn_by_a_script(real_model, tmp_path) -> None:
    script = Path(__file__).parents[2] / "examples" / "beats_music.py"
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1]), "MPLBACKEND": "agg"}
    command = [sys.executable, str(script), str(real_model.store)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("0-29: ' Apple', probability 0.3")
    assert (tmp_path / "beats_music.png").read_bytes()[1:4] == b"PNG"


def test_the_seeds_prompt_flows(real_model) -> None:
    (flow,) = flows(real_model, [BEATS], ["0-29"], before=EXAMPLES)
    assert flow.known.all()
    assert flow.everywhere.value[0, 0] < -30  # of the subject; -43 was measured
    assert flow.by_depth.value.shape == (30, 3)
