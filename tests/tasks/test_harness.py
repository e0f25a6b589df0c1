"""Our lm-eval model beside lm-eval's own for transformers: the same weights, the same requests, the same numbers."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import AutoTokenizer

import jaxpaint as jp
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.engine.head import ModelOutputError
from jaxpaint.tasks.harness import PlanLM
from tests.helpers.tiny_folder import BOS, MAX_LENGTH, NUM_LAYERS, make_folder

TOLERANCE = 1e-4
LONG = " ".join(f"The lantern number {number} is in the harbour." for number in range(12))

PAIRS = {
    "plain": ("She put the kettle back", " where she had found it"),
    "empty context": ("", "The saddle is on the horse"),
    "empty context, spaces": ("", "  two spaces"),
    "one-token continuation": ("She put the", " kettle"),
    "another for the same context": ("She put the", " lantern"),
    "one byte": ("She put the kettle", "."),
    "one token of context": ("A", " compass and a ladder"),
    "context longer than the model": (LONG, " Where is the violin?"),
    "together just beyond the model": (LONG[:150], LONG[150:175]),
    "trailing space": ("She put the ", "kettle back"),
    "trailing spaces and a line": ("Question: Where?  \n ", "There."),
    "only spaces in the continuation": ("She put", "  "),
    "BOS in the text": (f"{BOS}She put the kettle", " back"),
    "BOS alone": (BOS, "She put the kettle back"),
    "BOS in the continuation": ("", f"{BOS}She put the kettle"),
    "BOS within": ("She put", f" the {BOS} kettle"),
    "not ASCII": ("Ça va\u202f? ", "Très bien, 谢谢 🙂"),
    "split inside a word": ("She put the ket", "tle back"),
    "the same again": ("She put the kettle back", " where she had found it"),
}
TEXTS = {
    "short": "She put the kettle back.",
    "one token": "A",
    "empty": "",
    "longer than the model": LONG,
    "much longer": LONG * 3,
    "begins with BOS": f"{BOS}She put the kettle back.",
    "begins with BOS, and long": BOS + LONG,
    "begins with a space": " She put the kettle back. ",
}
ADD_BOS_TOKEN = {"auto": None, "on": True, "off": False}


def requests(arguments: list[tuple[str, ...]], kind: Any) -> list[Instance]:
    return [Instance(kind, {}, each, index, metadata=("", 0, 1)) for index, each in enumerate(arguments)]


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as a Hugging Face folder and as a model of ours."""

    folder: Path
    model: jp.Model
    adds_bos: bool

    def ours(self, bos: Any, plan: str = f"0-{NUM_LAYERS - 1}") -> PlanLM:
        return PlanLM(self.model, jp.Plan.parse(plan), bos=bos, batch_tokens=256)

    def theirs(self, bos: str) -> HFLM:
        return HFLM(
            str(self.folder),
            dtype="float32",
            device="cpu",
            batch_size=4,
            add_bos_token=ADD_BOS_TOKEN[bos],
            # With it, lm-eval 0.4.13 takes wrong positions where two requests split one text in different places.
            logits_cache=False,
        )


@pytest.fixture(scope="module", params=[False, True], ids=["plain tokenizer", "tokenizer that adds BOS"])
def pair(request, tmp_path_factory) -> Pair:
    folder = make_folder(tmp_path_factory.mktemp("tiny") / "model", adds_bos=request.param)
    return Pair(folder, jp.load(convert(folder, folder.parent / "store"), dtype="float32"), request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Pair:
    folder = make_folder(tmp_path_factory.mktemp("plain") / "model")
    return Pair(folder, jp.load(convert(folder, folder.parent / "store"), dtype="float32"), False)


@pytest.mark.parametrize("bos", ADD_BOS_TOKEN)
class TestEqualsLmEvalsOwnBackend:
    @pytest.mark.few(1)
    def test_loglikelihood(self, pair: Pair, bos: str) -> None:
        asked = requests(list(PAIRS.values()), "loglikelihood")
        theirs = pair.theirs(bos).loglikelihood(asked, disable_tqdm=True)
        ours = pair.ours(bos).loglikelihood(asked)
        for name, (value, greedy), (expected, expected_greedy) in zip(PAIRS, ours, theirs, strict=True):
            assert value == pytest.approx(expected, rel=0, abs=TOLERANCE), name
            assert greedy == expected_greedy, name

    def test_greedy_continuations(self, pair: Pair, bos: str) -> None:
        theirs = pair.theirs(bos)
        asked = []
        for context in ("She put the kettle", "Where is the", "A"):
            tokens = theirs.tok_encode(context)
            best = int(theirs._model_call(theirs.model.dummy_inputs["input_ids"].new_tensor([tokens]))[0, -1].argmax())
            asked += [(context, token) for token in (theirs.tok_decode([best]), " lantern")]
        asked = requests(asked, "loglikelihood")
        expected = [greedy for _, greedy in theirs.loglikelihood(asked, disable_tqdm=True)]
        assert any(expected)
        assert not all(expected)
        assert [greedy for _, greedy in pair.ours(bos).loglikelihood(asked)] == expected

    @pytest.mark.few(1)
    def test_loglikelihood_rolling(self, pair: Pair, bos: str) -> None:
        asked = requests([(text,) for text in TEXTS.values()], "loglikelihood_rolling")
        assert len(pair.model.tokenizer.encode(LONG)) > 2 * MAX_LENGTH
        theirs = pair.theirs(bos).loglikelihood_rolling(asked, disable_tqdm=True)
        ours = pair.ours(bos).loglikelihood_rolling(asked)
        for name, value, expected in zip(TEXTS, ours, theirs, strict=True):
            assert value == pytest.approx(expected, rel=0, abs=TOLERANCE), name

    def test_encoding_and_whether_bos_was_added(self, pair: Pair, bos: str) -> None:
        ours, theirs = pair.ours(bos), pair.theirs(bos)
        for text in (*TEXTS.values(), *(context for context, _ in PAIRS.values())):
            assert ours.encoding.tokens(text) == theirs.tok_encode(text)
            assert ours.encoding.tokens(text, add_special_tokens=False) == theirs.tok_encode(
                text, add_special_tokens=False
            )
        assert ours.encoding.prefix_token_id == theirs.prefix_token_id
        assert ours.encoding.max_length == theirs.max_length == MAX_LENGTH
        assert ours.encoding.adds_bos == {"auto": pair.adds_bos, "on": True, "off": False}[bos]
        assert ours.encoding.adds_bos == (theirs.tok_encode("a")[0] == theirs.tokenizer.bos_token_id)


def test_bos_matters(plain: Pair) -> None:
    asked = requests([PAIRS["plain"]], "loglikelihood")
    (on, _), (off, _) = (plain.ours(bos).loglikelihood(asked)[0] for bos in ("on", "off"))
    assert abs(on - off) > 0.1


def test_a_plan_equals_lm_evals_own_backend_with_its_layers_rearranged(plain: Pair) -> None:
    import torch

    theirs = plain.theirs("auto")
    layers = theirs.model.model.layers
    theirs.model.model.layers = torch.nn.ModuleList([layers[index] for index in (0, 3, 2, 2, 4)])
    theirs.model.config.use_cache = False  # a cache would take the repeated layer's keys for earlier tokens
    asked = requests(list(PAIRS.values()), "loglikelihood")
    expected = theirs.loglikelihood(asked, disable_tqdm=True)
    assert plain.ours("auto", "0 3 2*2 4").loglikelihood(asked) == [
        (pytest.approx(value, rel=0, abs=TOLERANCE), greedy) for value, greedy in expected
    ]


def test_work_and_progress_are_told(plain: Pair) -> None:
    asked = requests(list(PAIRS.values()), "loglikelihood")
    totals, done = [], []

    def progress(total: int):
        totals.append(total)
        return done.append

    lm = PlanLM(plain.model, plain.model.full_plan, progress=progress)
    lm.loglikelihood(asked)
    (work,) = lm.work
    assert totals == [sum(done)] == [work.request_tokens]
    assert work.computed_tokens > 0


def test_nothing_to_score(plain: Pair) -> None:
    lm = plain.ours("auto")
    assert lm.loglikelihood([]) == lm.loglikelihood_rolling([]) == []


def test_a_plan_of_other_layers_is_refused(plain: Pair) -> None:
    with pytest.raises(jp.PlanError, match=f"the model has {NUM_LAYERS} layers"):
        plain.ours("auto", f"0-{NUM_LAYERS}")


def test_a_continuation_that_does_not_fit_is_refused(plain: Pair) -> None:
    with pytest.raises(UserError, match=f"does not fit into the model's {MAX_LENGTH} positions"):
        plain.ours("auto").loglikelihood(requests([("A", LONG)], "loglikelihood"))


def test_a_continuation_without_a_token_of_its_own_is_refused(plain: Pair) -> None:
    """It would have a probability of 1 under every plan; lm-eval's own backend stops at it, too."""
    with pytest.raises(UserError, match="has no token of its own, so there is nothing to score"):
        plain.ours("auto").loglikelihood(requests([("She put", "")], "loglikelihood"))


@pytest.fixture
def retokenized(plain: Pair, tmp_path):
    """Makes our model with a changed tokenizer."""

    def make(change) -> jp.Model:
        folder = make_folder(tmp_path / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        tokenizer.save_pretrained(folder)
        return jp.load(convert(folder, tmp_path / "store"), dtype="float32")

    return make


def test_a_token_beyond_the_vocabulary_is_refused(retokenized) -> None:
    model = retokenized(lambda tokenizer: tokenizer.add_tokens(["kettle"]))
    lm = PlanLM(model, model.full_plan)
    for pair in (("She put the kettle back", " there"), ("She put the ", "kettle")):
        with pytest.raises(UserError, match=rf"token id {model.config.vocab_size}.*vocabulary"):
            lm.loglikelihood(requests([pair], "loglikelihood"))
    lm.loglikelihood(requests([("She put", " it there")], "loglikelihood"))


def test_a_text_that_is_cut_is_no_cause_for_warnings(retokenized, caplog) -> None:
    model = retokenized(lambda tokenizer: setattr(tokenizer, "model_max_length", 8))
    lm = PlanLM(model, model.full_plan)
    logger = logging.getLogger("transformers")  # which keeps its records from the root logger
    logger.addHandler(caplog.handler)
    try:
        lm.loglikelihood(requests([(LONG, " A")], "loglikelihood"))
        lm.loglikelihood_rolling(requests([(LONG,)], "loglikelihood_rolling"))
        assert caplog.records == []
        model.tokenizer.encode(LONG)
        assert "longer than the specified maximum" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_a_tokenizer_without_bos(retokenized) -> None:
    model = retokenized(lambda tokenizer: setattr(tokenizer, "bos_token", None))
    lm = PlanLM(model, model.full_plan)
    assert not lm.encoding.adds_bos
    ((value, _),) = lm.loglikelihood(requests([("", "The saddle")], "loglikelihood"))
    targets = model.tokenizer.encode("The saddle")
    logprobs = jax.nn.log_softmax(model.logits(np.array([[model.tokenizer.eos_token_id, *targets[:-1]]]))[0])
    assert value == pytest.approx(float(logprobs[np.arange(len(targets)), np.array(targets)].sum()), abs=TOLERANCE)
    with pytest.raises(UserError, match=r"has no BOS token; use --bos off"):
        PlanLM(model, model.full_plan, bos="on")


def test_a_tokenizer_with_neither_bos_nor_eos_is_refused(retokenized) -> None:
    def change(tokenizer) -> None:
        tokenizer.bos_token = tokenizer.eos_token = None

    model = retokenized(change)
    with pytest.raises(UserError, match="neither a BOS nor an EOS token"):
        PlanLM(model, model.full_plan)


def test_nan_is_no_score(plain: Pair) -> None:
    state = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), plain.model.state)
    lm = PlanLM(dataclasses.replace(plain.model, state=state), plain.model.full_plan)
    for kind, arguments in (("loglikelihood", PAIRS["plain"]), ("loglikelihood_rolling", ("She put",))):
        with pytest.raises(ModelOutputError, match="no score was made"):
            getattr(lm, kind)(requests([arguments], kind))
