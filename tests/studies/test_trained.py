"""Where trainings keep what they go on from: folders of names that older trainings are found under."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxpaint.plans.plan import Plan
from jaxpaint.studies import finetune, glue
from jaxpaint.studies.glue_cells import GlueRequests
from jaxpaint.tasks.glue import Examples, glue_task
from jaxpaint.training.settings import DECODER, ENCODER

MODEL: Any = SimpleNamespace(manifest={"fingerprint": "abc"}, dtype="float32")
PLAN = Plan.parse("0 3-1 4")


def test_a_decoders() -> None:
    how = {"version": 1, "trained_on": "some", **DECODER.of_decoder()}
    requests: Any = SimpleNamespace(name="arc_challenge", bos="on", settings={"finetuned": how})
    assert finetune.folder_name(MODEL, requests, PLAN) == "bc330654594d4bec1a3dde1e1dc32e82"


def test_an_encoders() -> None:
    examples = Examples((("It rains.", "It is wet."), ("Né.", "Nein.")), np.array([0, 1], np.int32))
    requests = GlueRequests(glue_task("rte"), examples, examples)
    assert glue.folder_name(MODEL, requests, ENCODER, PLAN) == "032f8055ed876e72e97ac83ca5ac1f0a"
