"""jaxpaint logits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import jaxpaint
from convert import store_for

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

TEXT = "She put the kettle back where she had"


def torch_logits(folder: Path, layers: Sequence[int]) -> torch.Tensor:
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    network.model.layers = torch.nn.ModuleList([network.model.layers[index] for index in layers])
    tokens = AutoTokenizer.from_pretrained(folder).encode(TEXT, return_tensors="pt")
    with torch.no_grad():
        return network(tokens, use_cache=False).logits[0, -1]


@pytest.mark.parametrize(
    ("options", "plan"),
    [([], "0-4"), (["--plan", "0 2*2 4"], "0 2*2 4"), (["--strategy", "skip-one", "--layer", 3], "0-2 4")],
)
@pytest.mark.few(1)
def test_the_top_tokens_are_torchs(run, folder, options, plan) -> None:
    store_for(folder)
    fixed = ("logits", "--model", folder, "--dtype", "float32", "--text", TEXT, "--top", 4)
    status, out, err = run(*fixed, *options)
    assert (status, err) == (0, "")
    head, _, *lines = out.splitlines()
    layers = jaxpaint.Plan.parse(plan).sequence()
    assert head == f"plan {plan} (cost {len(layers)}, depth {len(layers)} layers)"
    logits = torch_logits(folder, layers)
    best = torch.topk(logits, 4)
    assert [int(line.rsplit("(", 1)[1].rstrip(")")) for line in lines] == best.indices.tolist()
    assert [float(line.split()[0]) for line in lines] == pytest.approx(best.values.tolist(), abs=1e-3)
    chances = torch.softmax(logits, -1)[best.indices].tolist()
    assert [float(line.split()[1]) for line in lines] == pytest.approx(chances, abs=1e-4)


def test_mistakes(refused, store) -> None:
    common = ("logits", "--model", store)
    refused(*common, "--text", "", expected=("the text is empty",))
    refused(*common, "--text", "A", "--top", 0, expected=("0 tokens to show",))
    refused(*common, "--text", "A " * 100, expected=("tokens; the model's context holds 64",))
